"""What `k15 sft` and `k15 dpo` have in common: optimizer, schedule, checks of their settings. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.config.check import model_config
from k15.config.job import (
    context_has_positions,
    kernels_have_a_gpu,
    log_is_installed,
    members_fit,
    ranks_have_gpus,
    signal_comes_before_the_end,
)
from k15.config.schema import AlgoConfig
from k15.config.values import CHOICES, check_shared, require
from k15.errors import ConfigError


@dataclass
class FitConfig:
    """AdamW, and which kernels compute log-probs (as `algo.kernels`)."""

    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0
    kernels: str = "auto"  # auto (Triton on a GPU, else PyTorch) | triton | torch

    def algo(self, micro_batch_tokens: int) -> AlgoConfig:
        """As the trainer takes it."""
        return AlgoConfig(
            weight_decay=self.weight_decay, beta1=self.beta1, beta2=self.beta2, eps=self.eps, clip_grad=self.clip_grad,
            kernels=self.kernels, micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip


@dataclass
class StageConfig:
    """Passes over the data at one length. The learning rate rises from 0 over the first steps, then falls by a cosine."""

    epochs: int = 1  # 0: no such stage
    context_tokens: int = 32768  # of a pack, at most; longer examples (pairs: both responses) wait for a longer stage
    batch_tokens: int = 1048576  # of an optimizer step, over all ranks
    lr: float = 2e-5
    final_lr: float = 2e-6
    rise: float = 0.03  # share of the stage's steps in which the learning rate rises


@dataclass
class FitSaveConfig:
    """Checkpoints every so many optimizer steps, at the end and on the signal before the time limit; exports at the end."""

    every: int = 200
    keep: int = 2
    export_hf: bool = True


@dataclass
class FitEvalConfig:
    """The loss on held-out examples, before training, every so many steps and at the end. `size`: examples, at most."""

    every: int = 100
    size: int = 512


FIT_CHOICES = {key: CHOICES[key] for key in ("cluster.kind", "cluster.device", "model.dtype", "data.on_bad_row")} | {
    "fit.kernels": CHOICES["algo.kernels"]
}
FIT_POSITIVE = (
    "fit.eps", "parallel.ranks_per_node", "parallel.tensor", "parallel.pipeline", "parallel.expert", "parallel.context",
    "model.max_context_tokens", "save.every", "save.keep",
    "eval.every", "eval.size",
)  # fmt: skip
FIT_NOT_NEGATIVE = ("seed", "fit.weight_decay", "fit.clip_grad")
STAGE_POSITIVE = ("context_tokens", "batch_tokens", "lr")


def check_fit(cfg: Any, stages: Mapping[str, StageConfig]) -> dict[str, object]:
    """The rules that all fine-tuning has, before data is read. `stages` by the name of their setting.

    Returns the model's config.json. Raises ConfigError.
    """
    require(
        cfg, choices=FIT_CHOICES, positive=FIT_POSITIVE, not_negative=FIT_NOT_NEGATIVE, fractions=("data.eval_fraction",),
        below_one=("fit.beta1", "fit.beta2"),
    )  # fmt: skip
    check_shared(cfg)
    if cfg.data.eval_fraction == 1 and not cfg.data.eval_paths:
        raise ConfigError(
            "data.eval_fraction is 1, which leaves no example to train on. Give a smaller one, or the held-out examples as "
            "data.eval_paths=[held_out.jsonl]."
        )
    for name, stage in stages.items():
        require(cfg, positive=[f"{name}.{key}" for key in STAGE_POSITIVE], fractions=(f"{name}.rise",),
                not_negative=(f"{name}.epochs", f"{name}.final_lr"))  # fmt: skip
        if stage.epochs and stage.final_lr > stage.lr:
            raise ConfigError(
                f"{name}.final_lr is {stage.final_lr:g}, but the learning rate falls to it from {name}.lr={stage.lr:g}. "
                "Give a smaller one."
            )
    if not any(stage.epochs for stage in stages.values()):
        raise ConfigError(f"no stage has an epoch, so nothing would be trained. Give {next(iter(stages))}.epochs=1.")
    model = model_config(cfg)
    context_has_positions(cfg.model.max_context_tokens, model)
    signal_comes_before_the_end(cfg.cluster)
    members_fit(cfg.cluster)
    ranks_have_gpus(cfg.cluster, cfg.parallel.ranks_per_node)
    kernels_have_a_gpu(cfg.cluster, "fit.kernels", cfg.fit.kernels)
    log_is_installed(cfg.log)
    return model


def check_files(setting: str, paths: list[str], example: str) -> None:
    """Each path is a file that is named once. Raises ConfigError."""
    for path in paths:
        if not Path(path).is_file():
            raise ConfigError(f"{setting} names {path!r}, which is no file on this machine. Give JSONL files: {example}")
        if paths.count(path) > 1:
            raise ConfigError(f"{setting} names {path!r} twice; use a weight to repeat a file.")
