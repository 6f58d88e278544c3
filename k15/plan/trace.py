"""A run folder as a yardstick: its lengths, an engine's constants fitted on every other iteration, and those between replayed.

The number of decoding steps of a phase follows from lengths and slots alone, so that rollout seconds are linear in the
constants:  seconds = fixed + steps step_s + tokens sequence_s, with none negative (least squares). The same for training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from k15.errors import DataError
from k15.log.metrics import read_metrics
from k15.log.rollouts import list_rollouts, read_rollouts
from k15.plan.rollout import Speed, Work, phase


@dataclass(frozen=True)
class Seen:
    """One measured iteration: what was sampled in it and how long its parts took (seconds; `iteration_s` without evaluation)."""

    work: Work
    rollout_s: float
    iteration_s: float
    train_s: float
    train_tokens: float


@dataclass(frozen=True)
class Fitted:
    """Constants of a run: `fixed_s` of a rollout phase beside its decoding, `rest_s` of an iteration beside rollout and
    training; training takes train_fixed_s + tokens * train_token_s."""

    speed: Speed
    fixed_s: float
    train_fixed_s: float
    train_token_s: float
    rest_s: float


@dataclass(frozen=True)
class Replay:
    """Constants of one half, and (predicted, measured) mean seconds of the other, with the mean deviation of its
    single iterations."""

    fitted: Fitted
    iterations: int
    rollout: tuple[float, float]
    iteration: tuple[float, float]
    rollout_deviation: float
    iteration_deviation: float


def read_trace(folder: str | Path, prompt_tokens: int) -> list[Seen]:
    """The measured iterations of a run folder. Raises DataError where it has too few."""
    if not (Path(folder) / "metrics.jsonl").is_file():
        raise DataError(f"plan.trace is {str(folder)!r}, which has no metrics.jsonl. Give the folder of a run of `k15 rl`.")
    files, found = dict(list_rollouts(folder)), []
    for row in read_metrics(Path(folder) / "metrics.jsonl"):
        if row["iteration"] not in files or "time_rollout_s" not in row or "train_tokens" not in row:
            continue
        tokens, context = [], []
        for record in read_rollouts(files[row["iteration"]]):
            now = sum(s["n_tokens"] for s in record["segments"] if s["version"] == row["version"])
            if now:
                tokens.append(now)
                context.append(prompt_tokens + sum(s["n_tokens"] for s in record["segments"] if s["version"] < row["version"]))
        times = {k: float(row.get(f"time_{k}_s", 0.0)) for k in ("rollout", "reward", "train", "weights")}
        found.append(Seen(Work(np.array(tokens), np.array(context)), times["rollout"], sum(times.values()), times["train"],
                          float(row["train_tokens"])))  # fmt: skip
    if len(found) < 6:
        raise DataError(
            f"{folder} has {len(found)} iterations with times and rollouts, too few to fit constants on half of them; at least 6 "
            "are needed (log.rollouts=true writes rollouts)."
        )
    return found


def replay(seen: Sequence[Seen], engines: int, slots: int) -> Replay:
    """Fit on every other iteration, and run the simulator over the lengths of those between: halves in time would measure
    how the load of a shared machine drifted."""
    fitted, others = fit(seen[::2], engines, slots), seen[1::2]
    rollout = [fitted.fixed_s + phase(s.work, [fitted.speed] * engines).seconds for s in others]
    train = [fitted.train_fixed_s + s.train_tokens * fitted.train_token_s for s in others]
    whole = [r + t + fitted.rest_s for r, t in zip(rollout, train)]
    measured = [s.rollout_s for s in others], [s.iteration_s for s in others]

    def deviation(got: Sequence[float], want: Sequence[float]) -> float:
        return fmean(abs(g / w - 1) for g, w in zip(got, want, strict=True))

    return Replay(
        fitted, len(rollout), (fmean(rollout), fmean(measured[0])), (fmean(whole), fmean(measured[1])),
        deviation(rollout, measured[0]), deviation(whole, measured[1]),
    )  # fmt: skip


def fit(seen: Sequence[Seen], engines: int, slots: int) -> Fitted:
    """Constants that explain these iterations best."""
    counting = Speed(step_s=1.0, sequence_s=0.0, context_s=0.0, prefill_s=0.0, slots=slots)
    rows = [[1.0, phase(s.work, [counting] * engines).seconds, s.work.tokens.sum() / engines] for s in seen]
    fixed, step_s, sequence_s = _least_squares(rows, [s.rollout_s for s in seen])
    train_fixed, train_token = _least_squares([[1.0, s.train_tokens] for s in seen], [s.train_s for s in seen])
    rest = fmean(s.iteration_s - s.rollout_s - s.train_s for s in seen)
    return Fitted(Speed(step_s, sequence_s, 0.0, 0.0, slots), fixed, train_fixed, train_token, rest)


def _least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients >= 0 with the least squared error: the best of all subsets of columns whose plain solution is >= 0."""
    a, y = np.asarray(rows), np.asarray(values)
    best: tuple[float, list[float]] | None = None
    for count in range(1, a.shape[1] + 1):
        for chosen in combinations(range(a.shape[1]), count):
            part, *_ = np.linalg.lstsq(a[:, chosen], y, rcond=None)
            if (part < 0).any():
                continue
            error = float(((a[:, chosen] @ part - y) ** 2).sum())
            if best is None or error < best[0]:
                whole = [0.0] * a.shape[1]
                for at, value in zip(chosen, part, strict=True):
                    whole[at] = float(value)
                best = (error, whole)
    assert best is not None, "one column of positive numbers always has a solution"
    return best[1]
