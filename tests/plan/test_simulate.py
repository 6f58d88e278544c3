"""The event simulator against a step-by-step one, and what it must show: partial rollouts on a heavy tail (report 2.6.2)."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError, DataError
from k15.plan.lengths import Lengths, lognormal, of_run, percentiles
from k15.plan.rollout import Outage, Speed, Work, phase
from k15.plan.simulate import Scenario, over_budgets, simulate

SPEED = Speed(step_s=0.01, sequence_s=2e-5, context_s=1e-9, prefill_s=1e-6, slots=64)
HEAVY = lognormal(1000, 12, 32768)
SCENARIO = Scenario(
    engines=8, speed=SPEED, lengths=HEAVY, prompts=64, samples=8, prompt_tokens=256, budget=32768, train_fixed_s=1.0,
    train_token_s=1e-6, handoff_s=2.0,
)  # fmt: skip


def stepwise(tokens: list[int], context: list[int], speeds: list[Speed], slow: list[float]) -> list[float]:
    """One decoding step at a time; the engine whose clock is behind goes first."""
    queue = sorted(range(len(tokens)), key=lambda s: -context[s])
    left, ctx, ends = list(tokens), list(context), [0.0] * len(tokens)
    clock, active = [0.0] * len(speeds), [[] for _ in speeds]
    due = set(range(len(speeds)))  # engines at the end of a sequence (or at the start) may take work
    while queue or any(active):
        running = [i for i in range(len(speeds)) if active[i] or (i in due and queue)]
        i = min(running, key=lambda j: (clock[j], j))
        if i in due:
            while queue and len(active[i]) < speeds[i].slots:
                s = queue.pop(0)
                clock[i] += slow[i] * ctx[s] * speeds[i].prefill_s
                active[i].append(s)
            due.discard(i)
        for s in active[i]:
            ctx[s] += 1
            left[s] -= 1
        b = len(active[i])
        clock[i] += slow[i] * (speeds[i].step_s + b * speeds[i].sequence_s + sum(ctx[s] for s in active[i]) * speeds[i].context_s)
        gone = [s for s in active[i] if left[s] == 0]
        for s in gone:
            ends[s] = clock[i]
            active[i].remove(s)
        if gone:
            due.add(i)
    return ends


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=25), st.integers(1, 5), st.floats(1, 3))
def test_one_engine_is_exact_step_by_step(jobs, slots, slow):
    tokens, context = map(list, zip(*jobs, strict=True))
    speed = replace(SPEED, slots=slots, context_s=1e-3)
    found = phase(Work(np.array(tokens), np.array(context)), [speed], [slow])
    want = stepwise(tokens, context, [speed], [slow])
    assert found.ends == pytest.approx(want, rel=1e-9)
    assert found.seconds == pytest.approx(max(want))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 2), st.floats(0, 3)), max_size=4),
    st.integers(1, 4),
)
def test_lost_engines_lose_no_token_and_no_time_runs_backwards(lengths, faults, slots):
    work = Work(np.array(lengths), np.zeros(len(lengths), int))
    speeds = [replace(SPEED, slots=slots)] * 3
    plain = phase(work, speeds)
    faulty = phase(work, speeds, outages=[Outage(*f) for f in faults])
    assert (faulty.ends > 0).all()  # everything was sampled to its end (phase asserts it too)
    whole = sum(lengths) * (SPEED.step_s / slots + SPEED.sequence_s) / 3
    assert faulty.seconds >= whole * 0.999 and plain.seconds >= whole * 0.999
    assert faulty.seconds >= max(lengths) * SPEED.step_s


def test_slow_engines_take_longer_and_share_the_queue():
    work = Work(np.full(256, 100), np.zeros(256, int))
    even = phase(work, [replace(SPEED, slots=8)] * 4).seconds
    slow = phase(work, [replace(SPEED, slots=8)] * 4, [3.0, 1.0, 1.0, 1.0]).seconds
    assert even * 1.1 < slow < even * 1.6  # not 3 times: the others take its share


def test_partial_rollouts_shorten_the_phase_on_a_heavy_tail_and_cost_old_segments():
    shape = percentiles(HEAVY.draw(20000, np.random.default_rng(0)))
    assert shape["ratio"] >= 10
    rows = {r.budget: r for r in over_budgets(SCENARIO, [32768, 8192, 4096], 6, seed=1)}
    assert rows[32768].off_policy == 0 and rows[32768].oldest == 0
    assert rows[32768].rollout_s / rows[4096].rollout_s >= 2.6
    assert rows[4096].off_policy > rows[8192].off_policy > 0
    assert rows[4096].oldest <= 32768 // 4096
    assert rows[32768].lost["tail"] > rows[8192].lost["tail"] > rows[4096].lost["tail"]
    assert rows[4096].efficiency > rows[32768].efficiency


@given(st.integers(0, 3), st.sampled_from([500, 3000, 40000]))
@settings(deadline=None, max_examples=12)
def test_no_token_appears_or_vanishes_and_a_seed_repeats(seed, budget):
    scenario = replace(SCENARIO, budget=budget, lengths=lognormal(300, 6, 2000), slow_share=0.2, slow_factor=2.0, mtbf_s=60.0,
                       restart_s=5.0)  # fmt: skip
    first, again = simulate(scenario, 8, seed), simulate(scenario, 8, seed)
    assert [i.seconds for i in first] == [i.seconds for i in again]
    waiting = 0
    for i in first:
        waiting += i.tokens - i.trained_tokens
        assert waiting >= 0 and 0 <= i.off_policy <= 1 and i.parts["ideal"] > 0
        assert i.seconds == pytest.approx(sum(i.parts.values()))
    if budget >= 2000:
        assert waiting == 0 and all(i.groups == scenario.prompts and i.off_policy == 0 for i in first)


def test_repetition_stops_save_what_would_run_to_the_end():
    wild = replace(SCENARIO, repetition=0.05)
    stopped = replace(wild, stop_at=200)
    assert sum(i.rollout_s for i in simulate(stopped, 3, 0)) < 0.8 * sum(i.rollout_s for i in simulate(wild, 3, 0))


def test_lengths_have_the_tail_that_was_asked_for(tmp_path):
    found = percentiles(lognormal(500, 10, 10**9).draw(200_000, np.random.default_rng(0)))
    assert math.isclose(found["p50"], 500, rel_tol=0.02) and math.isclose(found["ratio"], 10, rel_tol=0.05)
    assert Lengths(5, measured=(1, 9)).draw(100, np.random.default_rng(0)).max() == 5
    for wrong in ((0, 10), (500, 0.5)):
        with pytest.raises(ConfigError, match="at least 1"):
            lognormal(*wrong, 100)
    with pytest.raises(DataError, match="no lengths"):
        of_run(tmp_path, 100)


def test_training_takes_prompts_too() -> None:
    scenario = replace(SCENARIO, prompt_tokens=4096, train_token_s=1e-3, train_fixed_s=0.0)
    (one,) = simulate(scenario, 1, seed=0)  # all of 64 x 8 sequences end within the budget
    assert one.parts["train"] == pytest.approx((one.trained_tokens + 512 * 4096) * 1e-3)
