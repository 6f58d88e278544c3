"""Segments by Mooncake's transfer engine: the peer's memory is read without its process taking part (RDMA), or over TCP.

Mooncake's peer-to-peer handshake knows no password: who reaches its port reads the registered memory. Use it on a cluster's
own network only; `auto` does so for RDMA alone.
"""

from pathlib import Path
from typing import Any

import xxhash
from mooncake.engine import TransferEngine

from k15.errors import WeightsError
from k15.weights.segments import Entry, Manifest
from k15.weights.transport import Sink, TransferError
from k15.weights.transport.shown import Mapped, Shown, address_of

BLOCK_BYTES = 64 << 20


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
        self._shown = Shown(self._register, lambda gone: self._engine.unregister_memory(gone.address))

    def offer(self, directory: Path, manifest: Manifest) -> dict[str, Any] | None:
        if manifest.nbytes == 0:
            return None
        _, shown = self._shown.show(directory, manifest)
        return {"session": self._session, "address": shown.address}

    def _register(self, mapped: Mapped) -> None:
        nbytes = len(mapped.map)
        if self._engine.register_memory(mapped.address, nbytes) != 0:
            raise WeightsError(f"Mooncake could not register {nbytes} bytes; is the limit of locked memory (ulimit -l) too low?")

    def read(self, offered: dict[str, Any], sink: Sink, entries: list[Entry]) -> None:
        first, last = entries[0].offset, entries[-1].offset + entries[-1].nbytes
        window = sink.buffer.window(first, last - first)
        assert window is not None, "the destination is not mapped"
        address = address_of(window) if last > first else 0
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
        self._shown.forget()

    def close(self) -> None:
        self._shown.close()
