"""Kept problems as training prompts: JSONL that `data.kind=jsonl` reads and the code reward scores against.

{"id", "prompt": the statement with what to answer, "answer": '{"tests": [[stdin, expected], ...], ...}', "domain": "code"}
"""

import json
from collections.abc import Sequence
from pathlib import Path

from k15.log.files import atomic_write
from k15.testgen.outcome import ProblemResult
from k15.testgen.pipeline import checker_of, limits_of
from k15.testgen.problems import Problem
from k15.testgen.settings import TestgenSettings

ASKED = (
    "Write a program that solves the problem. It reads standard input and writes standard output. "
    "End with the whole program in one fenced block that names its language (```python or ```cpp)."
)


def answer_of(problem: Problem, result: ProblemResult, settings: TestgenSettings) -> str:
    """The `answer` of the problem's prompt, as `k15.reward.code` reads it."""
    fields: dict[str, object] = {"tests": [list(t) for t in result.tests], **limits_of(problem, settings)}
    fields["output_bytes"] = 4 * settings.max_output_kb << 10
    checker = checker_of(problem)
    if checker.kind != "tokens":
        fields["checker"] = {"kind": checker.kind, "tolerance": checker.tolerance}
    return json.dumps(fields)


def write_store(path: Path, problems: Sequence[Problem], results: Sequence[ProblemResult], settings: TestgenSettings) -> int:
    """Writes the kept problems in order, the whole file or none of it; returns how many."""
    rows = [
        {
            "id": p.id, "prompt": f"{p.statement.strip()}\n\n{ASKED}", "answer": answer_of(p, r, settings), "domain": "code",
            "generator": r.generator, "submissions_passed": list(r.passed), "submissions_failed": list(r.failed),
        }
        for p, r in zip(problems, results, strict=True) if r.kept
    ]  # fmt: skip
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return len(rows)
