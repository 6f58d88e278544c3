"""Samplers: draw frequencies against exact probabilities, saved states, and the corners of the weights."""

import json
from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.config.schema import SamplerConfig
from k15.data.sampler import KINDS, PromptSampler
from k15.errors import ConfigError, DataError
from k15.types import Prompt


def prompts(n: int, **fields) -> list[Prompt]:
    return [Prompt(f"p{i}", f"{i}+0=", str(i), **fields) for i in range(n)]


def set_probability(weights: np.ndarray, chosen: tuple[int, ...]) -> float:
    """Exact probability of a set under draws without replacement, each proportional to the weights that are left."""
    total = 0.0
    for order in permutations(chosen):
        p, left = 1.0, weights.sum()
        for i in order:
            p, left = p * weights[i] / left, left - weights[i]
        total += p
    return total


def test_prioritised_draws_have_the_exact_probabilities() -> None:
    sampler = PromptSampler(prompts(5), SamplerConfig(kind="prioritised", decay=1.0), seed=3)
    for i, successes in enumerate((0, 2, 4, 7, 8)):
        sampler.record(f"p{i}", [1.0] * successes + [0.0] * (8 - successes))
    weights = 1 - (np.array([0, 2, 4, 7, 8]) + 0.5) / 9
    assert np.allclose(sampler.weights(0), weights, rtol=1e-12)
    draws = 20_000
    seen = Counter(tuple(sorted(int(p.id[1:]) for p in sampler.next(2))) for _ in range(draws))
    expected = {(i, j): draws * set_probability(weights, (i, j)) for i in range(5) for j in range(i + 1, 5)}
    assert abs(sum(expected.values()) - draws) < 1e-6
    chi2 = sum((seen[pair] - e) ** 2 / e for pair, e in expected.items())
    assert chi2 < 33.7, "chi-square with 9 degrees of freedom exceeds this once in 10,000 times"


def test_success_rates_are_smoothed_and_forget() -> None:
    sampler = PromptSampler(prompts(2), SamplerConfig(prior_successes=0.5, prior_trials=1.0, decay=0.5), seed=0)
    sampler.record("p0", [1, 1, 0, 0])
    sampler.record("p0", [1, 1, 1, 1])
    assert np.allclose(sampler.rates(), [(0.5 * 2 + 4 + 0.5) / (0.5 * 4 + 4 + 1), 0.5])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(KINDS), st.integers(0, 2**32))
def test_calls_are_distinct_free_and_resume_exactly(data, kind: str, seed: int) -> None:
    n = data.draw(st.integers(1, 20))
    cfg = SamplerConfig(kind=kind, warmup_iterations=2)
    sampler = PromptSampler(prompts(n), cfg, seed)

    def visit(s: PromptSampler, take: int, busy: list[str], rewards: list[int]) -> list[str]:
        drawn = [p.id for p in s.next(take, exclude=busy)]
        assert len(set(drawn)) == take and not set(drawn) & set(busy)
        for prompt_id in drawn:
            s.record(prompt_id, rewards)
        return drawn

    def step() -> tuple[int, list[str], list[int]]:
        busy = data.draw(st.lists(st.sampled_from([f"p{i}" for i in range(n)]), unique=True, max_size=n - 1))
        return data.draw(st.integers(0, n - len(busy))), busy, data.draw(st.lists(st.integers(0, 1), max_size=4))

    for _ in range(data.draw(st.integers(0, 4))):
        visit(sampler, *step())
    resumed = PromptSampler(prompts(n), cfg, seed + 1)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    for _ in range(3):
        plan = step()
        assert visit(sampler, *plan) == visit(resumed, *plan)


