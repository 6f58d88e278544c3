"""A run folder, read: settings, metrics by iteration, rollouts, and a list of what is missing or damaged.

A run that stopped early or has no evaluation yet is still readable; every gap becomes a sentence in `notes`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from k15.errors import DataError
from k15.eval.intervals import Interval, difference, wilson
from k15.log import read_metrics, read_rollouts
from k15.log.rollouts import list_rollouts

Record = dict[str, object]


@dataclass
class RunData:
    """`rows`: one dict an iteration, rising. `rollouts`: iteration -> file. `notes`: what the report cannot show."""

    folder: Path
    config_text: str = ""
    config: dict[str, object] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)
    rollouts: dict[int, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _records: dict[int, list[Record]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """(iterations, values) of the lines that have a finite number for this metric."""
        points = [(int(r["iteration"]), float(r[metric])) for r in self.rows if _finite(r.get(metric))]
        return [x for x, _ in points], [y for _, y in points]

    def metrics(self, prefix: str) -> list[str]:
        """Names of the numeric metrics that start with `prefix`, in the order of their first line."""
        return list(dict.fromkeys(k for r in self.rows for k, v in r.items() if k.startswith(prefix) and _finite(v)))

    def setting(self, dotted: str) -> object:
        """A value of config.yaml by its dotted name, or None."""
        node: object = self.config
        for key in dotted.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def records(self, iteration: int) -> list[Record]:
        """The rollouts of an iteration; a damaged file counts as empty and is noted once."""
        if iteration not in self._records:
            try:
                self._records[iteration] = read_rollouts(self.rollouts[iteration])
            except DataError as e:
                self._records[iteration] = []
                self.notes.append(str(e))
        return self._records[iteration]

    def first_and_last(self) -> list[tuple[int, list[Record]]]:
        """(iteration, its scored rollouts) of the first and the last iteration that have any; one entry if the same."""
        found: list[tuple[int, list[Record]]] = []
        for order in (sorted(self.rollouts), sorted(self.rollouts, reverse=True)):
            for i in order:
                scored = [r for r in self.records(i) if r.get("correct") is not None]
                if scored:
                    found.append((i, scored))
                    break
        return found[:1] if len({i for i, _ in found}) == 1 else found


def load_run(run_dir: str | Path) -> RunData:
    """Read a run folder. DataError where it is no run folder at all; anything less goes to `notes`."""
    folder = Path(run_dir)
    config, metrics = folder / "config.yaml", folder / "metrics.jsonl"
    if not folder.is_dir():
        raise DataError(f"there is no run folder {folder}. Give the folder of a run (`run_dir` in its config).")
    if not config.exists() and not metrics.exists():
        raise DataError(f"{folder} is not a run folder: it has neither config.yaml nor metrics.jsonl.")
    run = RunData(folder)
    if config.exists():
        run.config_text = config.read_text(encoding="utf-8", errors="replace")
        try:
            loaded = yaml.safe_load(run.config_text)
            run.config = loaded if isinstance(loaded, dict) else {}
        except yaml.YAMLError as e:
            run.notes.append(f"config.yaml cannot be parsed: {e}")
    else:
        run.notes.append("There is no config.yaml, so the settings are not shown.")
    run.rows = read_metrics(metrics) if metrics.exists() else []
    run.rollouts = dict(list_rollouts(folder))
    run.notes += _gaps(run)
    return run


def _gaps(run: RunData) -> list[str]:
    notes = []
    planned = run.setting("algo.iterations")
    if not run.rows:
        notes.append("No iteration has been finished, so there are no curves.")
    elif isinstance(planned, int) and run.rows[-1]["iteration"] < planned:
        notes.append(f"The run stands at iteration {run.rows[-1]['iteration']} of {planned}.")
    if run.rows and not run.metrics("eval_"):
        notes.append("No held-out evaluation has been made.")
    if not run.rollouts:
        notes.append("There are no rollout files (log.rollouts), so no responses are shown.")
    broken: dict[str, list[int]] = {}
    for row in run.rows:
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                broken.setdefault(key, []).append(row["iteration"])
    for key, where in broken.items():
        some = ", ".join(map(str, where[:8])) + (", …" if len(where) > 8 else "")
        notes.append(f"{key} is not a finite number at iteration {some}; these points are left out.")
    return notes


@dataclass(frozen=True)
class HeldOut:
    """Held-out accuracy of one kind (greedy, sampled) by iteration, and its first and last value.

    `lengths`: mean response length in tokens at each point, None where not measured. `n`: problems, None if unknown.
    """

    kind: str
    n: int | None
    iterations: tuple[int, ...]
    points: tuple[Interval, ...]
    lengths: tuple[float | None, ...]

    @property
    def before(self) -> Interval:
        return self.points[0]

    @property
    def after(self) -> Interval:
        return self.points[-1]

    @property
    def gain(self) -> Interval | None:
        """None while there is one evaluation only."""
        return difference(self.before, self.after) if len(self.points) > 1 else None


def held_out(run: RunData) -> list[HeldOut]:
    """Greedy and sampled accuracy with 95 % intervals: as logged, or Wilson's over `eval_n` problems."""
    kinds = []
    for kind in ("greedy", "sampled"):
        found = []
        for row in run.rows:
            p, n = row.get(f"eval_{kind}_accuracy"), row.get("eval_n")
            low, high = row.get(f"eval_{kind}_low"), row.get(f"eval_{kind}_high")
            if not _finite(p):
                continue
            if _finite(low) and _finite(high):
                interval = Interval(float(p), float(low), float(high))
            elif _finite(n) and n > 0:
                interval = wilson(p * n, n)
            else:
                continue  # an accuracy without any measure of its error is not shown
            length = row.get(f"eval_{kind}_length")
            found.append((int(row["iteration"]), interval, float(length) if _finite(length) else None, n))
        if found:
            iterations, points, lengths, ns = zip(*found, strict=True)
            kinds.append(HeldOut(kind, int(ns[-1]) if _finite(ns[-1]) else None, iterations, points, lengths))
    return kinds


def headline(run: RunData) -> str:
    """The result in a few plain lines, for the terminal."""
    lines = []
    for h in held_out(run):
        line = f"held-out accuracy ({h.kind}): {percent(h.before)}"
        if h.gain is not None:
            line += f" -> {percent(h.after)}, gain {points(h.gain)}"
        if h.lengths[0] is not None and h.lengths[-1] is not None and h.gain is not None:
            line += f"; length {h.lengths[0]:.1f} -> {h.lengths[-1]:.1f} tokens"
        lines.append(line)
    x, y = run.series("eval_loss")
    if y:
        line = f"held-out loss: {y[0]:.4g} (iteration {x[0]})"
        lines.append(line if len(y) == 1 else f"{line} -> {y[-1]:.4g} (iteration {x[-1]})")
    return "\n".join(lines) if lines else "no held-out evaluation has been made"


def percent(i: Interval) -> str:
    """`24.6 % (95 % interval 21.0-28.5)`."""
    return f"{100 * i.estimate:.1f} % (95 % interval {100 * i.low:.1f}-{100 * i.high:.1f})"


def points(i: Interval) -> str:
    """`+44.4 points (95 % interval +38.5 to +49.7)`."""
    return f"{100 * i.estimate:+.1f} points (95 % interval {100 * i.low:+.1f} to {100 * i.high:+.1f})"


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
