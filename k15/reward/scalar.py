"""A Classic reward model in the loop (report 2.3.5): a value head's probability that an answer reaches the reference.

    math: rule check ── no ──▶ reward.classic: P(correct) > threshold? ──▶ correct after all, or wrong

`reward.classic.asks=all` lets it decide every response that has a final answer; the rule then only finds the answer. The model
itself is another process (`k15.runs.classic`): here is only who is asked, and what is made of it.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from k15.config.hf import is_scalar
from k15.config.schema import ClassicConfig
from k15.errors import ConfigError, DataError, unknown_name
from k15.reward.asked import REFUSALS
from k15.reward.classic import load_calibration
from k15.reward.math import MathVerdict
from k15.types import Prompt, Triple

Probabilities = Callable[[Sequence[Triple]], Sequence[float]]
"""P(correct) of each triple. Raises EngineError where the model cannot be asked: no reward is made up for it."""
ASKS = ("rejected", "all")


def check_classic(cfg: ClassicConfig) -> None:
    """Raises ConfigError where `cfg.path` is no exported Classic reward model, or another setting is wrong. Torch-free."""
    if cfg.asks not in ASKS:
        raise unknown_name("reward.classic.asks", cfg.asks, ASKS)
    if not 0 < cfg.threshold < 1:
        raise ConfigError(f"reward.classic.threshold is {cfg.threshold:g}, but it is a probability: give one between 0 and 1.")
    if not cfg.timeout_s > 0:
        raise ConfigError(f"reward.classic.timeout_s is {cfg.timeout_s:g}, but it must be greater than 0.")
    folder = Path(str(cfg.path))
    remedy = "Give the folder export/ of a run of `k15 reward_model kind=classic`."
    try:
        config = json.loads((folder / "config.json").read_text())
        load_calibration(folder)
    except (OSError, ValueError, DataError) as error:
        raise ConfigError(f"reward.classic.path is {cfg.path!r}, which is no Classic reward model ({error}). {remedy}") from None
    if not is_scalar(config):
        raise ConfigError(f"reward.classic.path is {cfg.path!r}, whose model has no value head. {remedy}")


class Classic:
    """Gives verdicts on behalf of `Rewards`. `probabilities` None: the settings are only checked. Raises ConfigError."""

    def __init__(self, cfg: ClassicConfig, probabilities: Probabilities | None) -> None:
        check_classic(cfg)
        self._cfg, self._probabilities = cfg, probabilities
        self._counted: Counter[str] = Counter()

    def reconsider(self, prompt: Prompt, texts: Sequence[str], found: Sequence[MathVerdict]) -> list[MathVerdict]:
        """The rule's verdicts, those with an answer that the model is asked about decided by it."""
        everything = self._cfg.asks == "all"
        open_ = [i for i, v in enumerate(found)
                 if v.extracted is not None and v.reason not in REFUSALS and (everything or not v.correct)]  # fmt: skip
        if not open_:
            return list(found)
        if self._probabilities is None:
            raise ConfigError("reward.classic.path is set, but no process serves the model here.")
        triples = [Triple(prompt.text, prompt.answer, texts[i]) for i in open_]
        different = list(dict.fromkeys(triples))
        given = dict(zip(different, self._probabilities(different), strict=True))
        verdicts = list(found)
        for i, triple in zip(open_, triples, strict=True):
            p, rule = given[triple], found[i]
            correct = p > self._cfg.threshold
            self._counted["n"] += 1
            self._counted["accepted"] += correct
            self._counted["overruled"] += correct is not rule.correct
            verdicts[i] = replace(rule, correct=correct, reason=f"classic: {p:.3f} (rule: {rule.reason})")
        return verdicts

    def take_metrics(self) -> dict[str, float]:
        """reward_classic_{n,accepted,overruled} since the last call; nothing where none was asked about."""
        counts, self._counted = self._counted, Counter()
        return {f"reward_classic_{k}": float(counts[k]) for k in ("n", "accepted", "overruled")} if counts["n"] else {}
