"""Which transport a node uses: the one that is asked for, or the fastest of those that serve, timed on the first bytes."""

import os
import threading
import time
from collections.abc import Callable
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
        """This node's record as a holder of the segment. A transport that cannot offer it is left out where others can; raises
        WeightsError where there is no other."""
        offers: dict[str, Any] = {}
        for transport in self.transports:
            try:
                offers[transport.name] = transport.offer(directory, manifest)
            except Exception as error:  # of a library: whatever it is, HTTP may serve
                if len(self.transports) == 1:
                    raise WeightsError(f"{manifest.file} cannot be offered over {transport.name}: {error}") from error
                log.warning("%s is not offered over %s: %s", manifest.file, transport.name, error)
        return {name: offered for name, offered in offers.items() if offered is not None}

    def serves(self, record: dict[str, Any]) -> bool:
        """Does this node use a transport that the holder with `record` offers?"""
        return any(name in record for name in self.names)

    def read(self, record: dict[str, Any], sink: Sink) -> None:
        """Bring all that is left in `sink` from the holder with `record`. Raises TransferError; the transport that failed counts
        for half as fast from then on, so that another one's turn comes."""
        usable = [t for t in self.transports if t.name in record]
        assert usable, (self.names, record)
        if len(usable) > 1:
            with self._measuring:  # others wait, so that one transport is timed at a time
                for transport in [t for t in usable if t.name not in self.speeds]:
                    self._time(transport, record, sink)
            usable.sort(key=lambda t: -self.speeds.get(t.name, 0.0))  # one may have been left nothing to be timed on
        if sink.left():
            name = usable[0].name
            try:
                usable[0].read(record[name], sink, sink.left())
            except TransferError:
                if name in self.speeds:
                    self.speeds[name] /= 2
                raise

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


def open_transports(wanted: str, token: str, url: str, nodes: int | None = None) -> Choice:
    """The transports for `weights.transport`; `url` is this node's agent, `nodes` the job's number of agents where it is fixed.
    Raises WeightsError where `wanted` cannot serve.

    `auto` is HTTP, with Mooncake beside it only where there is RDMA: over TCP Mooncake serves memory to whoever asks, without
    the job's token, and is slower. MPI is timed beside them where the job's tasks were started as one MPI world on purpose.
    """
    assert wanted in ("auto", *TRANSPORTS), wanted
    transports: list[Transport] = []
    if wanted in ("auto", "http"):
        transports.append(Http(token, url))
    if wanted == "mooncake" or (wanted == "auto" and rdma_devices()):
        _add(transports, wanted, "mooncake", lambda: _mooncake(url))
    if wanted == "mpi" or (wanted == "auto" and nodes is not None and nodes > 1 and in_mpi_world()):
        _add(transports, wanted, "mpi", lambda: _mpi(nodes))
    return Choice(transports)


_REMEDIES = {
    "mooncake": "Install mooncake-transfer-engine (without CUDA: mooncake-transfer-engine-non-cuda) and the system's "
    "libibverbs1, libnuma1 and libcurl4",
    "mpi": "Install mpi4py and an MPI library that srun can start (pip: mpich), start the job's tasks as one MPI world "
    "(SLURM_MPI_TYPE=pmi2)",
}


def _add(transports: list[Transport], wanted: str, name: str, make: Callable[[], Transport]) -> None:
    """Raises WeightsError where `wanted` is this very transport and it does not start; `auto` goes on without it."""
    try:
        transports.append(make())
    except (ImportError, RuntimeError) as error:  # RuntimeError: WeightsError, and mpi4py without an MPI library
        if wanted == name:
            raise WeightsError(
                f"weights.transport={name}: it does not start: {error}. {_REMEDIES[name]}, or give weights.transport=http."
            ) from error
        log.warning("the transport %s does not start (%s); weights go over HTTP", name, error)


def _mooncake(url: str) -> Transport:
    from k15.weights.transport.mooncake import Mooncake

    return Mooncake(urlsplit(url).hostname or "", rdma_devices())


def _mpi(nodes: int | None) -> Transport:
    from k15.weights.transport.mpi import Mpi

    return Mpi(nodes)


def in_mpi_world() -> bool:
    """Did somebody ask srun for MPI (a cluster's default alone is not asked for), and are there several ranks?"""
    sizes = (os.environ.get(name, "1") for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    many = any(size.isdigit() and int(size) > 1 for size in sizes) or "PMIX_RANK" in os.environ
    return many and os.environ.get("SLURM_MPI_TYPE", "none") != "none"


def rdma_devices() -> list[str]:
    """Names of this node's RDMA devices."""
    return sorted(p.name for p in _INFINIBAND.iterdir()) if _INFINIBAND.is_dir() else []
