"""Which answers are the same answer: classes for maj@k, by the mathematics reward's own equality."""

from collections.abc import Sequence

from k15.reward.math import verdicts
from k15.reward.notation import canonical
from k15.reward.pool import WorkerPool


def classes(answers: Sequence[str | None], pool: WorkerPool) -> list[int | None]:
    """The class of each answer, numbered in order of appearance; None for no answer. Each class is known by its first answer."""
    found: dict[str, int] = {}
    firsts: list[str] = []
    for answer in answers:
        if answer is None or canonical(answer) in found:
            continue
        same = verdicts([(f"<answer>{answer}</answer>", f) for f in firsts], "<answer>ANSWER</answer>", pool)
        equal = next((i for i, v in enumerate(same) if v.correct), None)
        if equal is None:
            equal = len(firsts)
            firsts.append(answer)
        found[canonical(answer)] = equal
    return [None if a is None else found[canonical(a)] for a in answers]
