"""What both sides are asked to do, and how each is set to do it best on a small CPU machine."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """The work of one iteration, the same on both sides; sizes are those of the default experiment.

    Every rollout ends within its iteration (budget = maximum length, no stop on repetitions), so that both sides train
    on equally many samples. The learning rate is TRL's default: weights do change, but lengths hardly, so that the
    last iteration is as much work as the first.
    """

    prompts_per_iteration: int = 64
    samples_per_prompt: int = 8
    max_response_tokens: int = 96
    temperature: float = 1.0
    lr: float = 1e-6
    seed: int = 0
    iterations: int = 6  # of one block; the first is not counted
    blocks: int = 2  # runs of each side, taking turns

    @property
    def samples(self) -> int:
        """Samples of one iteration."""
        return self.prompts_per_iteration * self.samples_per_prompt


@dataclass(frozen=True)
class K15Setting:
    """k15 on one node: engines and trainer ranks are processes of one thread each."""

    name: str
    engines: int = 1
    ranks: int = 1
    max_concurrent: int = 64
    micro_batch_tokens: int = 4096

    def words(self) -> list[str]:
        return [
            f"rollout.engines_per_node={self.engines}", f"parallel.ranks_per_node={self.ranks}",
            f"rollout.max_concurrent={self.max_concurrent}", f"algo.micro_batch_tokens={self.micro_batch_tokens}",
        ]  # fmt: skip


@dataclass(frozen=True)
class TrlSetting:
    """`processes` > 1: data parallel over gloo. `options` go to GRPOConfig as they are."""

    name: str
    threads: int = 1
    processes: int = 1
    micro_batch_samples: int = 64
    options: dict[str, object] = field(default_factory=dict)


# The best setting that we know of comes first; `--tune` tries them all.
K15_CANDIDATES = (
    K15Setting("2 engines, 2 ranks, 256 sequences each", engines=2, ranks=2, max_concurrent=256),
    K15Setting("2 engines, 2 ranks, 128 sequences each", engines=2, ranks=2, max_concurrent=128),
    K15Setting("1 engine, 1 rank, 256 sequences", max_concurrent=256),
)
TRL_CANDIDATES = (
    TrlSetting("2 processes, micro-batches of 64", processes=2),
    TrlSetting("2 threads, micro-batches of 64", threads=2),
    TrlSetting("2 threads, micro-batches of 16", threads=2, micro_batch_samples=16),
    TrlSetting("1 thread, micro-batches of 64"),
)
