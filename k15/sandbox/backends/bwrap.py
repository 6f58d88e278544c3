"""The command line of bubblewrap: an empty sandbox, never as root."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends.native import binary
from k15.sandbox.images.store import open_to_others

UID = 65534  # inside
DROPPED_UID = 1_796_538_368  # outside, where root starts it; belongs to nobody
_DEVICES = ("null", "full", "random", "urandom")  # not zero: a shared mapping of it is memory that nobody counts
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


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


def command(
    bwrap: str, rootfs: Path, inside: Mapping[str, Path], run: Sequence[str], *, capable: bool = True, bound: bool = True
) -> list[str]:
    """The bwrap command line of an empty sandbox that waits for its job: depends on the image alone.

    `inside`: path below /dev -> file of the host to be seen there; `run`: process 1. `capable`: it may mount (init gives the
    right up once the disk is mounted). `bound`: it is killed when the THREAD that started it ends (PR_SET_PDEATHSIG).
    """
    words = [
        bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--uid", str(UID), "--gid", str(UID), "--hostname", "sandbox", "--as-pid-1", "--cap-drop", "ALL",
        *(["--die-with-parent"] if bound else []), *(["--cap-add", "CAP_SYS_ADMIN"] if capable else []),
        "--ro-bind", str(rootfs), "/", "--proc", "/proc", "--tmpfs", "/dev",
    ]  # fmt: skip
    for device in _DEVICES:
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for link, target in _LINKS.items():
        words += ["--symlink", target, f"/dev/{link}"]
    for path, source in inside.items():
        words += ["--ro-bind", str(source), path]
    return [*words, "--symlink", "/tmp/shm", "/dev/shm", "--remount-ro", "/dev", "--chdir", "/", "--", *run]
