"""Verdicts on the answers of a task, and what the table says of it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k15.eval import humaneval
from k15.eval.endpoint import Answer
from k15.eval.estimates import Estimate, estimates
from k15.eval.progress import Bar
from k15.eval.tasks import Task
from k15.eval.votes import classes
from k15.reward.math import MathVerdict
from k15.reward.pool import WorkerPool
from k15.reward.router import DOMAINS
from k15.types import Prompt

Pair = tuple[Prompt, str]
_CHUNK = 256  # answers that are judged between two steps of the progress bar


@dataclass(frozen=True, slots=True)
class Scored:
    """A task's verdicts: `verdicts[i][j]` on answer j to problem i, `classes` for votes (None: the task has none)."""

    prompts: tuple[Prompt, ...]
    answers: tuple[tuple[Answer, ...], ...]
    verdicts: tuple[tuple[MathVerdict, ...], ...]
    classes: tuple[tuple[int | None, ...], ...] | None

    def estimates(self, ks: Sequence[int]) -> list[Estimate]:
        """pass@1, and pass@k and maj@k for `ks`."""
        return estimates([[v.correct for v in row] for row in self.verdicts], self.classes, ks)

    def by_language(self) -> dict[str, list[Estimate]]:
        """pass@1 of each language; nothing where there are not several."""
        rows: dict[str, list[list[bool]]] = {}
        for p, verdicts in zip(self.prompts, self.verdicts, strict=True):
            rows.setdefault(str(p.meta.get("language", "")), []).append([v.correct for v in verdicts])
        return {name: estimates(found, None, [1]) for name, found in rows.items()} if len(rows) > 1 else {}

    @property
    def mean_tokens(self) -> float:
        counts = [a.tokens for row in self.answers for a in row]
        return sum(counts) / len(counts)

    @property
    def truncated(self) -> float:
        """Share of answers that were cut at the maximum length."""
        ends = [a.finish == "length" for row in self.answers for a in row]
        return sum(ends) / len(ends)


def score(task: Task, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]], template: str, pool: WorkerPool) -> Scored:
    """Judge all answers. `template`: how a final answer is marked (`k15.reward.answer`). Raises SandboxError, ConfigError."""
    pairs = [(p, a.text) for p, row in zip(prompts, answers, strict=True) for a in row]
    bar, flat = Bar(f"{task.name}: judging", len(pairs)), []
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        flat += SCORERS[task.score](chunk, template, pool)
        bar.add(len(chunk))
    left = iter(flat)
    verdicts = tuple(tuple(next(left) for _ in row) for row in answers)
    votes = None
    if task.votes and all(p.domain == "math" for p in prompts) and max(map(len, answers)) > 1:
        votes = tuple(tuple(classes([v.extracted for v in row], pool)) for row in verdicts)
    return Scored(tuple(prompts), tuple(map(tuple, answers)), verdicts, votes)


def _reward(pairs: Sequence[Pair], template: str, pool: WorkerPool) -> list[MathVerdict]:
    """k15's own reward of each problem's domain."""
    found: dict[int, MathVerdict] = {}
    groups: dict[tuple[str, str | None], list[int]] = {}
    for i, (p, _) in enumerate(pairs):  # mathematics looks at the question too; programs of all problems are judged side by side
        groups.setdefault((p.domain, p.text if p.domain == "math" else None), []).append(i)
    for (domain, question), mine in groups.items():
        judged = DOMAINS[domain]([(pairs[i][1], pairs[i][0].answer) for i in mine], template, pool, question)  # type: ignore
        found |= dict(zip(mine, judged, strict=True))
    return [found[i] for i in range(len(pairs))]


def _humaneval(pairs: Sequence[Pair], template: str, pool: WorkerPool) -> list[MathVerdict]:
    return DOMAINS["code"]([humaneval.response_and_answer(p, text) for p, text in pairs], template, pool, None)  # type: ignore


# As lm-eval's gsm8k tasks: the last number of the response, compared as text after these are taken away from both sides.
_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")


def _flexible_extract(pairs: Sequence[Pair], template: str, pool: WorkerPool) -> list[MathVerdict]:
    del template, pool
    found = []
    for prompt, text in pairs:
        numbers = [m[0] for m in _NUMBER.finditer(text)]
        given = numbers[-1].strip() if numbers else None
        right = given is not None and _plain(given) == _plain(prompt.answer)
        found.append(MathVerdict(right, "same text" if right else "other text" if numbers else "no number", given))
    return found


def _plain(text: str) -> str:
    for pattern in _IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


SCORERS: dict[str, Callable[[Sequence[Pair], str, WorkerPool], list[MathVerdict]]] = {
    "reward": _reward, "humaneval": _humaneval, "flexible_extract": _flexible_extract,
}  # fmt: skip
