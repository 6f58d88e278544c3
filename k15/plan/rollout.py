"""One rollout phase as discrete events: engines with slots take work from one queue, as `k15.rollout.phase` does.

A decoding step of b sequences with K tokens of context takes  step_s + b sequence_s + K context_s  (times the engine's
slowness). Between two ends the batch does not change, so an event is the end of a sequence, not of a step.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Speed:
    """An engine: `step_s` a decoding step (weights are read), `sequence_s` more for each sequence of it, `context_s` more for
    each token of context (its keys and values are read), `prefill_s` for each token that is prefilled."""

    step_s: float
    sequence_s: float
    context_s: float
    prefill_s: float
    slots: int

    def tokens_per_s(self, context: float) -> float:
        """At full batch with sequences of `context` tokens."""
        return self.slots / (self.step_s + self.slots * (self.sequence_s + context * self.context_s))


@dataclass
class Work:
    """`tokens` to sample in this phase behind `context` tokens that are prefilled first."""

    tokens: np.ndarray
    context: np.ndarray


@dataclass
class Outage:
    """Engine `engine` is lost `at_s` into the phase and back `for_s` later; what it had sampled is kept."""

    engine: int
    at_s: float
    for_s: float


@dataclass
class PhaseResult:
    """`seconds` until the last sequence ended; `busy_s`: slot-seconds in use; `ends`: when each sequence ended [n]."""

    seconds: float
    busy_s: float
    ends: np.ndarray


@dataclass
class _Engine:
    speed: Speed
    slow: float
    now: float = 0.0
    steps: int = 0  # decoding steps done
    active: list[tuple[int, int]] = field(default_factory=list)  # heap of (step at which it ends, sequence)
    context: float = 0.0  # tokens in the batch
    outages: deque[Outage] = field(default_factory=deque)

    def advance(self, steps: int) -> float:
        """Seconds that `steps` steps of the present batch take; contexts grow by a token a step and sequence."""
        b, s = len(self.active), self.speed
        grown = self.context * steps + b * steps * (steps + 1) / 2
        return self.slow * (steps * (s.step_s + b * s.sequence_s) + grown * s.context_s)

    def steps_within(self, seconds: float) -> int:
        """How many whole steps of the present batch fit into `seconds`."""
        low, high = 0, max(1, self.active[0][0] - self.steps)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.advance(middle) <= seconds else (low, middle - 1)
        return low

    def move(self, steps: int) -> None:
        self.now += self.advance(steps)
        self.context += len(self.active) * steps
        self.steps += steps


def phase(
    work: Work, speeds: Sequence[Speed], slow: Sequence[float] | None = None, outages: Sequence[Outage] = ()
) -> PhaseResult:
    """Run all of `work`, longest context first (what goes on from earlier iterations), on the engines.

    `slow`: factor of each engine's times (1: as its speed says).
    """
    n = len(work.tokens)
    left, context = work.tokens.astype(np.int64).copy(), work.context.astype(np.int64).copy()
    ends = np.zeros(n)
    queue: deque[int] = deque(np.argsort(-work.context, kind="stable").tolist())
    engines = [_Engine(s, 1.0 if slow is None else slow[i]) for i, s in enumerate(speeds)]
    for outage in sorted(outages, key=lambda o: o.at_s):
        engines[outage.engine].outages.append(outage)
    busy = 0.0
    events = [(0.0, i) for i in range(len(engines))]
    idle: list[int] = []
    while events:
        _, i = heapq.heappop(events)
        engine = engines[i]
        if engine.outages and engine.outages[0].at_s <= engine.now:
            lost_at = engine.now  # the end of the step in which it happened
            _fail(engine, engine.outages.popleft(), left, context, queue)
            for j in idle:  # its work goes to whoever is free
                engines[j].now = max(engines[j].now, lost_at)
                heapq.heappush(events, (engines[j].now, j))
            idle.clear()
            heapq.heappush(events, (engine.now, i))
            continue
        _fill(engine, left, context, queue)
        if not engine.active:
            idle.append(i)
            continue
        steps = engine.active[0][0] - engine.steps
        if engine.outages:
            steps = min(steps, max(1, engine.steps_within(engine.outages[0].at_s - engine.now)))
        before = engine.now
        busy += len(engine.active) * engine.advance(steps)
        engine.move(steps)
        assert engine.now >= before
        while engine.active and engine.active[0][0] <= engine.steps:
            _, s = heapq.heappop(engine.active)
            ends[s] = engine.now
            engine.context -= context[s] + left[s]
            context[s] += left[s]
            left[s] = 0
        heapq.heappush(events, (engine.now, i))
    assert not left.any(), "work is left over"
    return PhaseResult(float(ends.max(initial=0.0)), busy, ends)


def _fill(engine: _Engine, left: np.ndarray, context: np.ndarray, queue: deque[int]) -> None:
    while queue and len(engine.active) < engine.speed.slots:
        s = queue.popleft()
        engine.now += engine.slow * context[s] * engine.speed.prefill_s
        engine.context += context[s]
        heapq.heappush(engine.active, (engine.steps + int(left[s]), s))


def _fail(engine: _Engine, outage: Outage, left: np.ndarray, context: np.ndarray, queue: deque[int]) -> None:
    """What was running goes back to the head of the queue, shorter by what had arrived."""
    for end, s in engine.active:
        done = left[s] - (end - engine.steps)
        left[s] -= done
        context[s] += done
        queue.appendleft(s)
    engine.active.clear()
    engine.context = 0.0
    engine.now += outage.for_s
