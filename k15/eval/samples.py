"""Which rollouts a report shows: a few right and wrong ones of the first, middle and last iteration."""

import random
from dataclasses import dataclass

from k15.eval.run_data import Record, RunData

SHOWN_CHARACTERS = 6000


@dataclass(frozen=True)
class Shown:
    """The chosen rollouts of one iteration, and how many it had: right, wrong and unfinished."""

    iteration: int
    records: tuple[Record, ...]
    right: int
    wrong: int
    unfinished: int


def choose(run: RunData, each: int = 2, seed: int = 0) -> list[Shown]:
    """`each` right and `each` wrong rollouts of the first, middle and last iteration, drawn by a seeded generator.

    One that was continued over several iterations is added where none was drawn.
    """
    filled = [i for i in sorted(run.rollouts) if run.records(i)] if len(run.rollouts) <= 3 else _three(run)
    shown = []
    for iteration in filled:
        records = run.records(iteration)
        rng = random.Random(f"{seed}/{iteration}")
        right = [r for r in records if r.get("correct") is True]
        wrong = [r for r in records if r.get("correct") is False]
        picked = [r for pool in (right, wrong) for r in rng.sample(pool, min(each, len(pool)))]
        continued = [r for r in right + wrong if len(r["segments"]) > 1]
        if continued and not any(len(r["segments"]) > 1 for r in picked):
            picked.append(rng.choice(continued))
        counts = len(right), len(wrong), len(records) - len(right) - len(wrong)
        shown.append(Shown(iteration, tuple(picked), *counts))
    return shown


def _three(run: RunData) -> list[int]:
    """First, middle and last iteration with rollouts; empty files are passed over towards the middle."""
    order = sorted(run.rollouts)
    middle = len(order) // 2
    searches = (order, order[middle:], order[::-1])
    found = [next((i for i in search if run.records(i)), None) for search in searches]
    return sorted({i for i in found if i is not None})


def shorten(text: str) -> str:
    """A very long response by its head and tail, saying how much was left out."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
