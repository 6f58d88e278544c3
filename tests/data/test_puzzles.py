"""Puzzles: answers by brute force, every written step true, styles as the rule check takes them, and disjoint splits.

The oracles read a problem's text alone and share nothing with the generator.
"""

import random
import re
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from k15.config.check import check
from k15.config.compose import compose_run
from k15.config.schema import RepetitionConfig
from k15.data.arithmetic import ALPHABET, STYLES, make_problems, solution, warmup_examples
from k15.data.families import ARITHMETIC, FAMILIES
from k15.reward.math import verdicts

PUZZLES = ("countdown", "brackets", "path")


def all_answers(text: str) -> list[str]:
    """Every answer that solves the problem."""
    body = text.removesuffix("=")
    if "?" in body:
        target, numbers = body.split(":")
        first, *rest = numbers.split("?")
        found = [s for s in product("+-", repeat=len(rest)) if eval(first + "".join(map("".join, zip(s, rest)))) == int(target)]
        return ["".join(n for sign, n in zip(s, rest, strict=True) if sign == "-") for s in found]
    if "," in body:
        edges, (start, goal) = body.split(":")[0].split(","), body.split(":")[1]
        return [way for way in ways(edges, start) if way[-1] == goal]
    while (shorter := body.replace("()", "").replace("<>", "")) != body:
        body = shorter
    return [body[::-1].replace("(", "1").replace("<", "2")]


def ways(edges: list[str], way: str) -> list[str]:
    """All ways on without a node twice, `way` among them."""
    return [way, *(w for a, b in edges if a == way[-1] and b not in way for w in ways(edges, way + b))]


def key(text: str) -> tuple:
    """What a problem is, once the order in which it is written is taken out where it says nothing."""
    if "?" in text:
        target, first, *rest = re.findall(r"\d+", text)
        return (target, first, *sorted(rest))
    edges, _, ends = text.partition(":")
    return (frozenset(edges.split(",")), ends)


def untrue(text: str, worked: str) -> list[str]:
    """The steps of a worked solution that are not true of the problem."""
    body, found = text.removesuffix("="), []
    blocks = worked.split(";")
    if "?" in body:
        target, first, *rest = re.findall(r"\d+", body)
        for number, block in enumerate(blocks):
            title, _, chain = block.rpartition(":")
            states = chain.split("=")
            steps = zip([states[0], *(s for s in states[1:-1])], [re.match(r"\d+", s)[0] for s in states[1:]], strict=True)  # type: ignore[index]
            signed = re.findall(r"[+-]\d", re.sub(r"=\d+", "", chain))
            taken = "".join(s[1] for s in signed if s[0] == "-")
            true = all(eval(a) == int(b) for a, b in steps) and [s[1] for s in signed] == rest and chain.startswith(first)
            last = number + 1 == len(blocks)
            if not true or (states[-1] == target) is not last or title != (taken if number else ""):
                found.append(block)
        return found
    steps = [step.split("=") for step in worked.split(",")]
    if "," in body:
        for number, (node, way) in enumerate(steps):
            before = steps[number - 1][1] if number else body[-1]
            if way[1] != node or way[1:] != before or way[:2] not in body.split(":")[0].split(","):
                found.append(way)
        return found
    for number, (bracket, left) in enumerate(steps):
        if bracket != body[number] or left != (all_answers(body[: number + 1])[0] or "0"):
            found.append(left)
    return found if len(steps) == len(body) else [worked]


def repeats(text: str) -> bool:
    """Would the default rule take a prefix of `text` for a repetition?"""
    rule = RepetitionConfig()
    return any(
        text[end - n * rule.min_repeats : end] == text[end - n : end] * rule.min_repeats
        for n in range(rule.min_period, rule.max_period + 1)
        for end in range(n * rule.min_repeats, len(text) + 1)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PUZZLES), st.sampled_from(("train", "eval")))
@example(23652, "brackets", "train")  # a slip of 2222
def test_one_answer_and_true_steps_that_end_in_it(seed: int, family: str, split: str) -> None:
    rng = random.Random(seed)
    for prompt in make_problems(6, seed, split, [family]):
        assert all_answers(prompt.text) == [prompt.answer], prompt
        made = {style: solution(prompt, style, rng) for style in STYLES}
        work = made["worked"].removesuffix(f"#{prompt.answer}")
        assert not untrue(prompt.text, work), (prompt, work)
        assert prompt.difficulty == len(re.split("[,;]", work))
        assert made["guess"] == f"#{prompt.answer}" and made["checked"].startswith(f"{work}!")
        assert made["checked"].removesuffix(f"#{prompt.answer}").rpartition("!")[2] == re.sub(r".*;\d+:", "", work)
        assert re.sub(r"[^,;:?]+\?", "", made["slip"]) == made["worked"], made["slip"]  # what was withdrawn taken out
        assert made["slip"].count("?") == 1 and len(made["guess"]) < len(made["worked"])
        assert all(set(text) <= set(ALPHABET) and not repeats(text) for text in made.values())
        wrong = [f"#{int(prompt.answer) + 1}", f"{made['worked']}0", "#", work]
        right = [v.correct for v in verdicts([(t, prompt.answer) for t in [*made.values(), *wrong]], "#ANSWER")]
        assert right == [True] * 4 + [False] * 4


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(PUZZLES))
def test_no_held_out_puzzle_is_trained_on(seed: int, other: int, family: str) -> None:
    held_out = {key(p.text) for p in make_problems(200, seed, "eval", [family])}
    assert len(held_out) == 200, "two held-out problems are the same problem"
    assert not held_out & {key(p.text) for p in make_problems(400, other, "train", [family])}
    assert not held_out & {key(text) for text, _ in warmup_examples(400, other, 0.6, 0.1, 0.2, [family])}


@pytest.mark.parametrize("family", PUZZLES)
def test_there_is_something_to_choose_between(family: str) -> None:
    """No one answer is right often, levels differ, and the experiment's response length holds all work."""
    cfg = compose_run(["experiment=puzzles"])
    check(cfg)
    assert set(cfg.data.families) == set(PUZZLES) == set(FAMILIES) - set(ARITHMETIC)
    prompts = make_problems(800, 0, "train", [family])
    answers = [p.answer for p in prompts]
    assert max(map(answers.count, set(answers))) < 0.15 * len(prompts)
    assert len({p.difficulty for p in prompts}) >= 3
    rng = random.Random(0)
    longest = max(len(solution(p, style, rng)) for p in prompts for style in STYLES)
    assert longest < cfg.rollout.max_response_tokens  # the end takes one more
