"""What one side did in one run, in the same words for both. Torch-free."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One response: its prompt's text, its length (tokens, end of sequence included), its reward (0 or 1)."""

    prompt: str
    length: int
    reward: float


@dataclass(frozen=True)
class Iteration:
    """`wall_s` from the end of the iteration before to the end of this one.

    `phases_s` split it by name and add up to it; `details_s` are further seconds that the side reports.
    """

    wall_s: float
    phases_s: dict[str, float]
    samples: tuple[Sample, ...]
    details_s: dict[str, float] = field(default_factory=dict)

    @property
    def mean_length(self) -> float:
        return sum(s.length for s in self.samples) / len(self.samples)

    @property
    def mean_reward(self) -> float:
        return sum(s.reward for s in self.samples) / len(self.samples)

    def counts(self) -> Counter[str]:
        """Samples by prompt."""
        return Counter(s.prompt for s in self.samples)

    def reward_error(self) -> float:
        """Standard error of `mean_reward` given the prompts: the spread within each prompt's k samples."""
        by_prompt: dict[str, list[float]] = defaultdict(list)
        for s in self.samples:
            by_prompt[s.prompt].append(s.reward)
        variance = 0.0  # of the sum over all samples
        for rewards in by_prompt.values():
            k, mean = len(rewards), sum(rewards) / len(rewards)
            variance += k * sum((r - mean) ** 2 for r in rewards) / max(1, k - 1)
        return variance**0.5 / len(self.samples)


@dataclass(frozen=True)
class Run:
    """One block of one side. `weights_moved`: greatest absolute difference of a weight between the model and the export."""

    side: str
    setting: str
    iterations: tuple[Iteration, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    weights_moved: float
    versions: dict[str, str] = field(default_factory=dict)

    def counted(self) -> Sequence[Iteration]:
        """All iterations but the first, which pays for warming up."""
        return self.iterations[1:]
