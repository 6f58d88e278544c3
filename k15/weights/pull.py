"""Bring a version's segments to this node: what is here stays, the rest comes from any node that holds it.

A holder sends one copy of a segment at a time; who finds all busy waits for the first copy to end, and then there are two
holders. So N nodes take about log2(N) copies of time, and the node that trained sends about log2(N) of the N copies.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from etcd3gw.lease import Lease

from k15.errors import WeightsError
from k15.log import get_logger
from k15.weights.buffers import Workspace
from k15.weights.segments import Manifest, manifest_path, publish
from k15.weights.store import Store
from k15.weights.transport import Sink, TransferError
from k15.weights.transport.choice import Choice

log = get_logger("weights")
ATTEMPTS = 5  # at one holder, with BACKOFF_S, 4 x BACKOFF_S, ... between them: a link may be away for ten seconds
BACKOFF_S = 0.2
OFFER_S = 300.0  # a node looks at the checksums of what it wrote before it offers the memory
WAIT_S = 0.03  # between looks for a free holder, longer with every look


def twins(manifests: Iterable[Manifest]) -> list[list[Manifest]]:
    """Manifests by distinct set of slices, in rank order. Data-parallel twins hold the same slices; a node needs them once.

    Raises WeightsError where twins hold different values: nodes that take different ones would sample from different models.
    """
    found: dict[frozenset, list[Manifest]] = {}
    for m in sorted(manifests, key=lambda m: m.rank):
        same = found.setdefault(frozenset((e.name, e.starts) for e in m.entries), [])
        values = {(e.name, e.starts): e.checksum for e in m.entries}
        for e in same[0].entries if same else ():
            if values[e.name, e.starts] != e.checksum:
                raise WeightsError(
                    f"weights {m.version}: trainer ranks {same[0].rank} and {m.rank} hold different values of {e.name}; replicas "
                    "must be equal to the bit. Is memory or a device of one of their nodes faulty?"
                )
        same.append(m)
    return list(found.values())


def nearest(same: list[Manifest], node: str, directory: Path) -> list[Manifest]:
    """Twins in the order in which `node` takes them: one that is here, else by rank in turn over nodes."""
    turn = sum(node.encode()) % len(same)
    rotated = same[turn:] + same[:turn]
    return sorted(rotated, key=lambda m: not is_here(m, node, directory))


def is_here(manifest: Manifest, node: str, directory: Path) -> bool:
    """The very segment of this manifest (checksums included) lies in `directory`, written here or copied before."""
    try:
        return Manifest.from_json(manifest_path(directory / manifest.file).read_text()) == manifest
    except FileNotFoundError:
        if manifest.node == node:
            raise WeightsError(f"{manifest.file} is registered as this node's ({node}), but it is not in {directory}") from None
        return False


class Copier:
    """Copies segments to one node. `peers`: node -> base URL of its agent; `lease`: the node's, None in tools."""

    def __init__(
        self, store: Store, node: str, workspace: Workspace, choice: Choice, peers: Mapping[str, str], lease: Lease | None,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self._store, self._node, self._workspace, self._choice = store, node, workspace, choice
        self._peers, self._lease, self._stop = peers, lease, stop
        self.received: Counter[str] = Counter()  # bytes by the node that sent them

    def copy(self, manifest: Manifest) -> int:
        """Copy, verify and publish one segment; returns its bytes. Raises WeightsError when no holder could give it."""
        tmp = self._workspace.directory / f"{manifest.file}.tmp{os.getpid()}-pull"
        mapped = manifest.nbytes if self._choice.needs_mapping else 0
        with self._workspace.buffer(tmp, manifest.rank, mapped_bytes=mapped) as buffer:
            sink = Sink(buffer, manifest, self._stop)
            failures: Counter[str] = Counter()
            faults: list[str] = []
            while sink.left():
                with self._holder(manifest, failures, faults) as (node, record):
                    wanted = sink.bytes_left
                    try:
                        self._choice.read(record, sink)
                    except TransferError as error:
                        sink.check_wanted()
                        failures[node] += 1
                        faults.append(f"node {node}: {error}")
                        log.warning("%s from node %s: %s (%d bytes left)", manifest.file, node, error, sink.bytes_left)
                    finally:
                        self.received[node] += wanted - sink.bytes_left
            publish(buffer, self._workspace.directory, manifest, verified=True)
        return manifest.nbytes

    @contextmanager
    def _holder(self, manifest: Manifest, failures: Counter[str], faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(node, its record) of a holder that now sends to nobody else, the one with fewest failures first."""
        looks, paused, started = 0, 0, time.monotonic()
        while True:
            known = self._holders(manifest)
            trusted = [node for node in known if failures[node] < ATTEMPTS and node != self._node]
            able = [node for node in trusted if self._choice.serves(known[node])]
            late = time.monotonic() - started > OFFER_S
            if not trusted or (not able and late):
                why = "; ".join(faults[-3:]) or f"none offers {' or '.join(self._choice.names)}"
                raise WeightsError(
                    f"{manifest.file} could not be copied from any of nodes {', '.join(sorted(known)) or '(none)'}: {why}"
                )
            least = min((failures[node] for node in able), default=0)
            if least > paused:  # all have failed: this may be a link that is down for a while
                paused = least
                self._pause(BACKOFF_S * 4 ** (least - 1))
            spread = {node: xxhash.xxh3_64_intdigest(f"{node}>{self._node}".encode()) for node in able}
            for node in sorted(able, key=lambda n: (failures[n], n == manifest.node, spread[n])):
                slot = f"weights/{manifest.version}/{manifest.rank}/to/{node}"
                # An answer that was lost is asked for again, and finds its own work: the slot is ours all the same.
                if self._store.create(slot, self._node, self._lease) or self._store.get(slot) == self._node.encode():
                    try:
                        yield node, known[node]
                    finally:
                        self._store.delete(slot)
                    return
            looks += 1
            self._pause(min(WAIT_S * looks, 0.5))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise TransferError("the copy was called off")

    def _holders(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        """The node that wrote the segment, as long as its agent lives, and all that have a copy."""
        found = self._store.holders(manifest.version, manifest.rank)
        if manifest.node in self._peers:
            found.setdefault(manifest.node, {"http": self._peers[manifest.node]})
        return found
