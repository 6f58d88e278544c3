"""Intervals against published values, and against what they promise: coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import DataError
from k15.eval.estimates import of_values
from k15.eval.intervals import Interval, clustered_wilson, difference, paired_gain, wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published_values(correct, n, low, high):
    got = wilson(correct, n)
    assert (round(got.low, 4), round(got.high, 4), got.estimate) == (low, high, correct / n)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),  # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10 (cases a, c, e)
    [((56, 70), (48, 80), 0.0524, 0.3339), ((6, 7), (2, 7), 0.0582, 0.8062), ((0, 10), (0, 20), -0.1611, 0.2775)],
)
def test_difference_published_values(a, b, low, high):
    got = difference(before=wilson(*b), after=wilson(*a))
    assert (round(got.low, 4), round(got.high, 4)) == (low, high)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_own_equation(pair):
    """The ends are where |p - end| = z sqrt(end (1 - end) / n); and right and wrong are mirror images."""
    correct, n = pair
    got = wilson(correct, n)
    assert 0 <= got.low <= got.estimate <= got.high <= 1
    for end in (got.low, got.high):
        z = abs(got.estimate - end) / math.sqrt(end * (1 - end) / n) if 0 < end < 1 else 1.959964
        assert z == pytest.approx(1.959964, rel=1e-4)
    mirror = wilson(n - correct, n)
    assert (1 - mirror.high, 1 - mirror.low) == pytest.approx((got.low, got.high), abs=1e-12)


def test_clustered_wilson_limits():
    """Answers that always agree count once a problem; one answer a problem is plain Wilson, but for n - 1."""
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.3
    agreeing = clustered_wilson([[r] * 8 for r in right])
    single = wilson(int(right.sum()), 400)
    assert (agreeing.low, agreeing.high) == pytest.approx((single.low, single.high), abs=2e-4)
    independent = clustered_wilson((rng.random((400, 8)) < 0.3).tolist())
    full = wilson(round(independent.estimate * 3200), 3200)
    assert independent.high - independent.low == pytest.approx(full.high - full.low, rel=0.1)
    assert clustered_wilson([[True] * 8] * 20) == wilson(20, 20)
    assert clustered_wilson([[True, False]] * 20) == wilson(20, 40)
    assert clustered_wilson([[True, False]]) == Interval(0.5, *_ends(wilson(0.5, 1)))


def _ends(interval):
    return interval.low, interval.high


def test_intervals_cover_the_truth():
    """Problems of differing difficulty, 4 answers each: about 95 % of the intervals hold the true accuracy and gain."""
    rng = np.random.default_rng(1)
    runs, hits_accuracy, hits_gain = 300, 0, 0
    for _ in range(runs):
        before_p = rng.beta(0.6, 1.4, 120)  # mean 0.3
        after_p = before_p + 0.5 * (1 - before_p)  # mean 0.65: gain 0.35
        before, after = (rng.random((120, 4)) < p[:, None] for p in (before_p, after_p))
        interval = clustered_wilson(before.tolist())
        hits_accuracy += interval.low <= 0.3 <= interval.high
        gain = paired_gain(before.mean(1), after.mean(1), resamples=400)
        hits_gain += gain.low <= 0.35 <= gain.high
    assert 0.92 <= hits_accuracy / runs <= 0.98
    assert 0.90 <= hits_gain / runs <= 0.98


def test_paired_gain_is_the_normal_interval_for_many_problems():
    rng = np.random.default_rng(2)
    before = (rng.random(800) < 0.3).astype(float)
    after = np.maximum(before, rng.random(800) < 0.4)
    got = paired_gain(before, after)
    half = 1.96 * (after - before).std(ddof=1) / math.sqrt(800)
    assert got.estimate == pytest.approx((after - before).mean())
    assert (got.estimate - got.low, got.high - got.estimate) == pytest.approx((half, half), rel=0.05)
    unpaired = difference(wilson(before.sum(), 800), wilson(after.sum(), 800))
    assert got.high - got.low < unpaired.high - unpaired.low
    assert paired_gain(before, after) == got  # seeded


def test_equal_gains_leave_room_for_others():
    """Of 30 equal runs no share of problems above Wilson's bound of 0 of 30 can differ; one problem says next to nothing."""
    same, one = paired_gain([1.0] * 30, [1.0] * 30), paired_gain([0.0], [1.0])
    bound = wilson(0, 30).high
    assert (same.estimate, same.low, same.high) == (0, pytest.approx(-bound), pytest.approx(bound))
    assert one.estimate == one.high == 1 and one.low < -0.5
    half = of_values([0.5] * 4)[0]
    assert 0 <= half.low < half.estimate < half.high <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(1, 0),
        lambda: wilson(3, 2),
        lambda: wilson(-1, 2),
        lambda: clustered_wilson([]),
        lambda: clustered_wilson([[True], []]),
        lambda: paired_gain([1.0], [1.0, 0.0]),
    ],
)
def test_impossible_counts_are_refused(call):
    with pytest.raises(DataError):
        call()
