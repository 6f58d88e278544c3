"""Segments of this node that a transport lets peers read as memory: mapped, and registered with the transport, once a file."""

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k15.weights.segments import Manifest


@dataclass(eq=False)
class Mapped:
    """A segment's file in this process's memory. `readers`: peers that read it now; it stays until they are done."""

    fd: int
    map: mmap.mmap
    address: int
    readers: int = 0
    withdrawn: bool = False


class Shown:
    """`register(mapped)` lets peers read the memory and raises where that fails; `unregister(mapped)` ends it. Thread-safe.

    Segments are known by inode: memory that is written again is registered already.
    """

    def __init__(self, register: Callable[[Mapped], None], unregister: Callable[[Mapped], None]) -> None:
        self._register, self._unregister = register, unregister
        self.table: dict[int, Mapped] = {}
        self._lock = threading.Lock()

    def show(self, directory: Path, manifest: Manifest) -> tuple[int, Mapped]:
        """(inode, mapping) of a segment that is not empty; what was shown before is found again."""
        with self._lock:
            fd = os.open(directory / manifest.file, os.O_RDWR | os.O_CLOEXEC)  # for writing, since ctypes wants that
            inode = os.fstat(fd).st_ino
            known = self.table.get(inode)
            if known is not None and len(known.map) >= manifest.nbytes:
                os.close(fd)
                return inode, known
            if known is not None:
                self._withdraw(inode)
            mapped = mmap.mmap(fd, manifest.nbytes)
            found = Mapped(fd, mapped, address_of(memoryview(mapped)))
            try:
                self._register(found)
            except BaseException:
                mapped.close()
                os.close(fd)
                raise
            self.table[inode] = found
            return inode, found

    def borrow(self, inode: int) -> Mapped | None:
        """The mapping, which then stays until `give_back`; None where it is not shown any more."""
        with self._lock:
            found = self.table.get(inode)
            if found is not None:
                found.readers += 1
            return found

    def give_back(self, mapped: Mapped) -> None:
        with self._lock:
            mapped.readers -= 1
            if mapped.withdrawn and mapped.readers == 0:
                self._drop(mapped)

    def forget(self) -> None:
        """Withdraw segments whose files have been collected."""
        with self._lock:
            for inode in [i for i, m in self.table.items() if os.fstat(m.fd).st_nlink == 0]:
                self._withdraw(inode)

    def close(self) -> None:
        with self._lock:
            for inode in list(self.table):
                self._withdraw(inode)

    def _withdraw(self, inode: int) -> None:
        gone = self.table.pop(inode)
        gone.withdrawn = True
        if gone.readers == 0:
            self._drop(gone)

    def _drop(self, gone: Mapped) -> None:
        self._unregister(gone)
        gone.map.close()
        os.close(gone.fd)


def address_of(view: memoryview) -> int:
    """Where a writable buffer lies in this process's memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
