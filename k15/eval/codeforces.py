"""Codeforces-style: a vote among programs by what they print on generated inputs, and the rating that the results speak for.

    k programs ──run on `inputs`──▶ classes of equal output ──largest──▶ its first program is handed in ──tests──▶ solved or not

Rating: the maximum-likelihood r under P(solved) = 1 / (1 + 10^((rating - r) / 400)), the Elo curve, with one submission a
problem; interval: the r whose log-likelihood is within 1.92 of the best (a profile-likelihood interval of 95 %). Where all or
none are solved the likelihood has no maximum: r is then bounded on one side only.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from k15.errors import ConfigError, DataError
from k15.eval.estimates import Estimate, of_values
from k15.eval.progress import Bar
from k15.eval.score import Scored
from k15.eval.sources import read_rows
from k15.reward.code import last_block, submission
from k15.sandbox.client import Access, Case, SandboxClient, Submission

_HALF_CHI2_95 = 1.920729
_RANGE = (-1000.0, 6000.0)
_SHOWN = 1 << 16  # characters of an output that the vote compares


@dataclass(frozen=True, slots=True)
class Rating:
    """`rating` is None where all or no problem is solved; then one end of [low, high] is infinite. `percentile`: 0..100."""

    rating: float | None
    low: float
    high: float
    percentile: float | None = None


def log_likelihood(rating: float, problems: Sequence[float], solved: Sequence[bool]) -> float:
    """Natural log of the chance of these results for a contestant of this rating."""
    total = 0.0
    for problem, done in zip(problems, solved, strict=True):
        x = (rating - problem) * math.log(10) / 400
        total -= math.log1p(math.exp(-abs(x))) + max(0.0, -x if done else x)
    return total


def estimate_rating(problems: Sequence[float], solved: Sequence[bool], population: Sequence[float] | None = None) -> Rating:
    """The maximum-likelihood rating. `population`: ratings of contestants, for the percentile (share of them below)."""
    best = _peak(problems, solved)
    top = log_likelihood(best, problems, solved)

    def crossing(end: float) -> float:
        inside, outside = best, end
        if log_likelihood(outside, problems, solved) > top - _HALF_CHI2_95:
            return math.copysign(math.inf, end - best)
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (
                (middle, outside) if log_likelihood(middle, problems, solved) > top - _HALF_CHI2_95 else (inside, middle)
            )
        return inside

    low, high = (crossing(end) for end in _RANGE)
    if all(solved) or not any(solved):
        return Rating(None, low if all(solved) else -math.inf, math.inf if all(solved) else high)
    below = None if not population else 100.0 * sum(p < best for p in population) / len(population)
    return Rating(best, low, high, below)


def _peak(problems: Sequence[float], solved: Sequence[bool]) -> float:
    """Where expected and real number of solved problems agree; the range's end where they never do."""
    low, high = _RANGE
    for _ in range(60):
        middle = (low + high) / 2
        expected = sum(1 / (1 + 10 ** ((p - middle) / 400)) for p in problems)
        low, high = (middle, high) if expected < sum(solved) else (low, middle)
    return (low + high) / 2


def read_population(path: str | Path) -> list[float]:
    """Ratings of contestants: JSONL with a field `rating` each. Raises DataError."""
    found = []
    for number, row in enumerate(read_rows(path), 1):
        value = row.get("rating")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{path}:{number}: field `rating` is {value!r}; it must be a number.")
        found.append(float(value))
    return found


def largest_class(outputs: Sequence[tuple[str, ...] | None]) -> int | None:
    """The index of the program to hand in: the first of the largest class (the earliest where classes tie).

    `outputs[i]`: what program i printed on each input; None where it did not run, which has no vote.
    """
    votes = Counter(o for o in outputs if o is not None)
    if not votes:
        return None
    winner = max(votes, key=lambda o: votes[o])  # the first of the largest: dicts keep their order
    return list(outputs).index(winner)


def vote(scored: Scored, access: Access) -> tuple[Estimate, list[int | None]]:
    """Solved by the program that the vote chose (metric `vote@k`), and which one that was. Raises SandboxError."""
    bar, chosen, solved = Bar("codeforces: voting", len(scored.prompts)), [], []
    with SandboxClient(access) as client:
        for prompt, row, verdicts in zip(scored.prompts, scored.answers, scored.verdicts, strict=True):
            outputs = _outputs(client, prompt.answer, [a.text for a in row], prompt.meta["inputs"])  # type: ignore[arg-type]
            pick = largest_class(outputs)
            chosen.append(pick)
            solved.append(float(pick is not None and verdicts[pick].correct))
            bar.add()
    interval, method = of_values(solved)
    return Estimate(f"vote@{max(map(len, scored.answers))}", interval, method, tuple(solved)), chosen


def _outputs(client: SandboxClient, answer: str, texts: Sequence[str], inputs: Sequence[str]) -> list[tuple[str, ...] | None]:
    """What each program printed, word by word; a run that failed is a result too. None: no program, or it does not compile."""
    asked: dict[int, Submission] = {}
    for i, text in enumerate(texts):
        block = last_block(text)
        if block is None:
            continue
        try:
            own = submission(answer, block)
        except ConfigError:  # a language that nobody knows: no vote, as the verdict on the tests says
            continue
        cases = tuple(Case(stdin, "") for stdin in inputs)
        asked[i] = Submission(own.language, own.source, cases, time_s=own.time_s, memory_mb=own.memory_mb, run_all=True,
                              output_bytes=own.output_bytes, image=own.image, shown_chars=_SHOWN)  # fmt: skip
    found: list[tuple[str, ...] | None] = [None] * len(texts)
    for i, result in zip(asked, client.judge_all(list(asked.values())), strict=True):
        if isinstance(result, ConfigError):
            continue
        if isinstance(result, Exception):
            raise result
        if result.verdict != "CE":
            runs = [" ".join(t.stdout.split()) if t.verdict in ("AC", "WA") else t.verdict for t in result.tests]
            found[i] = tuple(runs) if any(t.verdict in ("AC", "WA") for t in result.tests) else None
    return found
