"""The backend for root: an OCI container by crun, in cgroups and a network namespace that are made once for each slot.

What a job can write is one bounded tmpfs; the image is read-only, so no overlay is needed (a job without privilege could
write nowhere else in it anyway).
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends import cgroups, seccomp, wire
from k15.sandbox.backends.held import hold
from k15.sandbox.backends.launcher import Seat
from k15.sandbox.backends.native import binary
from k15.sandbox.backends.slots import Slots
from k15.sandbox.images.store import Images
from k15.sandbox.job import Job, Limits, Outcome

UID = 65534
TICK_S = 0.02
_MFD_EXEC = 0x10  # from Linux 6.3 on
_READ_ONLY = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list")


@dataclass
class _Slot:
    """The groups, the network namespace (held open by a descriptor) and the written configurations of one slot."""

    seat: Seat
    network: int
    folder: Path
    configs: dict[tuple[str, int, int], Path] = field(default_factory=dict)


class Crun:
    """See `k15.sandbox.job.Backend`. Raises SandboxError where it is not run by root or lacks crun or cgroups."""

    name = "crun"
    memory_is_hard = True

    def __init__(self, images: Images | None = None) -> None:
        program = shutil.which("crun")
        if program is None:
            raise SandboxError("the crun backend needs crun; install the package crun")
        if os.geteuid() != 0:
            raise SandboxError("the crun backend needs root; ordinary users have the backend bubblewrap")
        self._images = images if images is not None else Images()
        self._filter = seccomp.program()
        self._init, self._launch = binary("init"), binary("launch")
        self._places = cgroups.find()
        cgroups.sweep()
        name = f"k15-crun-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder = Path("/run" if os.access("/run", os.W_OK) else tempfile.gettempdir()) / name
        self._nest = cgroups.Nest(self._places, name)
        self._held = hold(self._folder)
        self._state = self._folder / "state"  # what crun writes down
        self._state.mkdir()
        try:
            self._mounts = _namespace(self._launch, "mnt", self._state)
        except SandboxError:
            self._nest.close()
            shutil.rmtree(self._folder)
            os.close(self._held)
            raise
        self._sealed = _sealed(Path(program))
        self._crun = program if self._sealed is None else f"/proc/{os.getpid()}/fd/{self._sealed}"
        self._names = count()
        self._slots: Slots[_Slot] = Slots(self._make, self._remove)

    def run(self, job: Job) -> Outcome:
        """Run the job to its end; blocking, from any thread. Raises SandboxError for an unknown image or a wrong path."""
        rootfs = self._images.rootfs(job.image)
        request = wire.request(job, self._filter, mount_tmp=False, watch_memory=False, watch_processes=False, tick_s=TICK_S)
        with self._slots.one() as slot:
            return slot.seat.run(self._command(slot, rootfs, job.limits), request, job)

    def close(self) -> None:
        """Remove cgroups, namespaces and files. No job may be running."""
        self._slots.close()
        self._nest.close()
        os.close(self._mounts)
        if self._sealed is not None:
            os.close(self._sealed)
        shutil.rmtree(self._folder)
        os.close(self._held)

    def _command(self, slot: _Slot, rootfs: Path, limits: Limits) -> list[str]:
        return [
            self._crun, "--root", str(self._state), "--cgroup-manager", "disabled", "run", "--bundle", str(slot.folder),
            "--config", str(self._config(slot, rootfs, limits)), f"{self._folder.name}-{next(self._names)}",
        ]  # fmt: skip

    def _config(self, slot: _Slot, rootfs: Path, limits: Limits) -> Path:
        key = (str(rootfs), limits.disk_mb, limits.files)
        if key not in slot.configs:
            path = slot.folder / f"{len(slot.configs)}.json"
            network = f"/proc/{os.getpid()}/fd/{slot.network}"
            path.write_text(json.dumps(config(rootfs, self._init, network, limits.disk_mb, limits.files)))
            slot.configs[key] = path
        return slot.configs[key]

    def _make(self, number: int) -> _Slot:
        network = _namespace(self._launch, "net", self._state)
        folder = self._folder / f"slot-{number}"
        try:
            enter = ["-m", f"/proc/{os.getpid()}/fd/{self._mounts}"]
            seat = Seat(self._nest, folder.name, self._launch, enter)
        except (SandboxError, OSError):
            os.close(network)
            raise
        folder.mkdir()
        return _Slot(seat, network, folder)

    def _remove(self, slot: _Slot) -> None:
        try:
            slot.seat.remove()
        finally:
            os.close(slot.network)
            shutil.rmtree(slot.folder)


def config(rootfs: Path, init: Path, network: str, disk_mb: int, files: int) -> dict[str, object]:
    """The OCI configuration of an empty sandbox that waits for its job. `network`: path of a network namespace."""
    disk = ["nosuid", "nodev", f"size={disk_mb}m", f"nr_inodes={files}", "mode=0755", f"uid={UID}", f"gid={UID}"]
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False, "user": {"uid": UID, "gid": UID}, "args": ["/dev/init"], "env": [], "cwd": "/",
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "sandbox",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": disk},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": [*disk, "noexec"]},
            {"destination": "/dev/init", "type": "bind", "source": str(init), "options": ["bind", "ro", "nosuid"]},
        ],
        "linux": {
            "namespaces": [
                *({"type": t} for t in ("pid", "ipc", "uts", "mount", "cgroup")),
                {"type": "network", "path": network},
            ],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }  # fmt: skip


def _sealed(program: Path) -> int | None:
    """A copy of crun in memory that nobody can write to; None where this kernel executes no such file.

    crun makes one of itself at each start, and executes it, unless it is one already: so that nothing inside can write to the
    host's program through /proc/self/exe (CVE-2019-5736). Made once here, it saves a start a second exec and two mounts.
    """
    for flags in (_MFD_EXEC, 0):
        try:
            sealed = os.memfd_create("k15-crun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
            break
        except OSError as e:
            if e.errno != errno.EINVAL:  # vm.memfd_noexec
                return None
    else:
        return None
    data = memoryview(program.read_bytes())
    while data:
        data = data[os.write(sealed, data) :]
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    if os.access(f"/proc/self/fd/{sealed}", os.X_OK):
        return sealed
    os.close(sealed)
    return None


def _namespace(launch: Path, kind: str, state: Path) -> int:
    """A descriptor that keeps a new namespace ("mnt" or "net") alive without any process in it; in "mnt" `state` is a tmpfs."""
    keeper = subprocess.Popen(
        [launch, "-M", state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, bufsize=0
    )
    try:
        if keeper.stdout.read(1) != b"r":
            raise SandboxError(f"no namespace for the sandbox: {keeper.stderr.read().decode(errors='replace').strip()}")
        return os.open(f"/proc/{keeper.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        keeper.communicate()
