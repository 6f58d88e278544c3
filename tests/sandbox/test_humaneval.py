"""HumanEval in eight languages through the judge: reference solutions pass, empty bodies do not, our own solutions pass.

The data is the user's (K15_DATA_DIR, see README); `solutions/` holds function bodies of ours. K15_HUMANEVAL=all tries the
empty body on every problem of every language (about half an hour on two cores), else on those that `solutions/` has.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from judging import backend, need_language  # noqa: F401

from k15.sandbox.judge import Judge
from k15.sandbox.wire import Submission

DATA = os.environ.get("K15_DATA_DIR")
SOLUTIONS = Path(__file__).parent / "solutions"
FILES = {"java": "java", "cpp": "cpp", "csharp": "cs", "javascript": "js", "typescript": "ts", "php": "php", "bash": "sh"}
# The least that compiles and does nothing right, in the place of a body.
EMPTY = {
    "java": "        throw new UnsupportedOperationException();\n", "csharp": "        throw new NotImplementedException();\n",
    "cpp": "    std::abort();\n", "javascript": "}\n", "typescript": "  return undefined as any;\n}\n", "php": "}\n",
    "bash": "    :\n",
}  # fmt: skip
# Shipped problems that no body can solve: a text over the end of its line, a type named `std::nullopt`.
BROKEN = {"javascript": {"51"}, "cpp": {"137"}}
WORKERS = 2

pytestmark = [
    pytest.mark.skipif(DATA is None, reason="K15_DATA_DIR is not set: no HumanEval here"),
    pytest.mark.timeout(3600),
]


@cache
def problems(name: str) -> dict[str, dict]:
    rows = [json.loads(line) for line in (Path(DATA) / "humaneval" / f"{name}.jsonl").read_text().splitlines()]
    return {_number(row): row for row in rows}


def _number(row: dict) -> str:
    return row["name"].split("_")[1] if "name" in row else row["task_id"].split("/")[1]


def verdicts(backend, submissions: dict[str, Submission]) -> dict[str, str]:  # noqa: F811
    judge = Judge(backend)
    with ThreadPoolExecutor(WORKERS) as pool:
        results = pool.map(judge.judge, submissions.values())
        return {number: result.verdict for number, result in zip(submissions, results, strict=True)}


def python(row: dict, body: str) -> Submission:
    return Submission(
        "python", row["prompt"] + body, harness=f"{row['test']}\ncheck({row['entry_point']})", time_s=4.0, memory_mb=512
    )


def completed(language: str, row: dict, body: str) -> Submission:
    return Submission(language, row["prompt"] + body, harness=row["tests"], time_s=4.0, memory_mb=512)


def test_python_references_pass_and_empty_bodies_do_not(backend):  # noqa: F811
    rows = problems("reference_python")
    assert len(rows) == 164
    right = verdicts(backend, {n: python(r, r["canonical_solution"]) for n, r in rows.items()})
    assert {n: v for n, v in right.items() if v != "AC"} == {}
    empty = verdicts(backend, {n: python(r, "    pass\n") for n, r in rows.items()})
    assert {n: v for n, v in empty.items() if v not in ("RE", "WA")} == {}


@pytest.mark.parametrize("language", FILES)
def test_our_solutions_pass(backend, language):  # noqa: F811
    need_language(language)
    rows, bodies = problems(FILES[language]), own(language)
    assert len(bodies) >= 10
    found = verdicts(backend, {n: completed(language, rows[n], body) for n, body in bodies.items()})
    assert {n: v for n, v in found.items() if v != "AC"} == {}


@pytest.mark.parametrize("language", FILES)
def test_shipped_tests_compile_and_fail_on_an_empty_body(backend, language):  # noqa: F811
    need_language(language)
    rows = problems(FILES[language])
    chosen = rows if os.environ.get("K15_HUMANEVAL") == "all" else {n: rows[n] for n in own(language)}
    found = verdicts(backend, {n: completed(language, r, EMPTY[language]) for n, r in chosen.items()})
    assert {n: v for n, v in found.items() if v in ("AC", "CE") and n not in BROKEN.get(language, ())} == {}


def own(language: str) -> dict[str, str]:
    return {p.stem.split("_")[1]: p.read_text() for p in sorted((SOLUTIONS / language).iterdir())}
