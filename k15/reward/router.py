"""One reward for each rollout of a group: the verdict by domain, and the parts that are added to it.

    total = correct * [verdict] + w(iteration) * length_reward - repetition_penalty * [stopped on a repetition]
            + custom_weight * custom

`correct` and w may be a domain's own (`reward.domains`). Only the verdict decides `Score.correct`. A new domain is one
entry in DOMAINS.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from k15.config.schema import DomainRewardConfig, RewardConfig
from k15.errors import ConfigError, DataError
from k15.log import get_logger
from k15.reward import code
from k15.reward.answer import check_template
from k15.reward.audit import Audit, SecondMethod, by_math_verify
from k15.reward.length import length_reward, length_weight
from k15.reward.math import FAILED, MathVerdict, verdicts
from k15.reward.opinion import LoopJudge, OpenAsk
from k15.reward.pool import Outcome, WorkerPool
from k15.reward.repetition import repetition_reward
from k15.reward.scalar import Classic, Probabilities
from k15.types import Group, Prompt, Score

Judge = Callable[[Sequence[tuple[str, str]], str, WorkerPool, str], list[MathVerdict]]  # pairs, template, pool, question
DOMAINS: dict[str, Judge] = {"math": verdicts, "code": code.verdicts}
CHECKS: dict[str, Callable[[str], None]] = {"code": code.check_answer}  # of the reference answer, before anything is sampled
_LOGGED_FAILURES = 3  # of each kind in full; the rest are only counted


def check_domains(prompts: Iterable[Prompt]) -> None:
    """Raises DataError for a prompt whose domain has no reward, before anything is sampled."""
    for prompt in prompts:
        if prompt.domain not in DOMAINS:
            raise DataError(
                f"Prompt {prompt.id!r} has domain {prompt.domain!r}, which has no reward. "
                f"Known domains: {', '.join(sorted(DOMAINS))}. Correct its `domain`, or leave the prompt out."
            )
        if prompt.domain in CHECKS:
            try:
                CHECKS[prompt.domain](prompt.answer)
            except DataError as error:
                raise DataError(f"Prompt {prompt.id!r}: {error}") from error


def check_rewards(cfg: RewardConfig) -> None:
    """Raises ConfigError for all that `Rewards` refuses; a custom function is imported in a process of its own."""
    Rewards(cfg).close()


class Rewards:
    """Scores groups as `cfg` says. Owns worker processes: `close()` it, or use it in a `with`.

    `failures` counts checks and custom rewards that crashed, failed or timed out; each of them scored 0. `seed` is the
    run's; `second` judges the audited answers (None: math-verify as it comes, or `reward.judge`, for `math` only).
    `open_ask`: how the judge of `reward.judge` is asked where its url is `engines`; `probabilities`: how `reward.classic` is.
    Raises ConfigError at once where the template, a weight or the custom function is wrong.
    """

    def __init__(
        self, cfg: RewardConfig, seed: int = 0, second: SecondMethod | None = None, open_ask: OpenAsk | None = None,
        probabilities: Probabilities | None = None,
    ) -> None:  # fmt: skip
        self._cfg = cfg
        self._template = check_template(cfg.template)
        self.failures: Counter[str] = Counter()
        self._log = get_logger("reward")
        own = [(f"domains.{d}.length_weight", self._weights(d)[1]) for d in DOMAINS]
        for name, value in (("repetition_penalty", cfg.repetition_penalty), ("length.weight", cfg.length.weight), *own):
            if value < 0:
                raise ConfigError(f"reward.{name} is {value}, but it must be at least 0: it is subtracted where deserved.")
        self._judge = LoopJudge(cfg.judge, seed, open_ask) if cfg.judge.url is not None else None
        self._classic = Classic(cfg.classic, probabilities) if cfg.classic.path is not None else None
        self._pool = WorkerPool(cfg.workers, cfg.timeout_s)
        self._audited = frozenset({"math"}) if second is None else frozenset(DOMAINS)
        if second is None:
            own = self._judge is not None and cfg.judge.audit
            second = self._judge.second if own else by_math_verify(self._pool, self._template)
        self._audit = Audit(cfg.audit_fraction, seed, second)
        self._counted: Counter[str] = Counter()
        if cfg.custom is not None:
            self._check_custom(cfg.custom)

    def score_group(self, group: Group, texts: Sequence[str], iteration: int, audit: bool = True) -> list[Score]:
        """Scores of a group's rollouts, in order. `texts`: their decoded responses; `iteration` counts from 0.

        `audit` False (for evaluation): no answer is judged again, by the audit, `reward.judge` or `reward.classic`.
        """
        assert len(texts) == len(group.rollouts), f"{len(texts)} texts for {len(group.rollouts)} rollouts"
        prompt = group.prompt
        check_domains([prompt])
        found = DOMAINS[prompt.domain]([(text, prompt.answer) for text in texts], self._template, self._pool, prompt.text)
        if audit and prompt.domain == "math" and self._judge is not None and self._cfg.judge.rejected:
            found = self._judge.reconsider(prompt, texts, found)
        if audit and prompt.domain == "math" and self._classic is not None:
            found = self._classic.reconsider(prompt, texts, found)
        if audit and prompt.domain in self._audited:
            self._audit.look(prompt, [text for text, v in zip(texts, found, strict=True) if v.correct])
        right, length = self._weights(prompt.domain)
        weight = length_weight(length, self._cfg.length.warmup_iterations, iteration)
        lam = length_reward([r.length for r in group.rollouts], [v.correct for v in found])
        custom = self._custom(prompt, texts)
        scores = []
        for i, (rollout, verdict) in enumerate(zip(group.rollouts, found, strict=True)):
            parts = {
                "correct": right * verdict.correct,
                "length": weight * lam[i] + 0.0,  # no -0.0 in the records
                "repetition": repetition_reward(rollout, self._cfg.repetition_penalty) + 0.0,
            }
            reason = verdict.reason
            if reason.startswith(FAILED):
                self._failed("verify", prompt, reason)
            if custom is not None:
                value = float(custom[i].value) if custom[i].ok else 0.0  # type: ignore[arg-type]
                parts["custom"] = self._cfg.custom_weight * value + 0.0
                reason += "" if custom[i].ok else f"; custom reward failed: {custom[i].reason}"
            scores.append(Score(verdict.correct, parts, reason))
        return scores

    def _weights(self, domain: str) -> tuple[float, float]:
        """(of a right answer, of the length reward) in this domain."""
        own = getattr(self._cfg.domains, domain, DomainRewardConfig())
        return (
            own.correct if own.correct is not None else self._cfg.correct,
            own.length_weight if own.length_weight is not None else self._cfg.length.weight,
        )

    def _custom(self, prompt: Prompt, texts: Sequence[str]) -> list[Outcome] | None:
        if self._cfg.custom is None:
            return None
        memory = int(self._cfg.memory_gb * (1 << 30))
        outcomes = self._pool.run([("custom", (self._cfg.custom, prompt, text, memory)) for text in texts])
        for outcome in outcomes:
            if not outcome.ok:
                self._failed("custom", prompt, outcome.reason)
        return outcomes

    def take_metrics(self) -> dict[str, float]:
        """What audit and judge found and how many checks failed since the last call (names: docs/metrics.md)."""
        new, self._counted = self.failures - self._counted, Counter(self.failures)
        judged = self._judge.take_metrics() if self._judge is not None else {}
        judged |= self._classic.take_metrics() if self._classic is not None else {}
        return {
            **self._audit.take_metrics(),
            **judged,
            **{f"reward_failures_{kind}": float(n) for kind, n in sorted(new.items())},
        }

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint needs so that the resumed run audits as this one would: plain JSON."""
        return {"audit": self._audit.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on as the run that wrote `state`; one written before there was an audit starts it anew."""
        if "audit" in state:
            self._audit.load_state_dict(state["audit"])  # type: ignore[arg-type]

    def _failed(self, kind: str, prompt: Prompt, reason: str) -> None:
        self.failures[kind] += 1
        if self.failures[kind] <= _LOGGED_FAILURES:
            self._log.warning("%s reward of prompt %s failed and counts as 0: %s", kind, prompt.id, reason)

    def _check_custom(self, spec: str) -> None:
        module, colon, name = spec.partition(":")
        if not (module and colon and name):
            self.close()
            raise ConfigError(f"reward.custom is {spec!r}; it must be package.module:function, e.g. my_rewards:brevity.")
        outcome = self._pool.run([("check_custom", (spec,))])[0]
        if not outcome.ok:
            self.close()
            raise ConfigError(
                f"reward.custom={spec} cannot be used: {outcome.reason}. It must name an importable function "
                "(prompt: k15.types.Prompt, response: str) -> float, sync or async; put its folder on PYTHONPATH."
            )

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
