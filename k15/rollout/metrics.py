"""What one rollout phase cost and gave."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class PhaseMetrics:
    """Counts of one phase. Times are seconds since its start; tokens are response tokens of this phase."""

    rollouts: int = 0  # that had to be run in this phase
    tokens: int = 0
    seconds: float = 0.0
    p90_s: float = 0.0  # when 90 % of the rollouts were done
    tail_s: float = 0.0  # from there to the end
    finishes: Counter[str] = field(default_factory=Counter)
    repetition_saved_tokens_upper_bound: int = 0  # max_response_tokens - length of those stopped on a repetition
    dropped_tokens: int = 0  # sampled beyond a repetition that crosses two segments; part of what is counted as saved
    kept_tokens: int = 0  # that had arrived when their request broke off; part of `tokens`
    retries: int = 0  # requests sent again
    engine_failures: int = 0
    tokens_by_engine: Counter[str] = field(default_factory=Counter)  # by its base URL
    _start: float = field(default_factory=time.monotonic, repr=False)
    _done_at: list[float] = field(default_factory=list, repr=False)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def segment_done(self, finish: str) -> None:
        self.finishes[finish] += 1
        self._done_at.append(time.monotonic() - self._start)

    def close(self) -> None:
        self.seconds = time.monotonic() - self._start
        if self._done_at:
            self.p90_s = self._done_at[-(-9 * len(self._done_at) // 10) - 1]  # completion times are in order
            self.tail_s = self._done_at[-1] - self.p90_s
