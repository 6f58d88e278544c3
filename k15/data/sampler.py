"""Which prompts an iteration works on (report 2.3.4).

`uniform`      every prompt alike
`prioritised`  probability proportional to 1 - s_i, s_i the prompt's tracked success rate
`curriculum`   all prompts during the warm-up iterations, then the hard ones only

A success rate is smoothed and forgets: s_i = (S_i + prior_successes) / (T_i + prior_trials), where each new result
first multiplies S_i and T_i by `decay`. Hard means s_i <= hard_pass_rate; a prompt that was never tried is judged by
its measured pass rate (`meta.pass_rate`, as curation writes it), else by its label (at least the median difficulty), and is hard
where it has neither.
"""

import json
from collections.abc import Collection, Sequence

import numpy as np

from k15.config.schema import SamplerConfig
from k15.errors import ConfigError, DataError, unknown_name
from k15.types import Prompt

KINDS = ("uniform", "curriculum", "prioritised")
BINS = 5  # of the histogram of sampled difficulty


class PromptSampler:
    """Seeded draws without replacement within a call. The same calls after `load_state_dict` give the same draws."""

    def __init__(self, prompts: Sequence[Prompt], cfg: SamplerConfig, seed: int = 0) -> None:
        check_sampler(cfg)
        if not prompts:
            raise DataError("There is no prompt to sample from: the training set is empty.")
        self._prompts = list(prompts)
        self._index = {p.id: i for i, p in enumerate(self._prompts)}
        if len(self._index) < len(self._prompts):
            raise DataError("Two prompts of the training set have the same id; ids must be unique.")
        self._cfg = cfg
        self._rng = np.random.default_rng(seed)
        self._calls = 0
        self._successes = np.zeros(len(prompts))  # S_i, decayed
        self._trials = np.zeros(len(prompts))  # T_i, decayed
        self._untried_easy = _untried_easy(self._prompts, cfg.hard_pass_rate)
        self._drawn: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def count_free(self, exclude: Collection[str]) -> int:
        """How many prompts `next` could give beside those in `exclude`."""
        return len(self._prompts) - len(self._index.keys() & set(exclude))

    def next(self, n: int, exclude: Collection[str] = (), iteration: int | None = None) -> list[Prompt]:
        """`n` different prompts, none whose id is in `exclude` (those still in flight).

        `iteration` counts from 0 and drives the curriculum; None counts the calls. Raises DataError where fewer than
        `n` prompts are free.
        """
        free = np.ones(len(self._prompts), dtype=bool)
        free[[self._index[i] for i in exclude if i in self._index]] = False
        if n > free.sum():
            raise DataError(
                f"{n} prompts were asked for, but the training set has {len(free)}, of which {len(free) - free.sum()} "
                "are still in flight. Lower algo.prompts_per_iteration or add prompts."
            )
        step = self._calls if iteration is None else iteration
        self._calls = step + 1
        # Exponential races: the n smallest of Exp(1)/w_i are a draw without replacement, proportional to w at each
        # pick. Prompts of weight 0 come last, in random order among themselves.
        weights = self.weights(step)
        race = self._rng.exponential(size=len(free))
        with np.errstate(divide="ignore"):
            key = np.where(weights > 0, race / weights, np.inf)
        order = np.lexsort((race, key, ~free))[:n]
        self._count(order)
        return [self._prompts[i] for i in order]

    def _count(self, drawn: np.ndarray) -> None:
        """How hard the drawn prompts were found before: the histogram behind the report's figure of sampled difficulty."""
        tried = drawn[self._trials[drawn] > 0]
        bins = np.minimum((self.rates()[tried] * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        self._drawn = {"sampled_new": float(len(drawn) - len(tried))}
        self._drawn |= {f"sampled_rate_{100 * b // BINS}_{100 * (b + 1) // BINS}": float(c) for b, c in enumerate(counts)}

    def take_metrics(self) -> dict[str, float]:
        """Of the last draw: sampled_new (prompts never tried) and sampled_rate_A_B (tracked success rate of A to B %)."""
        drawn, self._drawn = self._drawn, {}
        return drawn

    def weights(self, iteration: int) -> np.ndarray:
        """Unnormalised probability of each prompt, in the order of the dataset [number of prompts]."""
        if self._cfg.kind == "prioritised":
            return np.maximum(1.0 - self.rates(), 0.0)
        if self._cfg.kind == "curriculum" and iteration >= self._cfg.warmup_iterations:
            return self._hard().astype(float)
        return np.ones(len(self._prompts))

    def rates(self) -> np.ndarray:
        """Smoothed success rates s_i in [0, 1] [number of prompts]."""
        trials = self._trials + self._cfg.prior_trials
        prior = np.divide(self._successes + self._cfg.prior_successes, trials, out=np.zeros_like(trials), where=trials > 0)
        return np.clip(prior, 0.0, 1.0)

    def _hard(self) -> np.ndarray:
        measured_easy = self.rates() > self._cfg.hard_pass_rate
        return ~np.where(self._trials > 0, measured_easy, self._untried_easy)

    def record(self, prompt_id: str, rewards: Sequence[float]) -> None:
        """Results of one visit to a prompt: the correctness (0 or 1) of each of its samples. Those of a prompt that the dataset
        no longer has, which was in flight when the run stopped, are forgotten as by `load_state_dict`."""
        assert all(0 <= r <= 1 for r in rewards), f"correctness must be in 0..1, got {list(rewards)}"
        if (i := self._index.get(prompt_id)) is None:
            return
        decay = self._cfg.decay
        self._successes[i] = self._successes[i] * decay + float(sum(rewards))
        self._trials[i] = self._trials[i] * decay + len(rewards)

    def state_dict(self) -> dict[str, object]:
        """Everything that future draws depend on, and the metrics of the last one, as plain JSON values."""
        tried = np.flatnonzero(self._trials > 0)
        return {
            "rng": json.loads(json.dumps(self._rng.bit_generator.state)),
            "calls": self._calls,
            "drawn": self._drawn,
            "results": {self._prompts[i].id: [float(self._successes[i]), float(self._trials[i])] for i in tried},
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a saved state. Results of prompts that the dataset no longer has are forgotten; a state from before
        metrics were saved has none."""
        self._rng.bit_generator.state = state["rng"]
        self._calls = int(state["calls"])  # type: ignore[call-overload]
        self._drawn = dict(state.get("drawn", {}))  # type: ignore[call-overload]
        self._successes[:] = 0.0
        self._trials[:] = 0.0
        for prompt_id, (successes, trials) in state["results"].items():  # type: ignore[attr-defined]
            if (i := self._index.get(prompt_id)) is not None:
                self._successes[i], self._trials[i] = successes, trials


def check_sampler(cfg: SamplerConfig) -> None:
    """Raises ConfigError for an unknown kind, a prior that is none, or a decay outside 0..1."""
    if cfg.kind not in KINDS:
        raise unknown_name("sampler.kind", cfg.kind, KINDS)
    if not 0 <= cfg.prior_successes <= cfg.prior_trials:
        raise ConfigError(
            f"sampler.prior_successes {cfg.prior_successes} must be from 0 to sampler.prior_trials {cfg.prior_trials}: "
            "they are the successes among the trials that every prompt starts with."
        )
    if not 0 <= cfg.decay <= 1:
        raise ConfigError(f"sampler.decay is {cfg.decay}, but it must be from 0 (only the last result) to 1 (all alike).")


def _untried_easy(prompts: Sequence[Prompt], hard_pass_rate: float) -> np.ndarray:
    """Whether a prompt is easy before RL has tried it [number of prompts]: by the pass rate that curation measured, else where
    its label is below the median label (at most it, where half of all have the lowest); unlabelled prompts are not easy."""
    labels = np.array([np.nan if p.difficulty is None else p.difficulty for p in prompts], dtype=float)
    measured = np.array([rate if isinstance(rate := p.meta.get("pass_rate"), int | float) else np.nan for p in prompts])
    easy = np.zeros(len(prompts), dtype=bool)
    if not np.isnan(labels).all():
        easy = labels < np.nanmedian(labels)  # comparisons with nan are false
        if not easy.any():
            easy = (labels <= np.nanmedian(labels)) & (labels < np.nanmax(labels))
    return np.where(np.isnan(measured), easy, measured > hard_pass_rate)
