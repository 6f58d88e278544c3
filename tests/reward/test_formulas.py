"""Length reward and baselines against independent oracles."""

import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError
from k15.reward.baseline import KINDS, baselines
from k15.reward.length import length_reward, length_weight

responses = st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=16)


def test_the_reports_numbers() -> None:
    assert length_reward([10, 20, 30], [True, True, True]) == [0.5, 0.0, -0.5]
    assert length_reward([10, 20, 30], [False, False, False]) == [0.0, 0.0, -0.5]
    assert length_reward([7, 7], [True, False]) == [0.0, 0.0]
    assert length_reward([], []) == []
    assert [length_weight(0.5, 2, i) for i in range(4)] == [0.0, 0.0, 0.5, 0.5]


@settings(deadline=None)
@given(responses, st.integers(1, 9), st.integers(0, 1000))
def test_length_reward_properties(rows: list[tuple[int, bool]], scale: int, shift: int) -> None:
    lengths, correct = [n for n, _ in rows], [ok for _, ok in rows]
    values = length_reward(lengths, correct)
    assert all(-0.5 <= v <= 0.5 for v in values)
    assert all(v <= 0 for v, ok in zip(values, correct, strict=True) if not ok), "no incorrect response gains by being short"
    if min(lengths) == max(lengths):
        assert values == [0.0] * len(values)
    moved = length_reward([scale * n + shift for n in lengths], correct)
    assert moved == pytest.approx(values, abs=1e-9), "only relative lengths matter"
    for (n, ok), v in zip(rows, values, strict=True):
        for (m, other), w in zip(rows, values, strict=True):
            if ok == other and n <= m:
                assert v >= w, "a shorter response of the same verdict never gets less"


rewards = st.lists(st.floats(-5, 5), min_size=2, max_size=16)


@settings(deadline=None)
@given(rewards, st.floats(0.001, 100))
def test_baselines_against_high_precision(values: list[float], tau: float) -> None:
    k = len(values)
    with mpmath.workdps(60):
        exact = mpmath.mpf(tau) * mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(r) / mpmath.mpf(tau)) for r in values) / k)
    assert baselines(values, "log_partition", tau) == pytest.approx([float(exact)] * k, rel=1e-9, abs=1e-9)
    mean = baselines(values, "mean", tau)
    assert mean == pytest.approx([math.fsum(values) / k] * k)
    for r, b, loo in zip(values, mean, baselines(values, "leave_one_out"), strict=True):
        assert r - loo == pytest.approx(k / (k - 1) * (r - b), abs=1e-9)


def test_extremes_do_not_overflow_and_wrong_settings_are_refused() -> None:
    assert baselines([1000.0, 0.0], "log_partition", 1e-4) == pytest.approx([1000 - 1e-4 * math.log(2)] * 2, rel=1e-12)
    assert [baselines([], kind) for kind in KINDS] == [[]] * len(KINDS)
    with pytest.raises(ConfigError, match=r"samples_per_prompt to 2"):
        baselines([1.0], "leave_one_out")
    with pytest.raises(ConfigError, match=r"Allowed: leave_one_out, log_partition, mean, none"):
        baselines([1.0], "median")
    with pytest.raises(ConfigError, match=r"algo.tau is 0"):
        baselines([1.0], "log_partition", 0.0)
    with pytest.raises(ValueError, match=r"2 lengths but 1 verdicts"):
        length_reward([1, 2], [True])
