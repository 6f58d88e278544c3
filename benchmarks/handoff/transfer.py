"""Trainer -> shared memory -> other nodes -> an engine's memory, by phase, without vLLM."""

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.handoff.node import Node, end, start
from benchmarks.handoff.weights import Trainer
from k15.weights.buffers import Workspace
from k15.weights.etcd import start_etcd
from k15.weights.layout import Slice
from k15.weights.segments import load_manifest, read_segment, write_segment
from k15.weights.store import Store

COLD = 4  # hand-offs until both versions' memory exists and is mapped everywhere
STEADY = 5


class GateError(RuntimeError):
    """The weights that arrived are not those that were sent; no speed is given."""


class Site:
    """Nodes, their metadata store, and a trainer on node 0."""

    def __init__(self, root: Path, trainer: Trainer, store: Store, nodes: list[Node]) -> None:
        self.root, self.trainer, self.store, self.nodes = root, trainer, store, nodes
        self.workspace = Workspace(root / "0")
        self.target = [torch.empty(piece.tensor.shape, dtype=piece.tensor.dtype) for piece in trainer.slices()]
        self.version = -1

    def hand_off(self, others: int) -> dict[str, float]:
        """One version to node 0 and the first `others` of the rest; seconds by phase, and what node 0 sent."""
        self.version += 1
        self.trainer.step()
        clock = [time.perf_counter()]
        manifest = write_segment(self.root / "0", self.version, 0, self.trainer.slices(), node="0", workspace=self.workspace)
        clock.append(time.perf_counter())
        self.store.register_manifest(self.version, manifest, self.store.lease_of("agents/0"))
        clock.append(time.perf_counter())
        self._ask([self.nodes[0]], pull=self.version)
        clock.append(time.perf_counter())
        answers = self._ask(self.nodes[1 : 1 + others], pull=self.version)
        clock.append(time.perf_counter())
        found = self._load(others, manifest.file)
        clock.append(time.perf_counter())
        del found
        clock.append(time.perf_counter())
        self._check(others)
        for other in range(1, others):
            self._load(other, manifest.file)
            self._check(other)
        self._ask(self.nodes, collect=[self.version])
        self.store.forget_version(self.version)
        phases = dict(zip(("export", "register", "verify", "transfer", "load", "release"), _differences(clock), strict=True))
        sent = sum(a["bytes_from"].get("0", 0) for a in answers)
        return phases | {"bytes": float(manifest.nbytes), "hot_node_copies": sent / manifest.nbytes}

    def _load(self, node: int, file: str) -> list[Slice]:
        """Into plain tensors: what an engine's loading costs at the least. Returns what holds the segment's mapping."""
        segment = self.root / str(node) / file
        found = list(read_segment(segment, load_manifest(segment)))
        for target, piece in zip(self.target, found, strict=True):
            target.copy_(piece.tensor)
        return found

    def _check(self, node: int) -> None:
        for target, piece in zip(self.target, self.trainer.slices(), strict=True):
            if not torch.equal(target, piece.tensor):
                raise GateError(f"{piece.name} of version {self.version} arrived wrong on node {node}")

    @staticmethod
    def _ask(nodes: list[Node], **command: Any) -> list[dict[str, Any]]:
        for node in nodes:
            node.tell(**command)
        return [node.answer() for node in nodes]


def _differences(clock: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(clock)]


@contextmanager
def site(trainer: Trainer, nodes: int, transport: str) -> Iterator[Site]:
    """`nodes` node processes on this machine; all is removed at the end."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bench-handoff-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        etcd = start_etcd(root / "etcd" / "data", "127.0.0.1")
        stack.callback(etcd.stop)
        made = start(root, nodes, etcd.endpoint, etcd.password, transport)
        stack.callback(end, made)
        here = Site(root, trainer, Store(etcd.endpoint, "/k15/handoff", etcd.password), made)
        stack.callback(here.workspace.close)
        yield here


def measure(trainer: Trainer, transport: str) -> dict[str, Any]:
    """The first hand-off (fresh memory) and the best of later ones by phase, as the machine's limits are; two nodes."""
    with site(trainer, 2, transport) as here:
        runs = [here.hand_off(1) for _ in range(COLD + STEADY)]
    steady = {key: min(run[key] for run in runs[COLD:]) for key in runs[0]}
    return {"transport": transport, "first": _speeds(runs[0]), "steady": _speeds(steady)}


def _speeds(run: dict[str, float]) -> dict[str, Any]:
    moved = ("export", "verify", "transfer", "load")
    return {
        "bytes": int(run["bytes"]),
        "seconds": {key: round(run[key], 4) for key in (*moved, "register", "release")},
        "gb_per_s": {key: round(run["bytes"] / run[key] / 1e9, 2) for key in moved},
    }


def fan_out(trainer: Trainer, most: int) -> list[dict[str, float]]:
    """1 to `most` nodes pull at once: seconds, and how many copies the node that trained has sent."""
    found = []
    with site(trainer, most + 1, "http") as here:
        for _ in range(COLD):
            here.hand_off(most)
        for others in range(1, most + 1):
            runs = [here.hand_off(others) for _ in range(STEADY)]
            seconds = statistics.median(run["transfer"] for run in runs)
            copies = statistics.median(run["hot_node_copies"] for run in runs)
            total = others * runs[0]["bytes"] / seconds / 1e9
            found.append(
                {"nodes": others, "seconds": round(seconds, 3), "hot_node_copies": round(copies, 2), "gb_per_s": round(total, 2)}
            )
    return found
