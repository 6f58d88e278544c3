"""Shortest correct answers and preference pairs: properties over any group, and the rule's edges."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.errors import ConfigError
from k15.long2short.answers import Answer, Answered
from k15.long2short.long_cot import frequencies, select, traits
from k15.long2short.pairs import preference_pairs
from k15.long2short.shortest import shortest_correct

ANSWERS = st.builds(Answer, st.text("ab ", max_size=3), st.integers(1, 40), st.booleans(), st.booleans())
GROUPS = st.lists(ANSWERS, max_size=10).map(lambda a: Answered("p", tuple(a)))


@given(GROUPS, st.floats(1.01, 4))
def test_pairs_are_exactly_what_the_rule_says(group, ratio):
    assert Answered.from_json(group.to_json()) == group
    chosen = shortest_correct(group)
    usable = [a for a in group.answers if a.correct and a.whole]
    assert (chosen is None) == (not usable)
    pairs = preference_pairs(group, ratio)
    if chosen is None:
        assert pairs == []
        return
    assert chosen.length == min(a.length for a in usable)
    rejected = [r for _, r in pairs]
    assert all(c == chosen for c, _ in pairs) and len({r.text for r in rejected}) == len(rejected)
    for answer in group.answers:
        worse = (not answer.correct and answer.length > chosen.length) or (
            answer.correct and answer.length >= ratio * chosen.length
        )
        expected = worse and answer.text != chosen.text and answer.text.strip() != ""
        assert not expected or answer.text in {r.text for r in rejected}
        assert expected or answer not in rejected


def test_the_edges_of_the_rule():
    right = [Answer("#4", 10, True), Answer("1+3=4#4", 15, True), Answer("longer #4", 14, True)]
    wrong = [Answer("#5", 11, False), Answer("#6", 10, False), Answer("cut", 96, False, whole=False)]
    pairs = preference_pairs(Answered("2+2=", (*right, *wrong)))
    assert [(c.text, r.text) for c, r in pairs] == [("#4", "1+3=4#4"), ("#4", "#5"), ("#4", "cut")]
    assert shortest_correct(Answered("p", (Answer("cut off but right", 3, True, whole=False),))) is None
    with pytest.raises(ConfigError, match="above 1"):
        preference_pairs(Answered("p", ()), 1.0)


TEXTS = {
    "We need to find x. 2x=4, x=2. Check: 2*2=4. The answer is 2.": {"planning", "evaluation"},
    "2x=4, x=3. Wait, that is wrong. Alternatively, halve both sides: x=2.": {"reflection", "exploration"},
    "x=2. " * 20 + "My plan was simple.": set(),  # a plan at the end is none
    "The waiter checked in, planets await.": set(),  # whole words only
}


@pytest.mark.parametrize("text", TEXTS)
def test_traits_are_whole_phrases_and_plans_come_first(text):
    assert traits(text) == TEXTS[text]


@given(GROUPS, st.integers(0, 4), st.integers(1, 3))
def test_only_right_whole_answers_are_learned_from_most_traits_first(group, least, most):
    rich = Answer("Let me start. Check it. Wait, that is wrong. Another way: 4", 9, True)
    group = Answered("p", (*group.answers, rich))
    chosen = select(group, least, most)
    assert chosen[0][0] == rich and len(chosen) <= most
    assert all(a.correct and a.whole and len(t) >= least for a, t in chosen)
    assert len({a.text for a, _ in chosen}) == len(chosen)
    assert frequencies(Counter(t for _, t in chosen))["reflection"] == sum("reflection" in t for _, t in chosen) / len(chosen)
