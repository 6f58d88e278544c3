"""The code reward (report 2.6.4): the last fenced block of a response, judged in the sandbox.

A prompt of domain `code` has as its answer a JSON object, a submission without its source (`k15.sandbox.wire.Submission`):

    {"tests": [["1 2", "3"], {"stdin": "5 6", "expected": "11"}], "language": "cpp", "time_s": 2}      standard input, output
    {"harness": "assert add(1, 2) == 3", "language": "python", "prefix": "import math"}                 code after the solution

`language` may be left out where the fence names it. `prefix` is put before the solution. A sandbox that fails is an error of
the run, never a verdict; a response without code, or in a language that is not known, is wrong.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from k15.errors import ConfigError, DataError, K15Error, SandboxError
from k15.reward.math import MathVerdict
from k15.reward.pool import WorkerPool
from k15.sandbox.client import Access, JudgeResult, SandboxClient, Submission, language, submission_from

_OPENS = re.compile(r"[ \t]*```[ \t]*([\w+#.-]*)[^\n`]*")
_CLOSES = re.compile(r"[ \t]*```[ \t]*")
TAIL_CHARS = 100_000  # the last block stands at the end; no solution is longer
DEFAULT_LANGUAGE = "python"
_DETAIL_CHARS = 200


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block; `language` as the fence names it, "" where it does not."""

    language: str
    source: str


@dataclass(slots=True)
class _Service:
    client: SandboxClient | None = None


_service = _Service()


def connect(access: Access, connections: int = 16) -> None:
    """Which service judges from now on; once a process, before the first verdict."""
    if _service.client is not None:
        _service.client.close()
    _service.client = SandboxClient(access, connections)


def last_block(response: str) -> Fence | None:
    """The last complete fenced block of the response's tail; None where there is none."""
    language, inside, last = "", None, None
    for line in response[-TAIL_CHARS:].split("\n"):  # line by line: a pattern over the whole would be quadratic
        if inside is None:
            if opened := _OPENS.fullmatch(line):
                language, inside = opened[1], []
        elif _CLOSES.fullmatch(line):
            last, inside = (language, "".join(inside)), None
        else:
            inside.append(line + "\n")
    if last is None:
        return None
    return Fence(last[0].lower(), last[1].encode(errors="replace").decode())  # half a surrogate pair is no source text


def check_answer(answer: str) -> None:
    """Raises DataError where the answer of a `code` prompt is not as the module says."""
    submission(answer, Fence("", "pass"))


def language_of(answer: str) -> str | None:
    """What the answer of a `code` prompt asks for, by its full name; None where the response's fence or an image decides."""
    fields = _parsed(answer)
    return None if "language" not in fields or "image" in fields else language(fields["language"]).name


def submission(answer: str, block: Fence) -> Submission:
    """What is judged. Raises DataError for a wrong answer, ConfigError for a language of the response that is not known."""
    fields = _fields(answer)
    language = fields.pop("language", None)
    source = f"{fields.pop('prefix', '')}\n{block.source}".lstrip("\n")
    own = language if language is not None else block.language if block.language else DEFAULT_LANGUAGE
    try:
        return submission_from({**fields, "language": own, "source": source})
    except ConfigError as error:
        if language is None and block.language:  # the response's doing
            raise
        raise DataError(f"the answer of a code prompt is wrong: {error}") from error


def verdicts(
    pairs: Sequence[tuple[str, str]], template: str = "auto", pool: WorkerPool | None = None, question: str | None = None
) -> list[MathVerdict]:
    """Verdicts on (response, answer) pairs, in order, several at a time. The other arguments are for other domains.

    `reason` has the verdict, the tests passed, and why the first failed. Raises SandboxError where the service does not answer
    or fails for longer than its client's patience, ConfigError before `connect`, DataError for a wrong answer.
    """
    del template, pool, question
    if _service.client is None:
        raise ConfigError("Code is judged by the sandbox service, but none is known: give sandbox.url and sandbox.token_file.")
    done: dict[int, MathVerdict] = {}
    asked: dict[int, Submission] = {}
    for i, (response, answer) in enumerate(pairs):
        block = last_block(response)
        if block is None:
            done[i] = MathVerdict(False, "no code", None)
            continue
        try:
            asked[i] = submission(answer, block)
        except ConfigError as error:
            done[i] = MathVerdict(False, f"CE: {error}"[:_DETAIL_CHARS], block.source)
    for (i, sent), result in zip(asked.items(), _service.client.judge_all(list(asked.values())), strict=True):
        if isinstance(result, ConfigError) and "language" not in _parsed(pairs[i][1]):
            done[i] = MathVerdict(False, f"CE: {result}"[:_DETAIL_CHARS], sent.source)  # the response chose what is not here
            continue
        if isinstance(result, Exception):
            raise _failure(result)
        done[i] = MathVerdict(result.accepted, reason(result), sent.source)
    return [done[i] for i in range(len(pairs))]


def reason(result: JudgeResult) -> str:
    """One line: `WA 3/10: token 1 is '4', expected '5'`."""
    said = result.compile.log if result.verdict == "CE" and result.compile is not None else ""
    failed = next((t for t in result.tests if t.verdict != "AC"), None)
    if failed is not None:
        last = failed.stderr.strip().rsplit("\n", 1)[-1]
        said = f"{failed.detail} {last}".strip()
    line = f"{result.verdict} {result.passed}/{result.total}"
    return f"{line}: {' '.join(said.split())[:_DETAIL_CHARS]}" if said else line


def _failure(error: Exception) -> K15Error:
    return error if isinstance(error, K15Error) else SandboxError(str(error))


@lru_cache(maxsize=4096)
def _parsed(answer: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(answer)
    except ValueError as error:
        raise DataError(f"the answer of a code prompt is not JSON: {error}") from error
    if not isinstance(fields, dict) or "source" in fields:
        raise DataError("the answer of a code prompt must be a JSON object with `tests` or `harness`, and without `source`")
    if isinstance(fields.get("tests"), list):
        fields["tests"] = [_case(t) for t in fields["tests"]]
    if not isinstance(fields.get("prefix", ""), str):
        raise DataError("`prefix` in the answer of a code prompt must be a text")
    return fields


def _case(test: object) -> object:
    """A pair of texts as {stdin, expected}; anything else is left to be checked with the rest."""
    return {"stdin": test[0], "expected": test[1]} if isinstance(test, list) and len(test) == 2 else test


def _fields(answer: str) -> dict[str, Any]:
    return dict(_parsed(answer))
