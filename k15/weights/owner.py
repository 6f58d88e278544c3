"""Who owns a segment directory? The process that holds the lock (flock) of its `owner` file.

The lock, not a pid, says whether a job lives: the kernel drops it with the process, and it holds across containers
that share /dev/shm but not pids.
"""

import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

from k15.errors import ClusterError
from k15.weights.segments import collect

SHARED_MEMORY = Path("/dev/shm")
_YOUNG_S = 60.0  # a directory without an owner file may be one that is just being claimed


class Claim:
    """Ownership of a segment directory, held until `release` or the end of this process."""

    def __init__(self, directory: Path, fd: int) -> None:
        self.directory = directory
        self._fd = fd

    def release(self) -> None:
        """Delete the directory and give up the lock."""
        if self._fd >= 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def job_directory(job: str, root: Path = SHARED_MEMORY) -> Path:
    """Where a job's segments live on a node. Where several agents of a job share one /dev/shm, name each apart."""
    return root / f"k15-{job}"


def _try_lock(owner: Path) -> int | None:
    """A descriptor that holds the lock of `owner`, or None where a living process has it. May raise
    FileNotFoundError."""
    fd = os.open(owner, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.stat(owner).st_ino:  # else it was replaced between open and lock
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def claim(directory: Path) -> Claim:
    """Own `directory` (made with mode 0700; leftovers of a dead owner are emptied). Raises ClusterError if it has a
    living owner, or belongs to another user: its name can be foretold, and who owns it can exchange what lies in it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ClusterError(
            f"{directory} is not this user's folder (it is of uid {found.st_uid}). Have it removed, and start again."
        )
    directory.chmod(0o700)
    owner = directory / "owner"
    try:
        fd = _try_lock(owner)
        if fd is None:
            raise ClusterError(f"{directory} is owned by a living process; two agents of one job on one node? Stop one.")
        collect(directory, ())
        return Claim(directory, fd)
    except FileNotFoundError:
        pass
    mine = directory / f"owner.{os.getpid()}"
    fd = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, f"{os.getpid()}\n".encode())
    try:
        os.link(mine, owner)  # locked before it is visible; fails if another was quicker
    except FileExistsError:
        os.close(fd)
        raise ClusterError(f"{directory} was claimed by another process at the same time; stop one.") from None
    finally:
        mine.unlink(missing_ok=True)
    return Claim(directory, fd)


def remove_stale(root: Path = SHARED_MEMORY) -> list[Path]:
    """Delete this user's segment directories whose owner is dead; returns them. Living jobs are never touched."""
    gone = []
    for directory in root.glob("k15-*"):
        try:
            if directory.is_symlink() or not directory.is_dir() or directory.stat().st_uid != os.getuid():
                continue
            owner = directory / "owner"
            if not owner.exists():
                if time.time() - directory.stat().st_mtime > _YOUNG_S:
                    shutil.rmtree(directory, ignore_errors=True)
                    gone.append(directory)
                continue
            fd = _try_lock(owner)
        except FileNotFoundError:
            continue  # its owner removed it just now
        if fd is not None:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(fd)
            gone.append(directory)
    return gone
