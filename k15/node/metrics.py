"""What the agent tells Prometheus: processes, restarts, weight versions, bytes stored and pulled, the last hand-off."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from k15.node.children import Child


@dataclass
class Pulls:
    """Of this agent's whole life; `last_s`: how long the last version's took. Engines ask again for what is here by then."""

    count: int = 0
    nbytes: int = 0
    last_s: float = 0.0
    version: int | None = None

    def add(self, version: int, nbytes: int, seconds: float) -> None:
        if version != self.version:
            self.count, self.last_s, self.version = self.count + 1, 0.0, version
        self.nbytes += nbytes
        self.last_s = max(self.last_s, seconds)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One scrape. `updates`: the last of each engine (`NodeEngines.updates`); `segments`: bytes by version."""

    children: Mapping[str, Child]
    updates: Mapping[str, Mapping[str, float]]
    segments: Mapping[int, int]
    pulls: Pulls

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's interface."""
        yield from self._processes()
        yield from self._weights()

    def _processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("k15_process_up", "1 while a child of the agent runs", labels=["name"])
        restarts = CounterMetricFamily("k15_process_restarts", "Starts of a child after its first", labels=["name"])
        crashes = CounterMetricFamily("k15_process_crashes", "Ends of a child that nobody asked for", labels=["name"])
        for name, child in self.children.items():
            up.add_metric([name], float(child.alive))
            restarts.add_metric([name], child.starts - 1)
            crashes.add_metric([name], child.crashes)
        yield from (up, restarts, crashes)

    def _weights(self) -> Iterator[Metric]:
        stored = GaugeMetricFamily("k15_weights_shm_bytes", "Segments in shared memory", labels=["version"])
        for version, nbytes in sorted(self.segments.items()):
            stored.add_metric([str(version)], nbytes)
        held = GaugeMetricFamily("k15_engine_weight_version", "Version that an engine loaded last", labels=["name"])
        seconds = GaugeMetricFamily(
            "k15_engine_update_seconds", "Last load of weights by an engine, by part", labels=["name", "part"]
        )
        read = GaugeMetricFamily(
            "k15_engine_read_bytes", "Last load of weights: the most that one worker of the engine copied", labels=["name"]
        )
        for name, update in self.updates.items():
            held.add_metric([name], update["version"])
            for part, value in update.items():
                if part.endswith("_s"):
                    seconds.add_metric([name, part.removesuffix("_s")], value)
            read.add_metric([name], update["bytes_read"])
        yield from (stored, held, seconds, read)
        yield CounterMetricFamily("k15_weights_pulls", "Weight versions made local", value=self.pulls.count)
        yield CounterMetricFamily("k15_weights_pulled_bytes", "Copied from peers", value=self.pulls.nbytes)
        yield GaugeMetricFamily("k15_weights_pull_seconds", "Last pull of a version", value=self.pulls.last_s)
        last = max((u["total_s"] for u in self.updates.values()), default=0.0)
        total = self.pulls.last_s + last
        yield GaugeMetricFamily("k15_handoff_seconds", "Last hand-off on this node: pull, and the slowest engine", value=total)


def render(snapshot: Snapshot) -> bytes:
    """Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(snapshot)  # type: ignore[arg-type]
    return generate_latest(registry)


def segment_bytes(directory: Path) -> dict[int, int]:
    """Bytes of this node's segments by version."""
    found: dict[int, int] = {}
    for path in directory.glob("v*-r*.seg"):
        version = int(path.name[1:].split("-")[0])
        try:
            found[version] = found.get(version, 0) + path.stat().st_size
        except FileNotFoundError:
            continue  # collected just now
    return found
