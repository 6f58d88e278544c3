"""What a trainer rank takes from the settings of whatever command it works for. Torch-free."""

from dataclasses import dataclass

from k15.config.dpo import DpoConfig
from k15.config.schema import AlgoConfig, ParallelConfig, RunConfig
from k15.config.sft import SftConfig


@dataclass(frozen=True)
class TrainerSettings:
    """`temperature`: of the distribution that is trained."""

    parallel: ParallelConfig
    algo: AlgoConfig
    dtype: str
    seed: int
    temperature: float = 1.0


def trainer_settings(cfg: RunConfig | SftConfig | DpoConfig) -> TrainerSettings:
    """The trainer's part of a command's config. Fine-tuning says with each step how large its packs are."""
    if isinstance(cfg, RunConfig):
        return TrainerSettings(cfg.parallel, cfg.algo, cfg.model.dtype, cfg.seed, cfg.rollout.temperature)
    first = next(s for s in cfg.named_stages().values() if s.epochs)
    return TrainerSettings(cfg.parallel, cfg.fit.algo(first.context_tokens), cfg.model.dtype, cfg.seed)
