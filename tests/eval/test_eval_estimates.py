"""Numbers of `k15 eval` against oracles: exhaustive subsets, a fitted logistic curve, known intervals."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError
from k15.eval.codeforces import estimate_rating, largest_class, log_likelihood
from k15.eval.estimates import estimates, majority, majority_at, pass_at
from k15.eval.intervals import wilson
from k15.eval.votes import classes
from k15.reward.pool import WorkerPool


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = list(combinations(right, k))
    assert pass_at(len(right), sum(right), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@settings(max_examples=60)
@given(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=7), st.data())
def test_majority_is_the_mean_over_random_tie_breaks(names: list[int | None], data: st.DataObject) -> None:
    """Oracle: for every order of the answers the first class to reach the top count wins; all orders are equally likely."""
    good = data.draw(st.sampled_from([0, 1, 2]))
    right = [n == good for n in names]
    counts = {n: names.count(n) for n in names if n is not None}
    top = [n for n, c in counts.items() if c == max(counts.values())]
    assert majority(names, right) == pytest.approx(sum(n == good for n in top) / len(top) if top else 0.0)
    k = data.draw(st.integers(1, len(names)))
    subsets = list(combinations(range(len(names)), k))
    expected = np.mean([majority([names[i] for i in s], [right[i] for i in s]) for s in subsets])
    assert majority_at(names, right, k) == pytest.approx(expected)


def test_majority_of_many_subsets_is_sampled_with_a_seed() -> None:
    names = [0] * 12 + [1] * 8
    right = [n == 0 for n in names]
    exact = sum(math.comb(12, a) * math.comb(8, 5 - a) for a in (3, 4, 5)) / math.comb(20, 5)
    found = majority_at(names, right, 5, "p")
    assert found == majority_at(names, right, 5, "p")
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 200)


def test_intervals_are_named_and_cover() -> None:
    """One answer: Wilson's. Several: pass@1 counts problems, not answers, so agreeing answers do not narrow it."""
    single = estimates([[True]] * 30 + [[False]] * 70, None, [1])[0]
    assert single.method == "Wilson" and single.interval == wilson(30, 100)
    agreeing = {e.metric: e for e in estimates([[True] * 8] * 30 + [[False] * 8] * 70, [[0] * 8] * 100, [1, 4, 8])}
    assert list(agreeing) == ["pass@1", "pass@4", "maj@4", "pass@8", "maj@8"]
    for e in agreeing.values():
        assert e.interval.high - e.interval.low == pytest.approx(single.interval.high - single.interval.low, rel=0.02)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(20):  # a bootstrap interval over problems covers the true pass@2 about as often as it says
        p = rng.beta(1, 1, 80)
        verdicts = [[bool(x) for x in rng.random(4) < q] for q in p]
        found = next(e for e in estimates(verdicts, None, [2]) if e.metric == "pass@2")
        assert found.method == "bootstrap over problems"
        covered += found.interval.low <= 1 - 1 / 3 <= found.interval.high  # E[1 - (1 - p)^2] for a uniform p
    assert covered >= 17
    with pytest.raises(ConfigError, match="sampling.samples"):
        estimates([[True, False]], None, [4])


def test_equal_answers_are_one_class() -> None:
    with WorkerPool() as pool:
        assert classes(["1/2", "0.5", None, "\\frac{1}{2}", "2", "x+1", "1+x", "2.0"], pool) == [0, 0, None, 0, 1, 2, 2, 1]


def test_rating_is_the_logistic_fit() -> None:
    """The score equation holds at the estimate, intervals shrink with more problems, and the ends are open where they must."""
    rng = np.random.default_rng(1)
    problems = list(rng.uniform(800, 2600, 400))
    solved = [bool(x) for x in rng.random(400) < 1 / (1 + 10 ** ((np.array(problems) - 1700) / 400))]
    found = estimate_rating(problems, solved, population=[1000.0, 1500.0, 1900.0, 2400.0])
    assert found.rating is not None and found.low < found.rating < found.high and found.low < 1700 < found.high
    slope = log_likelihood(found.rating + 0.5, problems, solved) - log_likelihood(found.rating - 0.5, problems, solved)
    assert abs(slope) < 1e-6 and found.percentile == 50.0
    drop = log_likelihood(found.rating, problems, solved) - log_likelihood(found.low, problems, solved)
    assert drop == pytest.approx(1.920729, abs=1e-4)
    few = estimate_rating(problems[:40], solved[:40])
    assert few.high - few.low > 2 * (found.high - found.low)
    everything = estimate_rating([1200.0, 1500.0], [True, True])
    assert everything.rating is None and everything.high == math.inf and 1000 < everything.low < 2000
    nothing = estimate_rating([1200.0, 1500.0], [False, False])
    assert nothing.rating is None and nothing.low == -math.inf and 500 < nothing.high < 1500


def test_the_vote_hands_in_the_first_of_the_largest_class() -> None:
    assert largest_class([("1",), ("2", "x"), ("2", "x"), None]) == 1
    assert largest_class([("1",), ("2",), None]) == 0  # a tie: the earliest
    assert largest_class([None, None]) is None