@pytest.mark.parametrize("kind", KINDS)
def test_when_everything_is_solved_draws_go_on_and_stay_fair(kind: str) -> None:
    cfg = SamplerConfig(kind=kind, warmup_iterations=0, prior_successes=0.0, prior_trials=0.0)
    sampler = PromptSampler(prompts(4), cfg, seed=1)
    for i in range(4):
        sampler.record(f"p{i}", [1.0] * 8)
    seen = Counter(p.id for _ in range(4000) for p in sampler.next(1))
    assert all(abs(seen[f"p{i}"] - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5 for i in range(4))


def test_prompts_of_weight_zero_only_fill_up() -> None:
    cfg = SamplerConfig(kind="prioritised", prior_successes=0.0, prior_trials=0.0)
    sampler = PromptSampler(prompts(4), cfg, seed=1)
    for i in range(3):
        sampler.record(f"p{i}", [1.0])
    assert {sampler.next(2)[0].id for _ in range(50)} == {"p3"}


def test_curriculum_takes_all_prompts_first_then_the_hard_ones() -> None:
    data = [Prompt(f"p{i}", f"{i}+0=", str(i), difficulty=float(i) if i < 6 else None) for i in range(8)]
    sampler = PromptSampler(data, SamplerConfig(kind="curriculum", warmup_iterations=3), seed=0)
    assert (sampler.weights(2) == 1).all()
    sampler.record("p0", [0, 0, 0, 1])  # labelled easy, measured hard
    sampler.record("p5", [1, 1, 1, 1])  # labelled hard, measured easy
    assert sampler.weights(3).tolist() == [1, 0, 0, 1, 1, 0, 1, 1], "unmeasured: label below the median 2.5 is easy"
    hard = {p.id for p in sampler.next(5, iteration=3)}
    assert hard == {"p0", "p3", "p4", "p6", "p7"}
    assert hard < {p.id for p in sampler.next(7, iteration=4)}, "too few hard prompts: the rest fills up"


def test_the_histogram_counts_what_was_drawn_as_it_was_known_then() -> None:
    data = prompts(10)
    sampler = PromptSampler(data, SamplerConfig(kind="uniform", prior_successes=0, prior_trials=0), seed=0)
    assert sampler.take_metrics() == {}
    for p, right in zip(data[:4], (0, 1, 2, 4)):  # of four samples
        sampler.record(p.id, [1.0] * right + [0.0] * (4 - right))
    drawn = sampler.next(10)
    sampler.record(data[5].id, [1.0])  # later: no part of the draw
    saved = json.loads(json.dumps(sampler.state_dict()))  # stopped in mid-rollout, and requeued
    found = sampler.take_metrics()
    assert len(drawn) == 10 and found["sampled_new"] == 6
    bins = ["sampled_rate_0_20", "sampled_rate_20_40", "sampled_rate_40_60", "sampled_rate_60_80", "sampled_rate_80_100"]
    assert [found[b] for b in bins] == [1, 1, 1, 0, 1] and sampler.take_metrics() == {}
    resumed = PromptSampler(data, SamplerConfig(kind="uniform"), seed=0)
    resumed.load_state_dict(saved)
    assert resumed.take_metrics() == found and resumed.take_metrics() == {}
    resumed.load_state_dict({k: v for k, v in saved.items() if k != "drawn"})  # of a checkpoint from before
    assert resumed.take_metrics() == {}


def test_prompts_that_the_data_has_no_more_are_forgotten_whether_they_are_tried_or_in_flight() -> None:
    """As where a file was exchanged between two starts of a run."""
    before = PromptSampler(prompts(6), SamplerConfig(), seed=0)
    for i in range(6):
        before.record(f"p{i}", [1])
    after = PromptSampler(prompts(2), SamplerConfig(), seed=0)
    after.load_state_dict(before.state_dict())
    in_flight = [f"p{i}" for i in range(1, 6)]
    for prompt_id in in_flight:
        after.record(prompt_id, [0, 0])
    assert list(after.rates() > 0.5) == [True, False] and after.state_dict()["results"].keys() == {"p0", "p1"}
    assert after.count_free(in_flight) == 1 and [p.id for p in after.next(1, in_flight)] == ["p0"]
    assert after.count_free(["p0", *in_flight]) == 0 and after.next(0, ["p0", *in_flight]) == []


def test_refusals() -> None:
    sampler = PromptSampler(prompts(3), SamplerConfig(), seed=0)
    with pytest.raises(DataError, match="has 3, of which 1 are still in flight"):
        sampler.next(3, exclude=["p1"])
    with pytest.raises(DataError, match="training set is empty"):
        PromptSampler([], SamplerConfig(), seed=0)
    with pytest.raises(DataError, match="same id"):
        PromptSampler(prompts(2) + prompts(1), SamplerConfig(), seed=0)
    with pytest.raises(ConfigError, match="Did you mean 'uniform'"):
        PromptSampler(prompts(2), SamplerConfig(kind="unifrom"), seed=0)
    with pytest.raises(ConfigError, match="prior_successes"):
        PromptSampler(prompts(2), SamplerConfig(prior_successes=2.0), seed=0)


def test_most_labels_at_the_lowest_and_measured_rates() -> None:
    """Curated data: most prompts were always solved (label 0), and the pass rate was measured."""
    data = [Prompt(f"p{i}", "", "", difficulty=0.0 if i < 6 else 0.5) for i in range(10)]
    cfg = SamplerConfig(kind="curriculum", warmup_iterations=0, hard_pass_rate=0.6)
    assert PromptSampler(data, cfg, seed=0).weights(0).tolist() == [0] * 6 + [1] * 4
    rates = [replace(p, meta={"pass_rate": rate}) for p, rate in zip(data, (0.1, 0.6, 0.7, 1.0), strict=False)]
    assert PromptSampler(rates, cfg, seed=0).weights(0).tolist() == [1, 1, 0, 0]
