"""Directories that their owner holds a lock on while it lives: what tells the leavings of a killed service from what is in use.

The lock (flock) is on the directory itself, also in a cgroup file system, so it is seen alike from every pid and mount namespace.
A pid is not: a sweeper in a container or on a virtual node sees others, and pids are used again.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def hold(path: Path) -> int:
    """Make a directory (mode 0700) and lock it; the lock lasts until the returned descriptor is closed. Raises OSError."""
    while True:
        with contextlib.suppress(FileExistsError):  # ours, of the last time round
            path.mkdir(mode=0o700)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # a sweeper came between making and locking, and took it for an abandoned one


@contextlib.contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether nobody holds it; if so it is this process's for the length of the block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # gone meanwhile, or another user's
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _is_at(descriptor, path)
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
