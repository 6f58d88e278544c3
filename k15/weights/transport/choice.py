"""Which transport a node uses: the one that is asked for, or the fastest of those that serve, timed on the first bytes."""

import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from k15.errors import WeightsError
from k15.log import get_logger
from k15.weights.segments import Entry, Manifest
from k15.weights.transport import TRANSPORTS, Sink, TransferError, Transport
from k15.weights.transport.http import Http

log = get_logger("weights")
PROBE_BYTES = 64 << 20
_INFINIBAND = Path("/sys/class/infiniband")


class Choice:
    """The transports of this node. With several, `read` times each once and stays with the fastest."""

    def __init__(self, transports: list[Transport]) -> None:
        self.transports = transports
        self.speeds: dict[str, float] = {}  # GB/s, once measured
        self._measuring = threading.Lock()

    @property
    def needs_mapping(self) -> bool:
        return any(t.needs_mapping for t in self.transports)

    @property
    def names(self) -> list[str]:
        return [t.name for t in self.transports]

    def offer(self, directory: Path, manifest: Manifest) -> dict[str, Any]:
        """This node's record as a holder of the segment."""
        offers = {t.name: t.offer(directory, manifest) for t in self.transports}
        return {name: offered for name, offered in offers.items() if offered is not None}

    def serves(self, record: dict[str, Any]) -> bool:
        """Does this node use a transport that the holder with `record` offers?"""
        return any(name in record for name in self.names)

    def read(self, record: dict[str, Any], sink: Sink) -> None:
        """Bring all that is left in `sink` from the holder with `record`. Raises TransferError."""
        usable = [t for t in self.transports if t.name in record]
        assert usable, (self.names, record)
        if len(usable) > 1:
            with self._measuring:  # others wait, so that one transport is timed at a time
                for transport in [t for t in usable if t.name not in self.speeds]:
                    self._time(transport, record, sink)
            usable.sort(key=lambda t: -self.speeds[t.name])
        if sink.left():
            usable[0].read(record[usable[0].name], sink, sink.left())

    def _time(self, transport: Transport, record: dict[str, Any], sink: Sink) -> None:
        entries: list[Entry] = []
        for entry in sink.left():
            entries.append(entry)
            if sum(e.nbytes for e in entries) >= PROBE_BYTES:
                break
        nbytes = sum(e.nbytes for e in entries)
        if nbytes == 0:
            return
        start = time.perf_counter()
        try:
            transport.read(record[transport.name], sink, entries)
            self.speeds[transport.name] = nbytes / (time.perf_counter() - start) / 1e9
        except TransferError as error:
            log.warning("weights transport %s does not serve here: %s", transport.name, error)
            self.speeds[transport.name] = 0.0
        if len(self.speeds) == len(self.transports):
            speeds = ", ".join(f"{name} {speed:.2f} GB/s" for name, speed in self.speeds.items())
            log.info("weights transport: %s (%s)", max(self.speeds, key=lambda n: self.speeds[n]), speeds)

    def forget(self) -> None:
        for transport in self.transports:
            transport.forget()

    def close(self) -> None:
        for transport in self.transports:
            transport.close()


def open_transports(wanted: str, token: str, url: str) -> Choice:
    """The transports for `weights.transport`; `url` is this node's agent. Raises WeightsError where `wanted` cannot serve.

    `auto` is HTTP, with Mooncake beside it only where there is RDMA: over TCP Mooncake serves memory to whoever asks, without
    the job's token, and is slower.
    """
    assert wanted in ("auto", *TRANSPORTS), wanted
    transports: list[Transport] = []
    if wanted in ("auto", "http"):
        transports.append(Http(token, url))
    if wanted == "mooncake" or (wanted == "auto" and rdma_devices()):
        try:
            from k15.weights.transport.mooncake import Mooncake

            transports.append(Mooncake(urlsplit(url).hostname or "", rdma_devices()))
        except (ImportError, WeightsError) as error:
            if wanted == "mooncake":
                raise WeightsError(
                    f"weights.transport=mooncake: the transfer engine does not start: {error}. Install "
                    "mooncake-transfer-engine (without CUDA: mooncake-transfer-engine-non-cuda) and the system's "
                    "libibverbs1, libnuma1 and libcurl4, or give weights.transport=http."
                ) from error
            log.warning("there is RDMA, but Mooncake does not start (%s); weights go over HTTP", error)
    return Choice(transports)


def rdma_devices() -> list[str]:
    """Names of this node's RDMA devices."""
    return sorted(p.name for p in _INFINIBAND.iterdir()) if _INFINIBAND.is_dir() else []
