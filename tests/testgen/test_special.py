"""Statements that say that several outputs are right, and statements that only sound like it."""

from pathlib import Path

import pytest

from k15.testgen.problems import load_problems
from k15.testgen.special import several_answers

BED = Path(__file__).parent / "problems"
SEVERAL = [
    "If there are multiple answers, print any of them.",
    "If there are several solutions, output any.",
    "Print any valid permutation.",
    "If more than one such path exists, you may print any one of them.",
    "Find any array that satisfies the conditions.",
    "Any correct answer will be accepted.",
    "You can output the vertices in any order.",
    "In case of multiple optimal plans, whichever you print is fine.",
    "All valid colourings are accepted.",
    "This is an interactive problem.",
    "The output is checked by a special judge.",
    "If there are many\nsuch subsets, you may choose any of\nthem.",
]
ONE = [
    "How many ways are there to pay? Print the number of ways modulo 7.",
    "Print the lexicographically smallest answer.",
    "You may use any coin any number of times. Print the smallest number of coins.",
    "There are several islands. Count them.",
    "If there are multiple answers, print the smallest one.",
    "Is there any pair with sum k? Print YES or NO.",
    "In many countries, roads have numbers. Print the length of the shortest road.",
    "Print -1 if it is impossible to pay with any set of coins.",
]


@pytest.mark.parametrize("text", SEVERAL)
def test_said(text):
    assert several_answers(f"# A problem\n\nGiven n numbers.\n\n## Output\n{text}\n") is not None


@pytest.mark.parametrize("text", ONE)
def test_not_said(text):
    assert several_answers(f"# A problem\n\nGiven n numbers.\n\n## Output\n{text}\n") is None


def test_an_order_of_the_input_says_nothing():
    statement = "# P\n\n## Input\nThe edges are given in any order.\n\n## Output\nThe length of the shortest path.\n"
    assert several_answers(statement) is None
    assert several_answers(statement + "Print the edges in any order.\n") is not None


def test_the_bed_is_what_it_says():
    problems = load_problems(BED)
    assert len(problems) == 20
    assert [p.id for p in problems if several_answers(p.statement)] == ["cooking_order", "pair_positions"]
    for p in problems:
        assert len(p.submissions) >= 10 and len(p.wrong) >= 5 and p.generator is not None, p.id
        texts = [s.text for s in (*p.submissions, *p.wrong)]
        assert len(set(texts)) == len(texts), f"{p.id} has the same program twice"
