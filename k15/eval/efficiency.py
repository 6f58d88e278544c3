"""Which checkpoint of a run long2short starts from: "the best balance between performance and token efficiency" (report 2.4).

The report gives no rule. Ours: of the checkpoints whose accuracy lies below no other's 95 % interval, the one with the most
accuracy per token of its answers; of several such the more accurate, then the earlier one.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k15.config.hf import exported_iteration
from k15.errors import DataError
from k15.eval.intervals import Interval
from k15.eval.results import aligned
from k15.eval.run_data import held_out, load_run
from k15.log import read_metrics

KIND = "greedy"  # the answers that the choice goes by
BY_ITERATION = "by_iteration.jsonl"  # of `k15 eval watch`
COLUMNS = ("iteration", "accuracy", "95 % interval", "tokens", "accuracy per 1000 tokens", "")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A held-out evaluation of the weights after `iteration`. `accuracy` 0..1; `tokens`: mean length of an answer, above 0."""

    iteration: int
    accuracy: Interval
    tokens: float

    @property
    def order(self) -> tuple[float, float, int]:
        """Rises with how good a base this is, among those that are accurate enough."""
        return (self.accuracy.estimate / self.tokens, self.accuracy.estimate, -self.iteration)


def accurate(points: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those whose accuracy is below no other's interval; at least one."""
    bar = max(p.accuracy.low for p in points)
    return [p for p in points if p.accuracy.estimate >= bar]


def best(points: Sequence[Checkpoint]) -> Checkpoint:
    """The base for long2short. Raises DataError where there is no evaluation."""
    if not points:
        raise DataError("no checkpoint has been evaluated, so none can be chosen. Set eval.every in the run.")
    return max(accurate(points), key=lambda p: p.order)


def open_choices(points: Sequence[Checkpoint]) -> set[int]:
    """Iterations of those that `best` may still choose, whatever comes later: accurate enough, and no other is at once as
    accurate and a better base. All others can be thrown away."""
    found = accurate(points)
    return {
        p.iteration
        for p in found
        if not any(q.accuracy.estimate >= p.accuracy.estimate and q.order > p.order for q in found)
    }  # fmt: skip


def evaluated(folder: Path, kind: str) -> list[Checkpoint]:
    """The evaluations of a run of `k15 rl` (`kind` greedy or sampled), or of a folder of `k15 eval watch` (pass@1, whatever the
    kind). Raises DataError, also where several tasks were watched: their accuracies have no common order."""
    if (folder / BY_ITERATION).is_file():
        return _watched(folder)
    run = load_run(folder)
    if run.config and run.setting("algo.iterations") is None and not run.setting("watch"):
        raise DataError(
            f"{folder} is no run of `k15 rl` and no folder of `k15 eval watch`, and only those have checkpoints to choose from. "
            "Give the folder of one, or evaluate several checkpoints and compare them: k15 eval compare."
        )
    found = [h for h in held_out(run) if h.kind == kind]
    return [
        Checkpoint(i, point, tokens)
        for h in found
        for i, point, tokens in zip(h.iterations, h.points, h.lengths, strict=True)
        if tokens
    ]


def _watched(folder: Path) -> list[Checkpoint]:
    path = folder / BY_ITERATION
    lines = path.read_bytes().split(b"\n")
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [r for r in rows if r["metric"] == "pass@1" and r.get("mean_tokens")]
    every = {str(r["task"]) for r in rows}
    rows = [r for r in rows if str(r["task"]).rpartition(" ")[0] not in every]  # a language of a task is no task of its own
    tasks = sorted({str(r["task"]) for r in rows})
    if len(tasks) > 1:
        raise DataError(f"{folder} watched several tasks ({', '.join(tasks)}); a base is chosen by one: watch that one.")
    return [Checkpoint(r["iteration"], Interval(r["value"], r["low"], r["high"]), r["mean_tokens"]) for r in rows]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """A line of BY_ITERATION. Raises DataError where it is none, or its value has no finite interval."""
    try:
        row = json.loads(line.decode())
        whole = isinstance(row["iteration"], int) and isinstance(row["task"], str) and isinstance(row["metric"], str)
        shares = [row[k] for k in ("value", "low", "high")] + [row.get("mean_tokens") or 0] if row["metric"] == "pass@1" else []
        if whole and all(isinstance(x, int | float) and math.isfinite(x) for x in shares):
            return row
        said = f"a number is missing or not finite: {line[:120]!r}"
    except (ValueError, KeyError, TypeError) as error:
        said = repr(error)
    raise DataError(
        f"{path}:{number} is no number of `k15 eval watch` ({said}). Start the same watcher again: it writes the file anew."
    )


def table(points: Sequence[Checkpoint]) -> str:
    """All evaluations for a terminal, the choice marked."""
    chosen, enough = best(points), accurate(points)
    rows = [
        [
            str(p.iteration), f"{100 * p.accuracy.estimate:.1f} %", f"{100 * p.accuracy.low:.1f} to {100 * p.accuracy.high:.1f}",
            f"{p.tokens:.1f}", f"{1000 * p.accuracy.estimate / p.tokens:.1f}",
            "chosen" if p == chosen else "" if p in enough else "less accurate",
        ]
        for p in points
    ]  # fmt: skip
    return aligned(COLUMNS, rows)


def main(words: Sequence[str]) -> int:
    """`k15 eval best RUN`: the table, the choice, and where its weights are; the exit code, 1 where they were not kept.
    Raises DataError."""
    parser = argparse.ArgumentParser(
        prog="k15 eval best", allow_abbrev=False,
        description="The checkpoint with the best balance of accuracy and tokens, from which long2short starts (report 2.4): the "
        "most accuracy per token among those whose accuracy is below no other's 95 % interval.",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="run folder of `k15 rl`, or of `k15 eval watch`")
    parser.add_argument("--kind", choices=("greedy", "sampled"), default=KIND, help="answers of the run's own evaluations")
    args = parser.parse_args(list(words))
    points = evaluated(args.run, args.kind)
    chosen = best(points)
    print(table(points))
    run = watched_run(args.run)
    weights = weights_of(run, chosen.iteration)
    if weights is None:
        hf = run / "hf"
        unnamed = hf.is_dir() and exported_iteration(hf) is None
        print(
            f"The weights of iteration {chosen.iteration} are not kept in {run}: hf/ "
            + ("does not say which iteration it holds (an older k15 wrote it). " if unnamed else "is the latest export only. ")
            + "Set save.exports=best (or all) before the run."
        )
        return 1
    print(f"base for long2short: model.path={weights}")
    return 0


def export_folder(run_dir: Path, iteration: int) -> Path:
    """Where `k15 rl` keeps the export of an iteration (save.exports)."""
    return run_dir / "exports" / f"iteration-{iteration:05d}"


def weights_of(run_dir: Path, iteration: int) -> Path | None:
    """The export of an iteration, where there is one: kept, or hf/ of a run that ended with it (another still replaces it)."""
    kept, rows, export = export_folder(run_dir, iteration), run_dir / "metrics.jsonl", run_dir / "hf"
    if kept.is_dir():
        return kept
    ended = (run_dir / "report" / "index.html").is_file() and rows.is_file() and read_metrics(rows)[-1]["iteration"] == iteration
    return export if ended and exported_iteration(export) == iteration else None


def watched_run(folder: Path) -> Path:
    """The run that a folder of `k15 eval watch` has watched; a run folder itself."""
    config = folder / "config.yaml"
    found = yaml.safe_load(config.read_text()) if config.is_file() else {}
    return Path(found["watch"]) if found.get("watch") else folder
