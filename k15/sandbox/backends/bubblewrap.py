"""The backend for ordinary users: bubblewrap sets up the namespaces, init the disk, the limits and the filter.

Root is never used: started by root it drops to an ordinary uid first, since a job mapped onto root's uid could read what
root owns. No cgroup is needed: the memory of all processes is watched by init (see `guarantees`).
"""

import os
import shutil
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends import seccomp, wire
from k15.sandbox.backends.exchange import exchange
from k15.sandbox.backends.native import binary
from k15.sandbox.images.store import Images, open_to_others
from k15.sandbox.job import Job, Outcome

UID = 65534  # inside
DROPPED_UID = 1_796_538_368  # outside, where root starts it; belongs to nobody
TICK_S = 0.005
_DEVICES = ("null", "full", "random", "urandom")  # not zero: a shared mapping of it is memory that nobody counts
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


class Bubblewrap:
    """See `k15.sandbox.job.Backend`. Raises SandboxError where bwrap, the filter or the compiled init is missing."""

    name = "bubblewrap"

    def __init__(self, images: Images | None = None) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("the bubblewrap backend needs bwrap; install the package bubblewrap")
        self._bwrap = program
        self._images = images if images is not None else Images()
        self._filter = seccomp.program()
        self._init = binary("init")
        self._prefix: list[str] = []
        if os.geteuid() == 0:
            closed = open_to_others(self._init)
            if closed is not None:
                raise SandboxError(
                    f"{closed} is closed to other users, and the sandbox does not run as root; set K15_CACHE_DIR elsewhere"
                )
            self._prefix = [str(binary("launch")), "-u", str(DROPPED_UID), "--"]

    def run(self, job: Job) -> Outcome:
        """Run the job to its end; blocking, from any thread. Raises SandboxError for an unknown image or a wrong path."""
        rootfs = self._images.rootfs(job.image)
        request = wire.request(
            job, self._filter, mount_tmp=True, watch_memory=True, watch_processes=True, tick_s=TICK_S
        )  # fmt: skip
        return exchange([*self._prefix, *command(self._bwrap, rootfs, self._init)], request, job)

    def close(self) -> None:
        """Nothing is kept between jobs."""


def command(bwrap: str, rootfs: Path, init: Path) -> list[str]:
    """The bwrap command line of an empty sandbox that waits for its job: depends on the image alone."""
    words = [
        bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--uid", str(UID), "--gid", str(UID), "--die-with-parent", "--as-pid-1",
        "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN",  # for init alone, in its own user namespace: it mounts the disk
        "--ro-bind", str(rootfs), "/", "--proc", "/proc", "--tmpfs", "/dev",
    ]  # fmt: skip
    for device in _DEVICES:
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for link, target in _LINKS.items():
        words += ["--symlink", target, f"/dev/{link}"]
    words += ["--symlink", "/tmp/shm", "/dev/shm", "--ro-bind", str(init), "/dev/init", "--remount-ro", "/dev"]
    return [*words, "--chdir", "/", "--", "/dev/init"]
