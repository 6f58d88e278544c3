"""The stages that ask a model: tags, guesses without reasoning, and answers whose pass rate is the difficulty (report 2.1).

Answers are kept in a journal under a key that names prompt, settings and seed: a run that was killed asks for the rest only.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from k15.config.curate import CurateConfig
from k15.curate.funnel import Funnel, lost
from k15.curate.rows import Row
from k15.curate.tags import named, tag_prompt
from k15.log.journal import Journal
from k15.reward.hacking import GUESS_SUFFIX, easy_to_hack
from k15.reward.math import verdicts

SOLVE_SUFFIX = "\n\nThink step by step, then write the final answer as \\boxed{answer}."
TAG_TOKENS = 32

Ask = Callable[[str, int, float, int], Awaitable[str | None]]
"""(prompt, seed, temperature, maximum tokens) -> the text as far as it went; None where there is none."""
Shown = Callable[[], object]
"""Called for each of the different texts that is answered."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a stage asks: `n` samples of at most `max_tokens` tokens."""

    name: str
    n: int
    temperature: float
    max_tokens: int
    suffix: str = ""


async def responses(
    texts: Sequence[str], how: Asked, ask: Ask, journal: Journal, *, seed: int, model: str, concurrency: int, shown: Shown
) -> list[list[str]]:
    """`how.n` responses to each text, in order; "" for none. Seeds follow from `seed`, the text and the sample's number."""
    gate = asyncio.Semaphore(concurrency)

    async def one(text: str) -> list[str]:
        facts = (how.name, how.n, how.temperature, how.max_tokens, how.suffix, model, seed, text)
        key = f"{how.name}/{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}"
        known = journal.get(key)
        if known is None:
            chance = random.Random(f"{seed} {how.name} {text}")
            seeds = [chance.getrandbits(31) for _ in range(how.n)]

            async def sample(number: int) -> str:
                async with gate:
                    said = await ask(text + how.suffix, number, how.temperature, how.max_tokens)
                return said if said is not None else ""

            known = list(await asyncio.gather(*(sample(s) for s in seeds)))
            journal.put(key, known)
        shown()
        return known

    unique = list(dict.fromkeys(texts))  # equal texts are asked once
    found: dict[str, list[str]] = {}
    for start in range(0, len(unique), 1024):  # so many tasks at once, not all of a large set
        part = unique[start : start + 1024]
        found |= dict(zip(part, await _all([one(t) for t in part])))
    return [found[t] for t in texts]


async def _all(calls: Sequence[Awaitable[list[str]]]) -> list[list[str]]:
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(c) for c in calls]
    except ExceptionGroup as group:  # the others were cancelled; callers know one error, not a group
        raise group.exceptions[0] from group
    return [t.result() for t in running]


def right(rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> list[list[bool]]:
    """The mathematics verdict on every answer to every row."""
    flat = verdicts([(a, row.answer) for row, said in zip(rows, answers) for a in said])
    found = iter(v.correct for v in flat)
    return [[next(found) for _ in said] for said in answers]


def how_tags() -> Asked:
    return Asked("tag", 1, 0.0, TAG_TOKENS)


def how_guesses(cfg: CurateConfig) -> Asked:
    return Asked("guess", cfg.hack.guesses, cfg.hack.temperature, cfg.hack.max_tokens, GUESS_SUFFIX)


def how_solutions(cfg: CurateConfig) -> Asked:
    return Asked("solve", cfg.difficulty.samples, cfg.difficulty.temperature, cfg.difficulty.max_tokens, SOLVE_SUFFIX)


def tag_texts(rows: Sequence[Row]) -> list[str]:
    return [tag_prompt(row.text) for row in rows]


def tags_named(rows: Sequence[Row], said: Sequence[Sequence[str]], rules: Callable[[Row], str]) -> list[str]:
    """The discipline that the model named; that of the rules where it named none, or where the row has a label."""
    return [
        rules(row) if row.discipline is not None or (tag := named(texts[0])) is None else tag for row, texts in zip(rows, said)
    ]


def without_guessed(rows: Sequence[Row], found: Sequence[Sequence[bool]], cfg: CurateConfig, funnel: Funnel) -> list[int]:
    """Indices of the rows that no guess got right. Code, whose answer is a set of tests, is not guessed."""
    kept, dropped, n = [], [], cfg.hack.guesses
    for i, (row, hits) in enumerate(zip(rows, found)):
        if row.domain != "code" and easy_to_hack(hits, n):
            dropped.append(lost("guessed", row, f"{sum(hits)} of {n} guesses without reasoning are right"))
        else:
            kept.append(i)
    funnel.add("easy to hack", f"not right within {n} guesses without reasoning", len(kept), dropped)
    return kept


def by_difficulty(rows: Sequence[Row], rates: Sequence[float | None], cfg: CurateConfig, funnel: Funnel) -> list[int]:
    """Indices of the rows whose pass rate is within the bounds; rows that were not measured (None) stay."""
    low, high = cfg.difficulty.min_pass_rate, cfg.difficulty.max_pass_rate
    kept, dropped = [], []
    for i, (row, rate) in enumerate(zip(rows, rates)):
        if rate is None or low <= rate <= high:
            kept.append(i)
        else:
            dropped.append(lost("too easy" if rate > high else "too hard", row, f"pass rate {rate:.2f}"))
    n, temperature = cfg.difficulty.samples, cfg.difficulty.temperature
    funnel.add("difficulty", f"pass rate of {n} samples at temperature {temperature:g} in {low:g}..{high:g}", len(kept), dropped)
    return kept
