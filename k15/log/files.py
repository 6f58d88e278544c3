"""Files that are either whole or not there, also when the process is killed in between."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from k15.errors import ConfigError

WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre without -o flock, NFS without lockd


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: written beside it, flushed to disk, renamed. Readers see old or new."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """`atomic_write` of what is written to the file, piece by piece; where the block raises, `path` stays as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename or a new file survives a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_folder_can_be_made(folder: Path, setting: str) -> None:
    """Raises ConfigError where `folder`, which `setting` names, neither is a folder that can be written to nor can be made. Tried
    out beside it or in it, and nothing is left: permissions alone say little of file systems that are read-only or not real."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    try:
        os.rmdir(tempfile.mkdtemp(dir=there, prefix=".k15-"))
    except OSError as error:
        what = "is no folder" if not there.is_dir() else f"cannot be written to ({error.strerror})"
        raise ConfigError(f"{setting} is {str(folder)!r}, but {there} {what}; give another {setting}=FOLDER.") from None


@contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """One process at a time is in the block; for the others a ConfigError that says `refusal`. The file `lock` is there for as
    long; the kernel's lock on it goes with the process, however it ends. Where a file system has no locks, nobody is refused."""
    descriptor = _locked(lock, refusal)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path, refusal: str) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    raise ConfigError(f"{refusal}.") from None
                raise
        try:
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # removed, and perhaps made anew, between open and lock
