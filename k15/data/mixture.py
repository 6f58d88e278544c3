"""The order in which fine-tuning sees its examples, and the optimizer steps that cut it: a function of seed and data only.

    files x weights ─ each epoch anew ─▶ shuffled order ─▶ those that fit the stage's context ─▶ steps of about batch_tokens

The whole schedule is known at the start, so that a resumed run needs nothing but the number of steps it has done.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from k15.config.fit import StageConfig
from k15.errors import DataError


@dataclass(frozen=True)
class Step:
    """One optimizer step: the `units` (numbers of examples or pairs) it trains on, at the learning rate `lr`."""

    stage: str
    epoch: int
    lr: float
    context_tokens: int
    units: np.ndarray


def rise_and_fall(step: int, steps: int, rise: int, lr: float, final_lr: float) -> float:
    """The learning rate of `step` (from 0) of `steps`: linear over the first `rise`, then a cosine from lr to final_lr, which is
    the last step's where any is left for it; a single step without a rise has lr."""
    if step < rise or steps == 1:
        return lr * (step + 1) / max(1, rise)
    fall = steps - rise - 1
    done = (step - rise) / fall if fall else 1.0
    return final_lr + 0.5 * (lr - final_lr) * (1 + math.cos(math.pi * done))


def times_seen(size: int, weight: float) -> tuple[int, int]:
    """(how often an epoch sees all of a file's `size` units, how many of them it sees once more)."""
    whole = int(weight)
    return whole, round((weight - whole) * size)


def epoch_order(sizes: Sequence[int], weights: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Unit numbers of one epoch, shuffled. Units of file f are seen floor(weight) times, and a random part of them, which is
    the rest of the weight, once more. Files follow each other in the numbering; sizes: units of each."""
    parts, first = [], 0
    for size, weight in zip(sizes, weights, strict=True):
        whole, more = times_seen(size, weight)
        numbers = np.arange(first, first + size)
        parts += [numbers] * whole + [rng.permutation(numbers)[:more]]
        first += size
    return rng.permutation(np.concatenate(parts))


def even_cuts(lengths: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Bounds [steps + 1] that cut a sequence of `lengths` into steps of about equal tokens, near `batch_tokens` at most."""
    ends = np.cumsum(lengths)
    steps = max(1, math.ceil(ends[-1] / batch_tokens))
    inner = np.searchsorted(ends, ends[-1] * np.arange(1, steps) / steps, side="left") + 1
    return np.unique(np.concatenate(([0], inner, [len(lengths)])))


class Schedule:
    """All steps of a run. `lengths` [n]: tokens of each unit, which goes into one pack. `longest`: no stage shows a unit of more.

    Raises DataError where a stage has no unit that fits its context.
    """

    def __init__(
        self, stages: Mapping[str, StageConfig], sizes: Sequence[int], weights: Sequence[float], lengths: np.ndarray,
        seed: int, longest: int | None = None,
    ) -> None:  # fmt: skip
        self._steps: list[tuple[str, int, np.ndarray]] = []
        self._stages, self._first, self._count = stages, {}, {}
        self.left_out: dict[str, int] = {}
        """Units that no epoch of a stage shows, because they are longer than its context, or than `longest`."""
        for number, (name, stage) in enumerate(stages.items()):
            self._first[name] = len(self._steps)
            most = stage.context_tokens if longest is None else min(stage.context_tokens, longest)
            self.left_out[name] = int((lengths > most).sum()) if stage.epochs else 0
            for epoch in range(stage.epochs):
                order = epoch_order(sizes, weights, np.random.default_rng([seed, number, epoch]))
                order = order[lengths[order] <= most]
                if not len(order):
                    limit = "model.max_context_tokens" if most < stage.context_tokens else f"{name}.context_tokens"
                    raise DataError(f"no example fits {limit}={most}; raise it")
                bounds = even_cuts(lengths[order], stage.batch_tokens)
                self._steps += [(name, epoch, order[a:b]) for a, b in pairwise(bounds)]
            self._count[name] = len(self._steps) - self._first[name]

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> Step:
        name, epoch, units = self._steps[step]
        stage, count = self._stages[name], self._count[name]
        rise = min(math.ceil(stage.rise * count), max(1, count - 1))  # a stage of several steps ends at final_lr
        lr = rise_and_fall(step - self._first[name], count, rise, stage.lr, stage.final_lr)
        return Step(name, epoch, lr, stage.context_tokens, units)
