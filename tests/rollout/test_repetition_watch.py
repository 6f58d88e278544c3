"""TailWatch: vLLM's verdict after every token, whatever the sequence, also past the first repetition."""

import random
from itertools import accumulate
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repetitive import RULES, SEQUENCES, fibonacci_word, square_free, thue_morse
from vllm_repetition import vllm_says

from k15.config.schema import RepetitionConfig
from k15.rollout import repetition
from k15.rollout.scheduler import repeated
from k15.rollout.tail import TailWatch


@settings(max_examples=300, deadline=None)
@given(tokens=SEQUENCES, rule=RULES)
def test_tail_watch_agrees_with_vllm_at_every_token(tokens, rule):
    watch = TailWatch(*rule)
    for n, token in enumerate(tokens, 1):
        assert watch.push(token) == watch.repeated == vllm_says(tokens[:n], *rule), f"after {n} tokens"


@pytest.mark.parametrize("make", [thue_morse, square_free, fibonacci_word])
@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_words_with_known_powers(make, repeats):
    """Long enough that the buffer is trimmed often. Thue-Morse has squares and no cube, the Fibonacci word no fourth power."""
    has = {thue_morse: 2, square_free: 1, fibonacci_word: 3}[make]
    watch = TailWatch(64, repeats)
    assert any([watch.push(token) for token in make(4000)]) == (repeats <= has)


def test_long_periods_are_found_at_the_exact_token_after_long_noise():
    """Periods near the bound, prefixed by noise and by an almost-repetition that breaks one token before it counts."""
    rng = random.Random(5)
    for period in (1, 2, 3, 255, 256, 257, 511, 1023, 1024, 1025):
        watch = TailWatch(1024, 3)
        pattern = [rng.randrange(50_000) for _ in range(period)]
        almost = (pattern * 3)[: 3 * period - 1]
        noise = [50_001 + i for i in range(rng.randrange(20_000))]
        text = [*noise, *almost, 60_000, *pattern, *pattern, *pattern]
        hits = [n for n, token in enumerate(text, 1) if watch.push(token)]
        assert hits == ([] if period > 1024 else [len(text)]), period


@pytest.mark.parametrize("rule", [(4, 1, 1), (4, 2, 0), (2, 2, 3)])
def test_bounds_out_of_order_are_refused(rule):
    with pytest.raises(ValueError, match="needed: 1 <= min_period <= max_period and min_repeats >= 2"):
        TailWatch(*rule)


class Output(list):
    """As a request's list of sampled tokens in vLLM: an object that can hold attributes."""


@settings(max_examples=100, deadline=None)
@given(tokens=SEQUENCES, rule=RULES, steps=st.lists(st.integers(1, 9), max_size=30), cleared=st.integers(0, 60))
def test_the_engines_check_is_vllms_whenever_it_is_asked(tokens, rule, steps, cleared):
    """Token by token, after gaps (min_tokens), and from the first token on after the list was emptied."""
    params = SimpleNamespace(max_pattern_size=rule[0], min_count=rule[1], min_pattern_size=rule[2])
    output, asked = Output(), set(accumulate([*steps, *([1] * len(tokens))]))
    for n, token in enumerate(tokens, 1):
        if n == cleared:
            output.clear()
        output.append(token)
        if n in asked or n == cleared:
            assert repeated(output, params) == vllm_says(list(output), *rule)


def test_the_engines_check_can_be_switched_off_and_takes_zero_for_one():
    off = SimpleNamespace(max_pattern_size=0, min_count=0, min_pattern_size=0)
    assert not repeated(Output([1, 1, 1]), off)
    assert repeated(Output([1, 1, 1]), SimpleNamespace(max_pattern_size=1, min_count=3, min_pattern_size=0))


@settings(max_examples=100, deadline=None)
@given(tokens=SEQUENCES, rule=RULES, start=st.integers(0, 60))
def test_first_repetition_is_the_same_by_sums_and_by_watch(tokens, rule, start):
    cfg = RepetitionConfig(max_period=rule[0], min_repeats=rule[1], min_period=rule[2])
    by_sums = repetition.first_repetition(tokens, min(start, len(tokens)), cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repetition, "_LONG_PERIOD", 0)
        assert repetition.first_repetition(tokens, min(start, len(tokens)), cfg) == by_sums
