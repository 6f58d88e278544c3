"""95 % intervals for accuracies and for their gain. Small closed forms, and one seeded bootstrap.

    wilson                one answer a problem (greedy)
    clustered_wilson      several answers a problem (sampled): answers to the same problem are not independent
    difference            gain between two accuracies given with their intervals, taken as independent
    paired_gain           gain on the same problems, resampling problems; narrower, needs the verdict of each problem

Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857 (single) and 17:873 (difference, method 10).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from k15.errors import DataError


@dataclass(frozen=True, slots=True)
class Interval:
    """`estimate` with the interval [low, high] of the stated confidence. Shares are 0..1, gains -1..1."""

    estimate: float
    low: float
    high: float


def wilson(correct: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for `correct` of `n`; `n` may be an effective number. Stays within 0..1."""
    if not (n > 0 and 0 <= correct <= n):
        raise DataError(f"an accuracy needs 0 <= correct <= n and n > 0, not {correct} of {n}.")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    p = correct / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * p * (1 - p) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if correct == 0 else max(0.0, centre - half)  # exact ends, free of rounding
    high = 1.0 if correct == n else min(1.0, centre + half)
    return Interval(p, low, high)


def clustered_wilson(verdicts: Sequence[Sequence[bool]], confidence: float = 0.95) -> Interval:
    """Accuracy over all answers; `verdicts[i]` are those to problem i. Wilson with the effective number of answers.

    n_eff = p (1 - p) / Var(p), Var(p) the ratio estimator's between-problem variance. It is the number of problems
    when all answers to a problem agree, and the number of answers when they are independent (and never more).
    """
    if not verdicts or any(len(v) == 0 for v in verdicts):
        raise DataError("an accuracy needs at least one problem, and an answer to each.")
    right = np.array([sum(v) for v in verdicts], dtype=float)
    size = np.array([len(v) for v in verdicts], dtype=float)
    problems, answers = len(verdicts), float(size.sum())
    p = float(right.sum()) / answers
    residual = right - p * size
    variance = float((residual**2).sum()) / answers**2 * problems / max(problems - 1, 1)
    if p in (0.0, 1.0) or problems == 1:
        effective = float(problems)  # the variance says nothing about dependence: count problems only
    elif variance == 0:
        effective = answers  # every problem has exactly the mean
    else:
        effective = min(p * (1 - p) / variance, answers)
    return wilson(p * effective, effective, confidence)


def difference(before: Interval, after: Interval) -> Interval:
    """Gain after - before by Newcombe's square-and-add; the two are taken as independent.

    On the same problems the two are positively correlated as a rule, and this interval is then wider than it need be.
    """
    gain = after.estimate - before.estimate
    low = gain - math.hypot(after.estimate - after.low, before.high - before.estimate)
    high = gain + math.hypot(after.high - after.estimate, before.estimate - before.low)
    return Interval(gain, max(-1.0, low), min(1.0, high))


def paired_gain(
    before: Sequence[float], after: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of after - before over the same problems; `before[i]`, `after[i]` are problem i's shares of right answers.

    Percentile bootstrap over problems (so answers to one problem stay together). Any quantity of -1..1 will do. Where all gains
    are the same a bootstrap knows nothing of others: the share of problems with another gain is then bounded as 0 of n is.
    """
    if len(before) != len(after) or not len(before):
        raise DataError(f"a paired gain needs the same problems twice, not {len(before)} before and {len(after)} after.")
    gains = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if np.ptp(gains) == 0:
        gain, others = float(gains[0]), wilson(0, len(gains), confidence).high
        return Interval(gain, gain - others * (1 + gain), gain + others * (1 - gain))
    rng = np.random.default_rng(seed)
    means = [gains[rng.integers(0, len(gains), len(gains))].mean() for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(gains.mean()), float(low), float(high))
