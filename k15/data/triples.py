"""Question, reference and response triples for reward models (report 2.3.5): generated from arithmetic, or read from JSONL.

    ("(47+85)*3=", "396", "#2*198")  right: another written form of the answer
    ("(47+85)*3=", "396", "#2*199")  wrong: the same form of another number

The report's difficulty is that "different written forms can represent the same underlying answer". So a generated
response states its answer in one of FORMS, and right and wrong responses have the same share of each form: no form gives
the label away, the value must be worked out. Wrong values are off by one, slipped in a digit, cut short or transposed.
The split follows the arithmetic problem, so no held-out problem was ever trained on.

JSONL: one object a line with the strings `question`, `reference`, `response`, the boolean `label`, and optionally `kind`
and `judgement` (a judge's reasoning that ends in its verdict as JSON, for training a Chain-of-thought judge).
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

from k15.data.arithmetic import ALPHABET, MARK, make_problems, solution
from k15.data.worked import Block, add, multiply, subtract
from k15.errors import DataError
from k15.types import Prompt, Triple

JUDGE_ALPHABET = ALPHABET + '{}"' + "acefolrstu" + "&|^"  # `{"correct": true}` and 48 tokens in all
FORMS = ("plain", "signed", "decimal", "sum", "difference", "product")
SLIPS = ("off by one", "digit", "truncated", "transposed", "no answer")
WORKED_SHARE = 0.25  # of responses show their work, which says nothing about the form of the answer


def make_triples(n: int, seed: int, split: str = "train", families: Sequence[str] | None = None) -> list[Triple]:
    """`n` labelled triples with judgements, half of them right on average; deterministic in `seed`."""
    rng = random.Random(f"k15 triples {split} {seed}")
    problems = make_problems(min(n, max(600, n // 4)), seed, split, families)
    return [_triple(rng.choice(problems), rng) for _ in range(n)]


def _triple(problem: Prompt, rng: random.Random) -> Triple:
    value, form, correct = int(problem.answer), rng.choice(FORMS), rng.random() < 0.5
    slip = "" if correct else rng.choices(SLIPS, (4, 4, 2, 2, 1))[0]
    work = solution(problem, "worked", rng).split(MARK)[0] if rng.random() < WORKED_SHARE else ""
    if slip == "no answer":
        return Triple(problem.text, problem.answer, work or problem.text, False, slip, judgement(None, [], problem.answer))
    given, blocks = write(value if correct else _wrong(value, slip, rng), form, rng)
    kind = form if correct else f"{form}, {slip}"
    return Triple(problem.text, problem.answer, work + MARK + given, correct, kind, judgement(given, blocks, problem.answer))


def _wrong(value: int, slip: str, rng: random.Random) -> int:
    """A number other than `value`; slips that leave it as it is (7 transposed) become off by one."""
    digits, found = list(str(value)), value
    place = rng.randrange(len(digits))
    if slip == "digit":
        digits[place] = rng.choice([d for d in "123456789" if d != digits[place]])
        found = int("".join(digits))
    elif slip == "truncated" and len(digits) > 1:
        found = value // 10
    elif slip == "transposed" and place > 0:
        digits[place - 1], digits[place] = digits[place], digits[place - 1]
        found = int("".join(digits))
    return found if found != value else abs(value + rng.choice((-1, 1)))


def write(value: int, form: str, rng: random.Random) -> tuple[str, list[Block]]:
    """`value` (>= 0) in one of FORMS, and the operation that works it out again, if it is one.

    A product needs a one-digit factor; a number without one is written as a sum.
    """
    if form in ("plain", "signed", "decimal"):
        return {"plain": f"{value}", "signed": f"+{value}", "decimal": f"{value}.0"}[form], []
    if form == "product" and (factors := [f for f in range(2, 10) if value and value % f == 0]):
        factor = rng.choice(factors)
        return f"{value // factor}*{factor}", [multiply(value // factor, factor)]
    if form == "difference":
        taken = rng.randint(1, 9)
        return f"{value + taken}-{taken}", [subtract(value + taken, taken)]
    first = rng.randint(0, value)
    return f"{first}+{value - first}", [add((first, value - first))]


def judgement(given: str | None, blocks: Sequence[Block], reference: str) -> str:
    """A worked judgement: the answer found, worked out again, compared digit by digit, and the verdict as JSON."""
    if given is None:
        return f'?/{reference}{{"correct": false}}'
    steps = ",".join(f"{step.expr}={step.value}" for block in blocks for step in block.steps)
    value = str(blocks[-1].value) if blocks else given.removeprefix("+").removesuffix(".0")
    compared = []
    for mine, theirs in zip_longest(value, reference, fillvalue=""):
        compared.append(f"{mine}={theirs}" if mine == theirs else f"{mine}<>{theirs}")
        if mine != theirs:
            break
    worked = f":{steps}" if steps else ""
    verdict = "true" if value == reference else "false"
    return f'{given}{worked};{value}/{reference}:{",".join(compared)}{{"correct": {verdict}}}'


def read_triples(path: str | Path) -> list[Triple]:
    """The triples of a JSONL file (see the module's head). Raises DataError with file and line."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is missing; a JSONL file with question, reference, response and label is needed.")
    with path.open() as lines:
        found = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} holds no triple.")
    return found


def _row(line: str, where: str) -> Triple:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}); one object a line is needed.") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object.")
    for key in ("question", "reference", "response"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{where}: {key} is {row.get(key)!r}; it must be a text.")
    for key in ("kind", "judgement"):
        if not isinstance(row.get(key, ""), str):
            raise DataError(f"{where}: {key} is {row[key]!r}; it must be a text, or be left out.")
    if not isinstance(row.get("label"), bool):
        raise DataError(f"{where}: label is {row.get('label')!r}; it must be true (correct) or false.")
    texts = (row["question"], row["reference"], row["response"])
    return Triple(*texts, row["label"], row.get("kind", ""), row.get("judgement", ""))


def write_triples(path: str | Path, triples: Sequence[Triple]) -> None:
    """The inverse of `read_triples`."""
    rows = [asdict(t) for t in triples]
    for row in rows:
        row["label"] = row.pop("correct")
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
