"""Segments by MPI one-sided reads (mpi4py), for clusters whose fabric MPI serves best.

Only a run of a fixed allocation may use it: its agents are the tasks of one step, and so one MPI world. Ask srun for that with
`SLURM_MPI_TYPE=pmi2` (or what your MPI needs) in the job's environment. Nodes that come later (`k15 scale`) are in no world with
them, and who has `weights.transport=mpi` takes none; with `auto` they read over HTTP.

    reader                                        holder (a thread of its agent)
    OPEN key ------------------------------------> borrows the segment: it stays mapped; answers its address, or 0
    Rget ... Rget                                  polls MPI, which many MPIs need for reads of their memory to go on
    CLOSE key -----------------------------------> gives it back; sleeps again

MPI authenticates nobody: the world is the job's step, and the fabric is the cluster's own.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mpi4py
import numpy as np
import xxhash

mpi4py.rc.finalize = False  # an agent ends when its node does, and must not wait for peers that are gone

from mpi4py import MPI  # noqa: E402  (starts MPI)

from k15.errors import WeightsError  # noqa: E402
from k15.weights.segments import Entry, Manifest  # noqa: E402
from k15.weights.transport import STALL_S, Sink, TransferError  # noqa: E402
from k15.weights.transport.shown import Mapped, Shown  # noqa: E402

BLOCK_BYTES = 4 << 20
DEPTH = 3  # reads under way at once
MEET_S = 120.0  # for all agents of the job to come
_OPEN, _CLOSE = 1, 2
_REQUESTS = 1  # tag of messages to a holder; answers have tags of their own
_ANSWERS = range(2, 30_000)
_IDLE_S = 0.005  # between a holder's looks for readers
_POLL_S = 20e-6


@dataclass(frozen=True, eq=False)
class _Block:
    """A read under way: `nbytes` of `entry` from its byte `start`, into `scratch`."""

    entry: Entry
    start: int
    nbytes: int
    scratch: np.ndarray
    request: MPI.Request


class Mpi:
    """The world's window, made by all `nodes` agents together (None: the world may have any size)."""

    name = "mpi"
    needs_mapping = False

    def __init__(self, nodes: int | None = None) -> None:
        """Raises WeightsError where the agents are not the ranks of one MPI world, or one of them does not come."""
        self._world = MPI.COMM_WORLD
        if nodes is not None and self._world.size != nodes:
            raise WeightsError(
                f"the MPI world has {self._world.size} process(es), but the job has {nodes} nodes: srun did not start its tasks "
                "as one MPI job. Set SLURM_MPI_TYPE=pmi2 (or what your MPI wants: srun --mpi=list) in the job's environment"
            )
        if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
            raise WeightsError("this MPI does not let several threads call it (MPI_THREAD_MULTIPLE)")
        self._meet()
        self._window = MPI.Win.Create_dynamic(comm=self._world)
        self._window.Set_errhandler(MPI.ERRORS_RETURN)
        self._window.Lock_all(MPI.MODE_NOCHECK)  # once for all reads: each is waited for by its own request
        self._shown = Shown(lambda m: self._window.Attach(m.map), lambda m: self._window.Detach(m.map))
        self._tags = itertools.cycle(_ANSWERS)
        self._kept: list[MPI.Request] = []  # given up, but MPI may still read or write their memory
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = threading.Thread(target=self._serve, name="mpi holder", daemon=True)
        self._server.start()

    def _meet(self) -> None:
        """A barrier that gives up: what follows waits for all ranks without end."""
        arrived, deadline = self._world.Ibarrier(), time.monotonic() + MEET_S
        while not arrived.Test():
            if time.monotonic() > deadline:
                raise WeightsError(f"not all {self._world.size} agents came to the MPI world within {MEET_S:.0f} s")
            time.sleep(0.01)

    # -- holder -------------------------------------------------------------------------------------------------------

    def offer(self, directory: Path, manifest: Manifest) -> dict[str, int] | None:
        if manifest.nbytes == 0:
            return None
        inode, _ = self._shown.show(directory, manifest)
        return {"rank": self._world.rank, "key": inode}

    def _serve(self) -> None:
        lent: dict[tuple[int, int], Mapped] = {}  # by reader and its answer's tag
        sending: list[MPI.Request] = []
        message, status = np.empty(3, np.int64), MPI.Status()
        while not self._closing.is_set():
            if not self._world.Iprobe(MPI.ANY_SOURCE, _REQUESTS, status):
                time.sleep(_POLL_S if lent else _IDLE_S)
                continue
            self._world.Recv(message, status.source, _REQUESTS)
            kind, key, tag = (int(x) for x in message)
            if kind == _CLOSE:
                mapped = lent.pop((status.source, tag), None)
                if mapped is not None:
                    self._shown.give_back(mapped)
                continue
            mapped = self._shown.borrow(key)
            if mapped is not None:
                lent[status.source, tag] = mapped
            answer = np.array([mapped.address if mapped is not None else 0], np.int64)
            sending = [s for s in sending if not s.Test()] + [self._world.Isend(answer, status.source, tag)]

    # -- reader -------------------------------------------------------------------------------------------------------

    def read(self, offered: dict[str, int], sink: Sink, entries: list[Entry]) -> None:
        rank, key, tag = offered["rank"], offered["key"], next(self._tags)
        flying: deque[_Block] = deque()
        try:
            answer = np.zeros(1, np.int64)
            heard = self._world.Irecv(answer, rank, tag)  # first: an answer that comes late must not be taken for a later one
            try:
                self._tell(rank, (_OPEN, key, tag), sink)
                self._wait(heard, sink, rank)
                if answer[0] == 0:
                    raise TransferError(f"MPI rank {rank} does not show {sink.manifest.file} any more")
                self._stream(rank, int(answer[0]), sink, entries, flying)
            finally:
                if self._drained(flying):  # else the holder keeps its memory: what is under way must not find it gone
                    self._keep([heard, self._world.Isend(np.array([_CLOSE, key, tag], np.int64), rank, _REQUESTS)])
        except MPI.Exception as error:
            raise TransferError(f"MPI's read from rank {rank} failed: {error}") from error

    def _tell(self, rank: int, words: tuple[int, int, int], sink: Sink) -> None:
        self._wait(self._world.Isend(np.array(words, np.int64), rank, _REQUESTS), sink, rank)

    def _wait(self, request: MPI.Request, sink: Sink, rank: int) -> None:
        """Raises TransferError after STALL_S without a result, or when the copy is called off; MPI may still write later."""
        started = time.monotonic()
        while not request.Test():
            try:
                sink.check_wanted()
                if time.monotonic() - started > STALL_S:
                    raise TransferError(f"MPI rank {rank} gave nothing for {STALL_S:.0f} s")
            except TransferError:
                self._keep([request])
                raise
            time.sleep(_POLL_S)

    def _stream(self, rank: int, address: int, sink: Sink, entries: list[Entry], flying: "deque[_Block]") -> None:
        """Blocks through memory of our own, so that a read that is given up can harm nobody. `flying`: those under way."""
        free = [np.empty(BLOCK_BYTES, np.uint8) for _ in range(DEPTH)]
        digest = xxhash.xxh3_64()
        for entry, start, nbytes in _blocks(entries):
            if not free:
                free.append(self._land(rank, sink, flying, digest))
            scratch = free.pop()
            place = (address + entry.offset + start, nbytes, MPI.BYTE)
            flying.append(_Block(entry, start, nbytes, scratch, self._window.Rget(scratch[:nbytes], rank, place)))
        while flying:
            self._land(rank, sink, flying, digest)

    def _land(self, rank: int, sink: Sink, flying: "deque[_Block]", digest: xxhash.xxh3_64) -> np.ndarray:
        """The oldest block to its place; returns its memory. `digest` is that of the entry which it belongs to."""
        block = flying[0]
        self._wait(block.request, sink, rank)
        flying.popleft()
        part = memoryview(block.scratch)[: block.nbytes]
        sink.buffer.write(block.entry.offset + block.start, part)
        digest.update(part)
        if block.start + block.nbytes == block.entry.nbytes:
            sink.arrived(block.entry, digest.intdigest(), f"MPI rank {rank}")
            digest.reset()
        return block.scratch

    def _drained(self, flying: "deque[_Block]") -> bool:
        """Wait for what is under way, at most STALL_S."""
        deadline = time.monotonic() + STALL_S
        while any(not block.request.Test() for block in flying):
            if time.monotonic() > deadline:
                self._keep([block.request for block in flying])
                return False
            time.sleep(_POLL_S)
        return True

    def _keep(self, requests: list[MPI.Request]) -> None:
        """Hold requests, and with them their memory, until MPI is done with them."""
        with self._lock:
            self._kept = [r for r in (*self._kept, *requests) if not r.Test()]

    def forget(self) -> None:
        self._shown.forget()

    def close(self) -> None:
        """End what this node shows. The window itself would have to be freed by all together: it goes with the process."""
        self._closing.set()
        self._server.join()
        self._shown.close()


def _blocks(entries: list[Entry]) -> Iterator[tuple[Entry, int, int]]:
    """(entry, first byte in it, bytes); one of no bytes for an empty entry."""
    for entry in entries:
        for start in range(0, max(entry.nbytes, 1), BLOCK_BYTES):
            yield entry, start, min(BLOCK_BYTES, entry.nbytes - start)
