"""How a segment's bytes get from the node that holds them to this one.

    same node     no transport: the segment is mapped where it lies (`k15.weights.segments.read_segment`)
    `http`        the agent's own service, sendfile to sockets; needs nothing, wants the job's token
    `mooncake`    Moonshot's transfer engine: RDMA where there is any, TCP else; wants no token (see `mooncake.py`)
    `mpi`         MPI one-sided reads among the agents of a fixed allocation (see `mpi.py`)

A node that holds a segment publishes a record in the metadata store, with an entry for each transport it offers:
{"http": base URL, "mooncake": {"session": host:port, "address": int}, "mpi": {"rank": int, "key": int}}.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from k15.errors import WeightsError
from k15.weights.buffers import Buffer
from k15.weights.segments import Entry, Manifest

TRANSPORTS = ("http", "mooncake", "mpi")  # by preference where speeds are equal
STALL_S = 20.0  # a peer that sends nothing for so long is taken for dead; longer than a link's short absence


class TransferError(WeightsError):
    """One attempt to copy failed in a way that another holder, or another try, may cure."""


class Sink:
    """A segment's copy in the making. Entries that arrived right stay so: a new attempt asks only for the rest."""

    def __init__(self, buffer: Buffer, manifest: Manifest, stop: threading.Event) -> None:
        self.buffer, self.manifest, self.stop = buffer, manifest, stop
        self._number = {(entry.name, entry.starts): i for i, entry in enumerate(manifest.entries)}
        self._right: set[int] = set()  # by position in the manifest

    def left(self) -> list[Entry]:
        """Entries that have not arrived, by offset."""
        return [entry for i, entry in enumerate(self.manifest.entries) if i not in self._right]

    @property
    def bytes_left(self) -> int:
        return sum(entry.nbytes for entry in self.left())

    def arrived(self, entry: Entry, checksum: int, where: str) -> None:
        """All bytes of `entry` are written. Raises TransferError where they are not those that the manifest describes."""
        if checksum != entry.checksum:
            raise TransferError(f"{entry.name} at {entry.starts} from {where} is damaged: its checksum differs")
        self._right.add(self._number[entry.name, entry.starts])

    def check_wanted(self) -> None:
        """Raises TransferError once the copy is no longer wanted."""
        if self.stop.is_set():
            raise TransferError("the copy was called off")


class Transport(Protocol):
    """One way to move bytes. Methods block; several threads may read at once."""

    name: str
    needs_mapping: bool  # the destination must be mapped memory

    def offer(self, directory: Path, manifest: Manifest) -> Any:
        """Let peers read this node's segment; returns what they need for it (JSON), None where it cannot be offered."""

    def read(self, offered: Any, sink: Sink, entries: list[Entry]) -> None:
        """Fill `sink` with `entries` from a peer that offers them. Raises TransferError."""

    def forget(self) -> None:
        """Let go of segments that have been collected."""

    def close(self) -> None: ...


def spans(entries: list[Entry], count: int) -> Iterator[list[Entry]]:
    """`entries` in at most `count` runs of about equal bytes, order kept."""
    total, run, seen = sum(e.nbytes for e in entries), [], 0
    share = total / count
    for entry in entries:
        run.append(entry)
        seen += entry.nbytes
        if seen >= share:
            yield run
            run, share = [], share + total / count
    if run:
        yield run
