"""The backend for ordinary users: bubblewrap sets up the namespaces, init the disk, the limits and the filter.

Root is never used: started by root it drops to an ordinary uid first, since a job mapped onto root's uid could read what
root owns. Where cgroups can be made they hold the memory; elsewhere init watches it, every few milliseconds.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends import seccomp, wire
from k15.sandbox.backends.cgroups import Group, Nest, find, sweep
from k15.sandbox.backends.exchange import exchange
from k15.sandbox.backends.native import binary
from k15.sandbox.backends.slots import Slots
from k15.sandbox.images.store import Images, open_to_others
from k15.sandbox.job import Job, Outcome

UID = 65534  # inside
DROPPED_UID = 1_796_538_368  # outside, where root starts it; belongs to nobody
TICK_S = 0.005
_DEVICES = ("null", "full", "random", "urandom")  # not zero: a shared mapping of it is memory that nobody counts
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


class Bubblewrap:
    """See `k15.sandbox.job.Backend`. `groups`: None uses cgroups where this process may make them, False never, True must.

    `tracing`: for a judge that sandboxes by itself (see `seccomp.program`).
    Raises SandboxError where bwrap, the filter, the compiled init or (with groups=True) a writable cgroup is missing.
    """

    name = "bubblewrap"

    def __init__(self, images: Images | None = None, *, groups: bool | None = None, tracing: bool = False) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("the bubblewrap backend needs bwrap; install the package bubblewrap")
        self._bwrap = program
        self._images = images if images is not None else Images()
        self._filter = seccomp.program(tracing)
        self._init, self._launch = binary("init"), binary("launch")
        self._dropped = dropped()
        self._nest = None if groups is False else _nest(must=groups is True)
        self.memory_is_hard = self._nest is not None
        self._slots: Slots[Group] | None = None
        if self._nest is not None:
            self._slots = Slots(lambda number: self._nest.group(f"slot-{number}"), Group.remove)

    def run(self, job: Job) -> Outcome:
        """Run the job to its end; blocking, from any thread. Raises SandboxError for an unknown image or a wrong path."""
        bwrap = command(self._bwrap, self._images.rootfs(job.image), {"/dev/init": self._init}, ["/dev/init"])
        watch = self._slots is None
        request = wire.request(
            job, self._filter, mount_tmp=True, watch_memory=watch, watch_processes=True, tick_s=TICK_S if watch else 4 * TICK_S
        )
        if self._slots is None:
            return exchange([*self._dropped, *bwrap], request, job)
        with self._slots.one() as group:
            enter = [str(self._launch), *(word for path in group.entrances for word in ("-c", str(path))), "--"]
            return group.bound(job, lambda: exchange([*enter, *self._dropped, *bwrap], request, job))

    def close(self) -> None:
        """Remove the cgroups, where there are any. No job may be running."""
        if self._slots is not None:
            self._slots.close()
            self._nest.close()


def _nest(must: bool) -> Nest | None:
    try:
        sweep()
        return Nest(find(), f"k15-bwrap-{os.getpid()}-{secrets.token_hex(4)}")
    except SandboxError:
        if must:
            raise
        return None  # `guarantees` says that memory is watched and not held


def dropped() -> list[str]:
    """The words before a command that must not run as root: none for an ordinary user."""
    if os.geteuid() != 0:
        return []
    closed = open_to_others(binary("launch"))
    if closed is not None:
        raise SandboxError(
            f"{closed} is closed to other users, and the sandbox does not run as root; set K15_CACHE_DIR elsewhere"
        )
    return [str(binary("launch")), "-u", str(DROPPED_UID), "--"]


def command(bwrap: str, rootfs: Path, inside: Mapping[str, Path], run: Sequence[str], *, capable: bool = True) -> list[str]:
    """The bwrap command line of an empty sandbox that waits for its job: depends on the image alone.

    `inside`: path below /dev -> file of the host to be seen there; `run`: process 1. `capable`: it may mount (init gives the
    right up once the disk is mounted).
    """
    words = [
        bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--uid", str(UID), "--gid", str(UID), "--hostname", "sandbox", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL",
        *(["--cap-add", "CAP_SYS_ADMIN"] if capable else []), "--ro-bind", str(rootfs), "/", "--proc", "/proc", "--tmpfs", "/dev",
    ]  # fmt: skip
    for device in _DEVICES:
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for link, target in _LINKS.items():
        words += ["--symlink", target, f"/dev/{link}"]
    for path, source in inside.items():
        words += ["--ro-bind", str(source), path]
    return [*words, "--symlink", "/tmp/shm", "/dev/shm", "--remount-ro", "/dev", "--chdir", "/", "--", *run]
