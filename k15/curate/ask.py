"""The stages that ask a model: tags, guesses without reasoning, and answers whose pass rate is the difficulty (report 2.1).

Answers are kept in a journal under a key that names prompt, settings and seed: a run that was killed asks for the rest only.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from k15.config.curate import CurateConfig
from k15.curate.funnel import Funnel, lost
from k15.curate.rows import Row
from k15.curate.tags import named, tag_prompt
from k15.log import get_logger
from k15.log.journal import Journal
from k15.reward.hacking import GUESS_SUFFIX, easy_to_hack
from k15.reward.judge import PromptTooLong
from k15.reward.math import FAILED, MathVerdict, verdicts

SOLVE_SUFFIX = "\n\nThink step by step, then write the final answer as \\boxed{answer}."
TAG_TOKENS = 32
BATCH = 1024  # texts asked, and their answers reduced, at a time
_LOGGED = 5  # prompts that the engine refused
_LOGGED_FAILURES = 3  # the rest are only counted, as RL does
T = TypeVar("T")

Ask = Callable[[str, int, float, int], Awaitable[str | None]]
"""(prompt, seed, temperature, maximum tokens) -> the text as far as it went; None where there is none. Raises PromptTooLong."""
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


async def reduced(
    texts: Sequence[str], how: Asked, ask: Ask, journal: Journal, reduce: Callable[[Sequence[int], list[list[str]]], Sequence[T]],
    *, seed: int, model: str, concurrency: int, shown: Shown,
) -> list[T | PromptTooLong]:  # fmt: skip
    """What `reduce(indices of texts, their responses)` makes of `how.n` responses to each text ("" for none), in order; the
    engine's refusal of a text that is too long for it. Seeds follow from `seed`, the text and the sample's number.

    Responses are reduced a batch of texts at a time: those of a large set would fill the memory.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(text: str) -> list[str] | PromptTooLong:
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

            try:
                known = await _all([sample(s) for s in seeds])
            except PromptTooLong as error:
                shown()
                return error
            journal.put(key, known)
        shown()
        return known

    places: dict[str, list[int]] = {}  # equal texts are asked once
    for i, text in enumerate(texts):
        places.setdefault(text, []).append(i)
    unique, found = list(places), {}
    for start in range(0, len(unique), BATCH):
        part = unique[start : start + BATCH]
        said = {i: answers for text, answers in zip(part, await _all([one(t) for t in part])) for i in places[text]}
        good = {i: answers for i, answers in said.items() if not isinstance(answers, PromptTooLong)}
        found |= said | dict(zip(good, reduce(list(good), list(good.values())), strict=True))
    return [found[i] for i in range(len(texts))]


async def _all(calls: Sequence[Coroutine[object, object, T]]) -> list[T]:
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(c) for c in calls]
    except ExceptionGroup as group:  # the others were cancelled; callers know one error, not a group
        raise group.exceptions[0] from group
    return [t.result() for t in running]


class Checker:
    """The mathematics verdict on answers, as RL's reward gives it. `failed`: how many algebra did not reach; they are wrong."""

    def __init__(self) -> None:
        self.failed = 0

    def right(self, rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> list[list[bool]]:
        """Of every answer to every row."""
        return [[self._counted(v, row) for v in self._verdicts(row, said)] for row, said in zip(rows, answers, strict=True)]

    def _verdicts(self, row: Row, said: Sequence[str]) -> list[MathVerdict]:
        return verdicts([(text, row.answer) for text in said], question=row.text)

    def _counted(self, verdict: MathVerdict, row: Row) -> bool:
        if verdict.reason.startswith(FAILED):
            self.failed += 1
            if self.failed <= _LOGGED_FAILURES:
                get_logger("curate").warning("%s: a verdict failed and counts as wrong: %s", row.where, verdict.reason)
        return verdict.correct


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


def without_guessed(rows: Sequence[Row], found: Sequence[Sequence[bool] | None], cfg: CurateConfig, funnel: Funnel) -> list[int]:
    """Indices of the rows that no guess got right. None: a row that was not guessed stays."""
    kept, dropped, n = [], [], cfg.hack.guesses
    for i, (row, hits) in enumerate(zip(rows, found)):
        if hits is not None and easy_to_hack(hits, n):
            dropped.append(lost("guessed", row, f"{sum(hits)} of {n} guesses without reasoning are right"))
        else:
            kept.append(i)
    funnel.add("easy to hack", f"not right within {n} guesses without reasoning", len(kept), dropped)
    return kept


def with_room(rows: Sequence[Row], found: Sequence[object], how: Asked, funnel: Funnel) -> list[int]:
    """Indices of the rows that the engine did not refuse as too long; a stage of the funnel where it refused any."""
    refused = [(row, said) for row, said in zip(rows, found) if isinstance(said, PromptTooLong)]
    kept = [i for i, said in enumerate(found) if not isinstance(said, PromptTooLong)]
    for row, said in refused[:_LOGGED]:
        get_logger("curate").warning("no room, left out: %s: %s", row.where, said)
    if refused:
        dropped = [lost("no room", row, f"the engine refuses it: {said}") for row, said in refused]
        funnel.add(f"room to {how.name}", "prompt and answer fit the engine's context", len(kept), dropped)
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
