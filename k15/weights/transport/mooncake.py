"""Segments by Mooncake's transfer engine: the peer's memory is read without its process taking part (RDMA), or over TCP.

Mooncake's peer-to-peer handshake knows no password: who reaches its port reads the registered memory. Use it on a cluster's
own network only; `auto` does so for RDMA alone.
"""

import ctypes
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from mooncake.engine import TransferEngine

from k15.errors import WeightsError
from k15.weights.segments import Entry, Manifest
from k15.weights.transport import Sink, TransferError

BLOCK_BYTES = 64 << 20


@dataclass(eq=False)
class _Offered:
    """A segment of this node, mapped and registered."""

    fd: int
    map: mmap.mmap
    address: int


class Mooncake:
    """One engine a process, on a free port of `host`."""

    name = "mooncake"
    needs_mapping = True

    def __init__(self, host: str, devices: list[str]) -> None:
        self._engine = TransferEngine()
        self.protocol = "rdma" if devices else "tcp"
        if self._engine.initialize(host, "P2PHANDSHAKE", self.protocol, ",".join(devices)) != 0:
            raise WeightsError(f"Mooncake refused to start on {host} over {self.protocol}")
        self._session = f"{host}:{self._engine.get_rpc_port()}"
        self._offered: dict[int, _Offered] = {}  # by inode: memory that is written again is registered already
        self._lock = threading.Lock()

    def offer(self, directory: Path, manifest: Manifest) -> dict[str, Any] | None:
        if manifest.nbytes == 0:
            return None
        with self._lock:
            fd = os.open(directory / manifest.file, os.O_RDWR | os.O_CLOEXEC)  # for writing, since ctypes wants that
            inode = os.fstat(fd).st_ino
            known = self._offered.get(inode)
            if known is not None and len(known.map) >= manifest.nbytes:
                os.close(fd)
            else:
                if known is not None:
                    self._withdraw(inode)
                known = self._offered[inode] = self._register(fd, manifest.nbytes)
        return {"session": self._session, "address": known.address}

    def _register(self, fd: int, nbytes: int) -> _Offered:
        mapped = mmap.mmap(fd, nbytes)
        address = _address(memoryview(mapped))
        if self._engine.register_memory(address, nbytes) != 0:
            mapped.close()
            os.close(fd)
            raise WeightsError(f"Mooncake could not register {nbytes} bytes; is the limit of locked memory (ulimit -l) too low?")
        return _Offered(fd, mapped, address)

    def _withdraw(self, inode: int) -> None:
        gone = self._offered.pop(inode)
        self._engine.unregister_memory(gone.address)
        gone.map.close()
        os.close(gone.fd)

    def read(self, offered: dict[str, Any], sink: Sink, entries: list[Entry]) -> None:
        first, last = entries[0].offset, entries[-1].offset + entries[-1].nbytes
        window = sink.buffer.window(first, last - first)
        assert window is not None, "the destination is not mapped"
        address = _address(window) if last > first else 0
        if last > first and self._engine.register_memory(address, last - first) != 0:
            raise TransferError(f"Mooncake could not register {last - first} bytes to receive")
        try:
            for entry in entries:
                self._entry(offered, sink, entry, address - first)
        finally:
            if last > first:
                self._engine.unregister_memory(address)

    def _entry(self, offered: dict[str, Any], sink: Sink, entry: Entry, base: int) -> None:
        """Read and check one entry; its bytes go to `base` + its offset."""
        for start in range(entry.offset, entry.offset + entry.nbytes, BLOCK_BYTES):
            sink.check_wanted()
            size = min(BLOCK_BYTES, entry.offset + entry.nbytes - start)
            code = self._engine.transfer_sync_read(offered["session"], base + start, offered["address"] + start, size)
            if code != 0:
                raise TransferError(f"Mooncake's read from {offered['session']} failed with code {code}")
        window = sink.buffer.window(entry.offset, entry.nbytes)
        assert window is not None
        sink.arrived(entry, xxhash.xxh3_64_intdigest(window), offered["session"])

    def forget(self) -> None:
        with self._lock:
            for inode in [i for i, o in self._offered.items() if os.fstat(o.fd).st_nlink == 0]:
                self._withdraw(inode)

    def close(self) -> None:
        with self._lock:
            for inode in list(self._offered):
                self._withdraw(inode)


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
