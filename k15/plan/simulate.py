"""Iterations of the loop as discrete events: rollout phases with a token budget, training, hand-off (report 2.6).

    unfinished groups + new prompts ─▶ phase (each at most `budget` tokens) ─▶ train on finished groups ─▶ hand-off ─▶ ...

What an iteration would take with all slots always full is its ideal; what it takes longer is put down to the long tail,
slow engines, lost engines, hand-off and training, each by switching it on after the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from k15.plan.lengths import Lengths
from k15.plan.rollout import Outage, PhaseResult, Speed, Work, phase


@dataclass(frozen=True)
class Scenario:
    """What is simulated. Times in seconds, lengths in tokens. `train_s`(tokens, prompts' too) is
    train_fixed_s + tokens * train_token_s.

    `repetition`: share of responses that would run into `lengths.maximum` by repeating themselves; with `stop_at` they
    end so many tokens into it. `slow_share` of the engines takes `slow_factor` times as long, others drawn anew for each
    iteration. Each engine is lost once in `mtbf_s` of its time on average, for `restart_s`.
    """

    engines: int
    speed: Speed
    lengths: Lengths
    prompts: int
    samples: int
    prompt_tokens: int
    budget: int
    train_fixed_s: float
    train_token_s: float
    handoff_s: float
    repetition: float = 0.0
    stop_at: int | None = None
    slow_share: float = 0.0
    slow_factor: float = 1.0
    mtbf_s: float | None = None
    restart_s: float = 0.0


@dataclass
class Iteration:
    """`seconds` by part: ideal, tail, slow, lost, train, handoff. Shares are of the tokens of the trained groups."""

    parts: dict[str, float]
    tokens: int
    trained_tokens: int
    groups: int
    off_policy: float
    oldest: int
    p90_s: float

    @property
    def rollout_s(self) -> float:
        return sum(self.parts[k] for k in ("ideal", "tail", "slow", "lost"))

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def efficiency(self) -> float:
        """Share of the iteration in which every device did work that had to be done: ideal rollout and training."""
        return (self.parts["ideal"] + self.parts["train"]) / self.seconds


@dataclass
class _Flight:
    """Sequences in flight: group number, tokens left, done before, and tokens of each sampled in earlier iterations."""

    group: np.ndarray
    left: np.ndarray
    done: np.ndarray
    born: np.ndarray


def simulate(scenario: Scenario, iterations: int, seed: int, skip: int = 0) -> list[Iteration]:
    """`iterations` of the loop after `skip` from an empty buffer, whose times are not looked at. The same seed gives the
    same lengths whatever the budget."""
    rng_lengths, rng_faults = (np.random.default_rng([seed, part]) for part in (0, 1))
    s = scenario
    flight = _Flight(*(np.zeros(0, np.int64) for _ in range(4)))
    found: list[Iteration] = []
    for number in range(skip + iterations):
        flight = _with_new(flight, _lengths(s, rng_lengths), number, s)
        now = np.minimum(flight.left, s.budget)
        work = Work(now, s.prompt_tokens + flight.done)
        slow, outages = _faults(s, rng_faults, work)
        flight.left -= now
        before = flight.done.copy()
        flight.done += now
        finished = _whole_groups(flight)
        trained = int(flight.done[finished].sum())
        old = int(before[finished].sum())
        flying = _Flight(*(part[~finished] for part in (flight.group, flight.left, flight.done, flight.born)))
        if number < skip:  # what is sampled does not depend on how long it takes
            flight = flying
            continue
        parts, last = _attributed(s, work, slow, outages)
        with_prompts = trained + int(finished.sum()) * s.prompt_tokens
        parts |= {"train": s.train_fixed_s + with_prompts * s.train_token_s, "handoff": s.handoff_s}
        found.append(Iteration(
            parts, int(now.sum()), trained, len(set(flight.group[finished].tolist())), old / max(trained, 1),
            int((number - flight.born[finished]).max(initial=0)), float(np.percentile(last.ends, 90)) if len(last.ends) else 0.0,
        ))  # fmt: skip
        flight = flying
    return found


def _lengths(s: Scenario, rng: np.random.Generator) -> np.ndarray:
    """New responses' lengths [prompts * samples]."""
    found = s.lengths.draw(s.prompts * s.samples, rng)
    repeats = rng.random(len(found)) < s.repetition
    runaway = s.lengths.maximum if s.stop_at is None else np.minimum(found + s.stop_at, s.lengths.maximum)
    return np.where(repeats, runaway, found)


def _with_new(flight: _Flight, lengths: np.ndarray, number: int, s: Scenario) -> _Flight:
    n = len(lengths)
    group = number * s.prompts + np.arange(n) // s.samples
    new = _Flight(group, lengths, np.zeros(n, np.int64), np.full(n, number))
    return _Flight(*(np.concatenate((getattr(flight, k), getattr(new, k))) for k in ("group", "left", "done", "born")))


def _whole_groups(flight: _Flight) -> np.ndarray:
    """Which sequences belong to a group that has none left to sample: those are trained on."""
    return ~np.isin(flight.group, flight.group[flight.left > 0])


def _faults(s: Scenario, rng: np.random.Generator, work: Work) -> tuple[list[float], list[Outage]]:
    """Slow engines and outages of one phase. Draws do not depend on what is switched on."""
    slow = np.where(rng.random(s.engines) < s.slow_share, s.slow_factor, 1.0).tolist()
    first = rng.exponential(size=s.engines)
    if s.mtbf_s is None:
        return slow, []
    return slow, [Outage(i, float(t * s.mtbf_s), s.restart_s) for i, t in enumerate(first) if t * s.mtbf_s < 30 * 86400]


def _attributed(
    s: Scenario, work: Work, slow: Sequence[float], outages: Sequence[Outage]
) -> tuple[dict[str, float], PhaseResult]:
    """Seconds of the phase by cause, each the difference that it makes."""
    speeds = [s.speed] * s.engines
    ideal = _ideal(s, work)
    plain = last = phase(work, speeds)
    parts = {"ideal": min(ideal, plain.seconds), "tail": max(plain.seconds - ideal, 0.0), "slow": 0.0, "lost": 0.0}
    if any(f != 1.0 for f in slow):
        last = phase(work, speeds, slow)
        parts["slow"] = last.seconds - plain.seconds
    if outages:
        before = last
        last = phase(work, speeds, slow, outages)
        parts["lost"] = last.seconds - before.seconds
    return parts, last


def _ideal(s: Scenario, work: Work) -> float:
    """Seconds with every slot of every engine full until the end: the sum of the steps' cost over the engines."""
    tokens = work.tokens.astype(float)
    contexts = work.context * tokens + tokens * (tokens + 1) / 2
    decode = tokens.sum() * (s.speed.step_s / s.speed.slots + s.speed.sequence_s) + contexts.sum() * s.speed.context_s
    return float((decode + work.context.sum() * s.speed.prefill_s) / s.engines)


@dataclass(frozen=True)
class BudgetRow:
    """One token budget: means over the iterations after the buffer has filled."""

    budget: int
    rollout_s: float
    iteration_s: float
    tokens_per_s: float
    off_policy: float
    oldest: int
    efficiency: float
    lost: dict[str, float] = field(default_factory=dict)  # seconds by cause


def over_budgets(scenario: Scenario, budgets: Sequence[int], iterations: int, seed: int) -> list[BudgetRow]:
    """The table over budgets; the largest possible one (lengths.maximum) is waiting for the longest response.

    Iterations in which the buffer still fills (maximum / budget of them) are left out of the means.
    """
    rows = []
    for budget in budgets:
        filling = -(-scenario.lengths.maximum // budget) - 1
        found = simulate(replace(scenario, budget=budget), iterations, seed, skip=filling)
        seconds = sum(i.seconds for i in found)
        causes = {k: sum(i.parts[k] for i in found) / len(found) for k in found[0].parts}
        trained = sum(i.trained_tokens for i in found)
        rows.append(BudgetRow(
            budget, sum(i.rollout_s for i in found) / len(found), seconds / len(found), sum(i.tokens for i in found) / seconds,
            sum(i.off_policy * i.trained_tokens for i in found) / max(trained, 1), max(i.oldest for i in found),
            sum(i.parts["ideal"] + i.parts["train"] for i in found) / seconds, causes,
        ))  # fmt: skip
    return rows
