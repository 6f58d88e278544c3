"""The false-positive audit (report 2.3.5): a seeded sample of accepted answers is judged again by a second method.

    accepted answer -- with probability `fraction` --> second method --> agrees | disagrees | cannot tell

The default second method is math-verify as it comes, with its own notation, parsing and comparison: nothing of them is
in `notation`, `literal` and `compare`, and only the grammar in `algebra`. Anything else that
judges (response, answer) pairs can stand in, a Chain-of-thought judge for one. The audit changes no reward: it is a
measurement, and its disagreement rate is a metric. A rate that rises during a run says that the policy has found a
hole in the first method (or in the second: the first disagreements are logged, all are counted).
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from k15.errors import ConfigError
from k15.log import get_logger
from k15.reward.answer import extract
from k15.reward.pool import WorkerPool
from k15.types import Prompt

SecondMethod = Callable[[Sequence[tuple[str, str]]], Sequence[bool | None]]
"""(response, answer) pairs -> right, wrong, or None where it cannot tell."""
TAIL_CHARS = 20_000
_LOGGED = 5


class Audit:
    """Samples accepted answers with probability `fraction` from a generator that starts from `seed`. Raises ConfigError.

    `second` judges them; its state is `state_dict()`, plain JSON.
    """

    def __init__(self, fraction: float, seed: int, second: SecondMethod) -> None:
        if not 0 <= fraction <= 1:
            raise ConfigError(f"reward.audit_fraction is {fraction:g}, but it is a share: give 0 (no audit) to 1 (all).")
        self.fraction, self._second = fraction, second
        self._random = random.Random(f"audit {seed}")
        self._counts: Counter[str] = Counter()
        self._logged = 0

    def look(self, prompt: Prompt, responses: Sequence[str]) -> None:
        """Judge a sample of these accepted responses again and count the outcome."""
        if not self.fraction:
            return
        chosen = [r for r in responses if self._random.random() < self.fraction]
        if not chosen:
            return
        opinions = self._second([(r[-TAIL_CHARS:], prompt.answer) for r in chosen])
        for response, opinion in zip(chosen, opinions, strict=True):
            self._counts["unknown" if opinion is None else "agree" if opinion else "disagree"] += 1
            if opinion is False and self._logged < _LOGGED:
                self._logged += 1
                get_logger("reward").warning(
                    "audit: an answer to prompt %s (%r) was accepted, but the second method says it is wrong: ...%r",
                    prompt.id, prompt.answer[:100], response[-200:],
                )  # fmt: skip

    def take_metrics(self) -> dict[str, float]:
        """reward_audit_{n,unknown} and, where any answer could be judged, reward_audit_disagreement; counts start anew."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return {}
        judged = counts["agree"] + counts["disagree"]
        found = {"reward_audit_n": float(judged), "reward_audit_unknown": float(counts["unknown"])}
        return found | ({"reward_audit_disagreement": counts["disagree"] / judged} if judged else {})

    def state_dict(self) -> dict[str, object]:
        """The generator's state, for JSON."""
        version, numbers, gauss = self._random.getstate()
        return {"random": [version, list(numbers), gauss]}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on as the audit that wrote `state`."""
        version, numbers, gauss = state["random"]  # type: ignore[misc]
        self._random.setstate((version, tuple(numbers), gauss))


def by_math_verify(pool: WorkerPool, template: str) -> SecondMethod:
    """The default second method, in the pool's worker processes; what fails or runs out of time there is None."""

    def judge(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        given = [extract(response, template) for response, _ in pairs]
        outcomes = pool.run([("second", (g if g is not None else "", a)) for g, (_, a) in zip(given, pairs, strict=True)])
        return [o.value if o.ok and isinstance(o.value, bool) else None for o in outcomes]

    return judge
