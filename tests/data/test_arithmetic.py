"""Generated arithmetic: answers by math-verify, every written step true, and no held-out problem ever trained on."""

import hashlib
import random
import re
from collections import Counter
from itertools import pairwise

import math_verify
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.data.arithmetic import ALPHABET, STYLES, make_problems, solution, warmup_examples
from k15.data.families import ARITHMETIC
from k15.errors import ConfigError


def commuted_key(text: str) -> tuple:
    """Independent of the generator: what a problem is once commutation is taken out, read from its text alone."""
    body = text.removesuffix("=")
    if bracket := re.fullmatch(r"\((.+)\)\*(\d)", body):
        return ("*", int(bracket[2]), commuted_key(bracket[1]))
    if "*" in body:
        return ("*", *sorted(map(int, body.split("*"))))
    if "%" in body:
        return ("%", *map(int, body.split("%")))
    return ("+", *sorted(map(int, re.findall(r"[+-]?\d+", body))))


@pytest.mark.parametrize("family", ARITHMETIC)
def test_math_verify_agrees_with_every_answer(family: str) -> None:
    for prompt in make_problems(60, 3, "train", [family]):
        body = prompt.text.removesuffix("=")
        if "%" in body:  # math-verify reads % as percent: a = q*b + r with 0 <= r < b says the same
            a, b = map(int, body.split("%"))
            assert 0 <= int(prompt.answer) < b
            body, answer = f"{(a - int(prompt.answer)) // b}*{b}+{prompt.answer}", str(a)
        else:
            answer = prompt.answer
        parsed = math_verify.parse(f"${body}$")
        assert parsed and math_verify.verify(math_verify.parse(answer), parsed), prompt


def written_steps(response: str) -> list[tuple[str, int, bool]]:
    """(expression, value as written, withdrawn) of all steps; `4*6=24+4=28` is two of them."""
    found = []
    for step in re.split("[,;!]", response.split("#")[0]):
        attempts = step.split(":")[-1].split("?")
        for number, attempt in enumerate(attempts):
            terms = attempt.split("=")
            for expression, following in pairwise(terms):
                withdrawn = number + 1 < len(attempts) and following is terms[-1]
                found.append((expression, int(re.match(r"\d+", following)[0]), withdrawn))  # type: ignore[index]
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(ARITHMETIC))
def test_steps_are_true_and_only_the_noticed_slip_is_not(seed: int, family: str) -> None:
    rng = random.Random(seed)
    for prompt in make_problems(5, seed, "train", [family]):
        answers = {style: solution(prompt, style, rng) for style in STYLES}
        assert answers["guess"] == f"#{prompt.answer}"
        for style in ("worked", "slip", "checked"):
            assert answers[style].endswith(f"#{prompt.answer}")
            assert set(answers[style]) <= set(ALPHABET)
            for expression, value, withdrawn in written_steps(answers[style]):
                assert (eval(expression) == value) is not withdrawn, (prompt, answers[style])  # digits and + - * % only
        assert answers["worked"].count("?") == 0
        assert answers["slip"].count("?") == 1
        assert len(answers["guess"]) < len(answers["worked"]) < len(answers["slip"])
        worked, again = answers["checked"].removesuffix(f"#{prompt.answer}").split("!")
        assert f"{worked}#{prompt.answer}" == answers["worked"] and worked.endswith(again)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_no_held_out_problem_is_trained_on(train_seed: int, eval_seed: int, warmup_seed: int) -> None:
    held_out = {commuted_key(p.text) for p in make_problems(200, eval_seed, "eval")}
    assert len(held_out) == 200, "two held-out problems are the same problem"
    assert not held_out & {commuted_key(p.text) for p in make_problems(400, train_seed, "train")}
    assert not held_out & {commuted_key(text) for text, _ in warmup_examples(400, warmup_seed, 0.6, 0.1, 0.2)}


def test_default_sets_are_disjoint_and_balanced() -> None:
    train, held_out = make_problems(4096, 0, "train"), make_problems(512, 0, "eval")
    assert not {commuted_key(p.text) for p in train} & {commuted_key(p.text) for p in held_out}
    assert len({p.id for p in train}) == 4096
    families = Counter(str(p.meta["family"]) for p in held_out)
    assert set(families) == set(ARITHMETIC) and min(families.values()) > 50
    assert len({p.difficulty for p in train}) >= 4


def test_the_default_problems_are_those_that_earlier_results_were_measured_on() -> None:
    made = repr([make_problems(300, 3), make_problems(300, 3, "eval"), warmup_examples(600, 5, 0.6, 0.06, 0.28)])
    assert hashlib.sha256(made.encode()).hexdigest()[:16] == "0f4084d77c1bc57c"


def test_same_seed_same_data_and_the_mixture_is_as_asked() -> None:
    assert make_problems(50, 7) == make_problems(50, 7) != make_problems(50, 8)
    examples = warmup_examples(4000, 1, 0.6, 0.1, 0.2)
    assert examples == warmup_examples(4000, 1, 0.6, 0.1, 0.2)
    for part, guesses in ((examples[:2400], 0.2), (examples[2400:], 0.6)):  # practice first, then the mixture asked for
        guessed = sum(r.startswith("#") for _, r in part) / len(part)
        slipped = sum("?" in r for _, r in part) / len(part)
        checked = sum("!" in r for _, r in part) / len(part)
        assert abs(guessed - guesses) < 0.06 and abs(slipped - 0.1) < 0.04 and abs(checked - 0.2) < 0.06  # 5 standard deviations


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: make_problems(5, 0, "test"), "Allowed: eval, train"),
        (lambda: make_problems(5, 0, families=["sums"]), "Did you mean 'sum'"),
        (lambda: make_problems(0, 0), "at least 1"),
        (lambda: make_problems(10**5, 0, families=["remainder"]), "data.train_size"),
        (lambda: warmup_examples(5, 0, 0.5, 0.3, 0.3), "sum to at most 1"),
    ],
)
def test_wrong_requests_are_refused_with_a_remedy(call, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
