"""GSM8K and MATH as the reward meets them: reference solutions, other notations of them, and answers one slip away.

Needs K15_DATA_DIR (gsm8k/, math/, math500/). Exceptions are listed by the failing assertion; the bound is 0.5 %.
"""

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.reward.answer import extract
from k15.reward.math import verdicts
from k15.reward.pool import WorkerPool

DATA = os.environ.get("K15_DATA_DIR")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="K15_DATA_DIR is not set; it must name a folder with gsm8k, math and math500"
)
LIMIT = 0.005
# Neighbours whose answers are one and the same, written differently.
SAME = {("5", "x=5"), ("\\frac{3}{4}", "\\frac34"), ("120^\\circ", "120"), ("-1", "x = -1")}
SAMPLE = 400  # answers that other notations and slips are tried on


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(workers=1, timeout_s=10.0) as made:
        yield made


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (Path(str(DATA)) / name).read_text().splitlines()]


def solutions(name: str) -> list[tuple[str, str]]:
    """(reference solution, answer) of a data set."""
    if name == "gsm8k":
        texts = [r["answer"] for part in ("train", "test") for r in rows(f"gsm8k/{part}.jsonl")]
        return [(t, t.rsplit("####", 1)[1].strip()) for t in texts]
    if name == "math500":
        return [(r["solution"], r["answer"]) for r in rows("math500/test.jsonl")]
    return [(r["solution"], str(extract(r["solution"], "\\boxed{ANSWER}"))) for r in rows("math/test_minus_math500.jsonl")]


@pytest.mark.parametrize(("name", "size"), [("gsm8k", 8792), ("math500", 500), ("math", 4500)])
def test_solutions_fit_their_own_answers_and_not_the_next(name: str, size: int, pool: WorkerPool) -> None:
    data = solutions(name)
    assert len(data) == size
    own = verdicts(data, "auto", pool)
    refused = [(answer, v) for (_, answer), v in zip(data, own, strict=True) if not v.correct]
    shifted = [answer for _, answer in data[1:]] + [data[0][1]]
    following = verdicts([(text, answer) for (text, _), answer in zip(data, shifted, strict=True)], "auto", pool)
    taken = [(a, b, v.reason) for (_, a), b, v in zip(data, shifted, following, strict=True)
             if v.correct and re.sub(r"[\s,]", "", a) != re.sub(r"[\s,]", "", b) and (a, b) not in SAME]  # fmt: skip
    print(f"{name}: {len(refused)} of {size} refused against their own answer, {len(taken)} taken against the next")
    assert len(refused) <= LIMIT * size, refused
    assert not taken, taken


def answers() -> list[str]:
    found = sorted({answer for name in ("math500", "math") for _, answer in solutions(name)})
    return random.Random(0).sample(found, SAMPLE)


def notations(a: str) -> Iterator[str]:
    """Other ways to write the same answer."""
    bare = re.sub(r"\\(?:[dt]?frac|sqrt|pi)", "", a)
    yield a.replace("\\frac", "\\dfrac").replace("\\text", "\\mathrm")
    yield f"$\\displaystyle {a}$."
    yield a.replace("-", "−").replace("\\pi", "π")
    yield re.sub(r"^(-?)\\d?frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", a)
    yield re.sub(r"(\d)\s*(\\sqrt|\\pi)", r"\1 \\cdot \2", a)
    yield re.sub(r"\^\{?\\circ\}?$", " degrees", a)
    yield re.sub(r"^(-?\d+)$", r"\1 \\text{ units}", a)
    if not re.search(r"[=<>a-zA-Z,;]", bare):
        yield f"x = {a}"
    if re.fullmatch(r"\d+", a) and len(a) > 3:
        yield f"{int(a):,}"
    if a.count("+") == 1 and not re.search(r"[-(){}\[\],=<>\\]", a):
        yield " + ".join(reversed(a.split("+")))


def slips(a: str, chance: random.Random) -> Iterator[str]:
    """Answers that differ from `a` by a slip, and attempts to name several at once."""
    visible = re.sub(r"\\(?:text|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?", lambda m: "~" * len(m[0]), a)
    places = [m.start() for m in re.finditer(r"\d", visible)]
    for _ in range(2 if places else 0):
        i = chance.choice(places)
        yield a[:i] + str((int(a[i]) + chance.randint(1, 9)) % 10) + a[i + 1 :]
    yield a + " \\text{ or } 77"
    yield f"77, {a}"
    if re.fullmatch(r"[(\[].*,.*[)\]]", a):
        yield ("[" if a[0] == "(" else "(") + a[1:]


def test_other_notations_are_right_and_slips_are_wrong(pool: WorkerPool) -> None:
    chance = random.Random(1)
    all_answers = answers()
    right = [(f"\\boxed{{{form}}}", a) for a in all_answers for form in notations(a)]
    wrong = [(f"\\boxed{{{form}}}", a) for a in all_answers for form in slips(a, chance)]
    refused = [(p, v.reason) for p, v in zip(right, verdicts(right, "auto", pool), strict=True) if not v.correct]
    taken = [(p, v.reason) for p, v in zip(wrong, verdicts(wrong, "auto", pool), strict=True) if v.correct]
    print(f"{len(refused)} of {len(right)} other notations refused, {len(taken)} of {len(wrong)} slips taken")
    assert len(refused) <= LIMIT * len(right), refused
    assert len(taken) <= LIMIT * len(wrong), taken


def test_the_problem_s_text_refuses_no_right_answer(pool: WorkerPool) -> None:
    """Each MATH-500 reference and other notations of it, with its problem given."""
    refused, tried = [], 0
    for row in rows("math500/test.jsonl"):
        forms = [row["answer"], *notations(row["answer"])]
        plain = verdicts([(f"\\boxed{{{f}}}", row["answer"]) for f in forms], "auto", pool)
        asked = verdicts([(f"\\boxed{{{f}}}", row["answer"]) for f in forms], "auto", pool, row["problem"])
        tried += len(forms)
        refused += [
            (f, row["answer"], a.reason) for f, p, a in zip(forms, plain, asked, strict=True) if p.correct and not a.correct
        ]
    print(f"{len(refused)} of {tried} right answers refused once the problem is given")
    assert not refused, refused


def test_the_second_method_disputes_few_references(pool: WorkerPool) -> None:
    """The audit's base rate on answers that are right: what plain math-verify disputes of them."""
    pairs = [(form, a) for a in answers()[:150] for form in list(notations(a))[:2]]
    said = [o.value if o.ok else None for o in pool.run([("second", pair) for pair in pairs])]
    disputed = [p for p, s in zip(pairs, said, strict=True) if s is False]
    print(f"second method: {len(disputed)} of {len(pairs)} right answers disputed, {said.count(None)} not read")
    assert len(disputed) <= 0.05 * len(pairs), disputed
