"""Memory that segments are written into: the pages of the last retired version are taken again.

A fresh page of shared memory costs a fault and a zeroing, which bounds a writer to 1-2 GB/s a core. A retired segment stays as
`spare-r<R>.seg`; its writer still has it mapped, so that the next version is one plain copy. So a node holds two versions.

A reader keeps a shared lock (flock) on a segment for as long as it maps it: a spare that is still read is never written to.
"""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from k15.errors import WeightsError

FOLD_BYTES = 512 << 10  # copied and hashed while they are in the cache: memory is read once


def spare_path(directory: Path, rank: int) -> Path:
    """Where a rank's retired segment waits to be written again."""
    return directory / f"spare-r{rank}.seg"


@dataclass(eq=False)
class Buffer:
    """A segment in the making at `path`. Bytes below `len(mapped)` are written through the mapping, later ones to the file."""

    path: Path
    fd: int
    mapped: memoryview = field(default_factory=lambda: memoryview(bytearray()))

    def put(self, offset: int, source: memoryview) -> int:
        """Copy `source` to byte `offset`; returns its XXH3-64. Raises OSError where shared memory is full.

        The checksum first: it brings a block into the cache, where the copy finds it. The other way round the copy's target
        has pushed the source out, which costs a tenth.
        """
        digest = xxhash.xxh3_64()
        for start in range(0, len(source), FOLD_BYTES):
            block = source[start : start + FOLD_BYTES]
            digest.update(block)
            self.write(offset + start, block)
        return digest.intdigest()

    def write(self, offset: int, block: memoryview) -> None:
        """As `put`, without the checksum."""
        end = offset + len(block)
        if end <= len(self.mapped):
            self.mapped[offset:end] = block
            return
        while len(block):  # write, not mmap: a full /dev/shm is an error here and a SIGBUS there
            done = os.pwrite(self.fd, block, offset)
            block, offset = block[done:], offset + done

    def window(self, offset: int, nbytes: int) -> memoryview | None:
        """The mapped bytes from `offset`, to be filled in place; None where they are not mapped."""
        return self.mapped[offset : offset + nbytes] if offset + nbytes <= len(self.mapped) else None


@dataclass(eq=False)
class _Mapped:
    fd: int
    map: mmap.mmap | None = None
    busy: bool = False

    def close(self) -> None:
        if self.map is not None:
            self.map.close()
        os.close(self.fd)


class Workspace:
    """The segments of `directory` that this process has written and, with `keep`, still maps. Threads may write distinct
    ranks."""

    def __init__(self, directory: Path, *, keep: bool = True) -> None:
        self.directory = directory
        self.keep = keep
        self._held: dict[int, _Mapped] = {}  # by inode, whose number is not used again while a descriptor is open
        self._lock = threading.Lock()

    @contextmanager
    def buffer(self, tmp: Path, rank: int, *, mapped_bytes: int = 0) -> Iterator[Buffer]:
        """A buffer whose file is `tmp`, from the rank's spare where that is free. The caller renames `tmp` at the end, inside
        the context; what is left there under `tmp` is deleted. `mapped_bytes`: map that many even if the memory is fresh.

        Raises WeightsError where shared memory is full.
        """
        with self._lock:
            held = self._take_spare(tmp, rank)
            if held is None:
                held = _Mapped(os.open(tmp, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            held.busy = True
            self._held[os.fstat(held.fd).st_ino] = held
        buffer = Buffer(tmp, held.fd)
        try:
            fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mapped_bytes > os.fstat(held.fd).st_size:
                os.posix_fallocate(held.fd, 0, mapped_bytes)  # first, so that a full /dev/shm is an error and no SIGBUS
            buffer.mapped = self._view(held)
            yield buffer
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise WeightsError(
                f"{self.directory} is full: {tmp.name} of weights does not fit. Enlarge shared memory "
                "(mount -o remount,size=... /dev/shm); two versions must fit while one is handed over."
            ) from error
        finally:
            buffer.mapped.release()
            fcntl.flock(held.fd, fcntl.LOCK_UN)
            tmp.unlink(missing_ok=True)
            with self._lock:
                held.busy = False
                self._drop()

    def _take_spare(self, tmp: Path, rank: int) -> _Mapped | None:
        """The rank's spare renamed to `tmp`; None where there is none, or one that is still read (it is unlinked then)."""
        spare = spare_path(self.directory, rank)
        try:
            held = self._held.get(spare.stat().st_ino) or _Mapped(os.open(spare, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            spare.rename(tmp)
            return held
        except BlockingIOError:
            spare.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # collected just now
        if held not in self._held.values():
            held.close()
        return None

    @staticmethod
    def _view(held: _Mapped) -> memoryview:
        """Writable view of all bytes of the file, mapped once for as long as its size does not grow."""
        size = os.fstat(held.fd).st_size
        if held.map is not None and len(held.map) < size:
            held.map.close()
            held.map = None
        if held.map is None and size > 0:
            held.map = mmap.mmap(held.fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        return memoryview(held.map)[:size] if held.map is not None else memoryview(bytearray())

    def _drop(self) -> None:
        """Let go of files that nobody can find any more (of all without `keep`), so that their memory is freed."""
        for inode, held in list(self._held.items()):
            if not held.busy and (not self.keep or os.fstat(held.fd).st_nlink == 0):
                del self._held[inode]
                held.close()

    def close(self) -> None:
        """Unmap everything. The files stay."""
        for held in self._held.values():
            held.close()
        self._held.clear()
