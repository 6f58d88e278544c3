"""What is read off a run, and what so many seeds say: paired differences with t intervals, and a verdict by a rule.

The rules were written before the runs were made, and are printed with every finding:
    an interval     mean over seeds of the difference within a seed, with Student's t at 95 %
    repeats         the whole interval lies on the side that the report says
    does not repeat the whole interval lies on the other side
    not decided     it holds zero, or there are fewer than two seeds
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from benchmarks.findings.arms import Point

REPEATS, OPPOSITE, UNDECIDED = "repeats", "does not repeat at this scale", "not decided"
REACH = 0.75  # the stated accuracy: so much of the way from the base arm's start to its best mean accuracy


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and its 95 % interval; low and high are NaN with fewer than two seeds."""

    mean: float
    low: float
    high: float
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """Student's t interval of the mean of one value a seed."""
    mean = fmean(values)
    if len(values) < 2:
        return Spread(mean, math.nan, math.nan, len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Spread(mean, mean - half, mean + half, len(values))


def verdict(difference: Spread) -> str:
    """Of a difference whose positive side is the report's."""
    if difference.low > 0:
        return REPEATS
    return OPPOSITE if difference.high < 0 else UNDECIDED


def joint(verdicts: Sequence[str]) -> str:
    """Of a claim in several parts: it repeats where all do, and does not where one does not."""
    if OPPOSITE in verdicts:
        return OPPOSITE
    return REPEATS if all(v == REPEATS for v in verdicts) else UNDECIDED


def final(points: Sequence[Point]) -> float:
    """Accuracy at the end: the mean of the last two evaluations, so that one evaluation's noise counts less."""
    return fmean(p.accuracy for p in points[-2:])


def final_length(points: Sequence[Point]) -> float:
    return fmean(p.length for p in points[-2:])


def on_the_way(points: Sequence[Point]) -> float:
    """Mean accuracy over training: area under accuracy against samples, over the samples. One evaluation: its accuracy."""
    x, y = [p.samples for p in points], [p.accuracy for p in points]
    return float(np.trapezoid(y, x)) / (x[-1] - x[0]) if x[-1] > x[0] else y[-1]


def stated_accuracy(base: Sequence[Sequence[Point]]) -> float:
    """The accuracy whose price in samples is compared, from the base arm alone: REACH of its way up, means over seeds."""
    means = [fmean(p.accuracy for p in at) for at in zip(*base, strict=True)]
    return means[0] + REACH * (max(means) - means[0])


def samples_to(points: Sequence[Point], accuracy: float) -> float | None:
    """Responses trained on until held-out accuracy first reaches `accuracy`, between evaluations by a straight line; None where
    it never does."""
    before = points[0]
    if before.accuracy >= accuracy:
        return before.samples
    for point in points[1:]:
        if point.accuracy >= accuracy:
            share = (accuracy - before.accuracy) / (point.accuracy - before.accuracy)
            return before.samples + share * (point.samples - before.samples)
        before = point
    return None


def slope(points: Sequence[Point]) -> tuple[float, float]:
    """(slope, correlation) of accuracy in percentage points on mean length in tokens over a run's evaluations.

    NaN where the length never changes."""
    x, y = [p.length for p in points], [100 * p.accuracy for p in points]
    if len(set(x)) < 2:
        return math.nan, math.nan
    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.rvalue)
