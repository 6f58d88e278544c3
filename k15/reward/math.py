"""Mathematics rewards by rule (report 2.3.5): the response's final answer against the reference.

Strings and exact numbers are decided here in microseconds; everything else by math-verify in a worker process that is
killed when it hangs (math-verify's own time limit is a signal, which works in main threads only and not inside C code).
"""

import atexit
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from k15.reward.answer import exact_verdict, extract, reference
from k15.reward.asked import refusal
from k15.reward.notation import canonical
from k15.reward.pool import Job, WorkerPool

FAILED = "math-verify:"  # starts the reason of a verdict that algebra did not reach
TAIL_CHARS = 20_000  # a final answer stands at the end; what is longer than this is read from its tail


@dataclass(frozen=True, slots=True)
class MathVerdict:
    """`correct`, why, and the answer as the response gave it (None where no marker was found)."""

    correct: bool
    reason: str
    extracted: str | None


def score(
    response: str, answer: str, template: str = "auto", pool: WorkerPool | None = None, question: str | None = None
) -> MathVerdict:
    """The verdict on one response. `template` as in `k15.reward.answer`; `question` as in `verdicts`."""
    return verdicts([(response, answer)], template, pool, question)[0]


def verdicts(
    pairs: Sequence[tuple[str, str]], template: str = "auto", pool: WorkerPool | None = None, question: str | None = None
) -> list[MathVerdict]:
    """Verdicts on (response, answer) pairs, in order; those that need algebra share the pool's workers. Of an answer that is a
    worked solution its final answer counts (`reference`).

    `question`: the problem's text, where there is one. An answer that only restates it (`(x+1)^2` to "Expand (x+1)^2"), or
    that lacks the form it asks for, is then refused, though it equals the reference.
    """
    pairs = [(response, reference(answer)) for response, answer in pairs]
    done: list[MathVerdict | None] = []
    open_: list[tuple[int, str, str]] = []
    for response, answer in pairs:
        given = extract(response[-TAIL_CHARS:], template)
        exact = (False, "no answer") if given is None else exact_verdict(given, answer)
        if exact is None:
            assert given is not None, "an exact verdict is always reached without an answer"
            open_.append((len(done), given, answer))
        done.append(None if exact is None else MathVerdict(*exact, given))
    if open_:
        jobs = list(dict.fromkeys(_job(given, answer, question) for _, given, answer in open_))
        outcomes = dict(zip(jobs, (pool or _shared_pool()).run(jobs), strict=True))  # k responses often agree
        for index, given, answer in open_:
            outcome = outcomes[_job(given, answer, question)]
            correct, reason = outcome.value if outcome.ok else (False, f"{FAILED} {outcome.reason}")  # type: ignore[misc]
            done[index] = MathVerdict(correct, reason, given)
    assert all(v is not None for v in done), "an answer was lost"
    answers = [answer for _, answer in pairs]
    return done if question is None else [_asked(v, a, question) for v, a in zip(done, answers, strict=True)]  # type: ignore


def _job(given: str, answer: str, question: str | None) -> Job:
    return "verify", (canonical(given), canonical(answer), question)


def _asked(found: MathVerdict, answer: str, question: str) -> MathVerdict:
    """The verdict, with what the problem's text alone says against it."""
    if not found.correct or found.extracted == answer:
        return found
    assert found.extracted is not None, "what has no answer is not correct"
    reason = refusal(canonical(found.extracted), canonical(answer), question)
    return found if reason is None else MathVerdict(False, reason, found.extracted)


@cache
def _shared_pool() -> WorkerPool:
    pool = WorkerPool()
    atexit.register(pool.close)
    return pool
