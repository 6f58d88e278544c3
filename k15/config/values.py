"""The rules of single settings: allowed names, signs and ranges. Torch-free."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from k15.config.schema import RunConfig
from k15.errors import ConfigError, unknown_name

CHOICES: Mapping[str, tuple[str, ...]] = {
    "algo.loss": ("pmd", "pmd_per_token", "rest"),
    "algo.baseline": ("mean", "log_partition", "leave_one_out", "none"),
    "algo.kernels": ("auto", "triton", "torch"),
    "data.kind": ("arithmetic", "jsonl"),
    "data.on_bad_row": ("error", "skip"),
    "sampler.kind": ("uniform", "curriculum", "prioritised"),
    "rollout.update": ("in_place", "restart"),
    "save.exports": ("latest", "best", "all"),
    "cluster.kind": ("auto", "slurm", "local"),
    "cluster.device": ("auto", "cpu", "cuda"),
    "model.dtype": ("float32", "bfloat16"),
    "weights.transport": ("auto", "http", "mooncake", "mpi"),
    "reward.classic.asks": ("rejected", "all"),
    "reward.classic.device": ("auto", "cpu", "cuda"),
    "sandbox.backend": ("auto", "crun", "bubblewrap"),
}
POSITIVE_IN_TINY = (
    "model.tiny.hidden_size", "model.tiny.intermediate_size", "model.tiny.num_layers",
    "model.tiny.num_heads", "model.tiny.num_kv_heads", "model.tiny.rope_theta", "model.tiny.init_std",
)  # fmt: skip
POSITIVE = (
    "algo.tau", "algo.iterations", "algo.prompts_per_iteration", "algo.samples_per_prompt", "algo.minibatches",
    "algo.micro_batch_tokens", "algo.lr", "algo.eps", "rollout.temperature", "rollout.max_response_tokens",
    "rollout.budget_tokens", "rollout.engines_per_node", "rollout.tensor_parallel", "rollout.max_concurrent",
    "parallel.ranks_per_node", "parallel.tensor", "parallel.pipeline", "parallel.expert", "parallel.context",
    "model.max_context_tokens", "save.every", "save.keep", "eval.every",
    "eval.size", "eval.samples", "data.train_size", "data.eval_size", "reward.workers", "reward.timeout_s", "reward.memory_gb",
    "reward.correct",
    "rollout.request_timeout_s", "rollout.silence_timeout_s", "rollout.kv_cache_bytes", "rollout.block_size",
    "rollout.gpu_memory_utilization",
    *POSITIVE_IN_TINY,
)  # fmt: skip
POSITIVE_OR_NULL = ("rollout.canary_tolerance",)
POSITIVE_IN_WARMUP = ("warmup.steps", "warmup.batch_size", "warmup.lr")  # the tiny model's only
NOT_NEGATIVE = (
    "seed", "algo.weight_decay", "algo.clip_grad", "rollout.max_retries", "reward.repetition_penalty", "reward.length.weight",
    "reward.length.warmup_iterations", "sampler.warmup_iterations", "warmup.min_lr",
)  # fmt: skip
FRACTIONS = (
    "rollout.top_p",
    "reward.audit_fraction",
    "sampler.hard_pass_rate",
    "data.eval_fraction",
    "warmup.guess_fraction",
    "warmup.slip_fraction",
    "warmup.checked_fraction",
    "rollout.gpu_memory_utilization",
)
BELOW_ONE = ("algo.beta1", "algo.beta2")
AT_MOST = {
    "data.train_size": 1_000_000, "data.eval_size": 1_000_000,  # generated and held in memory by every controller
    "parallel.ranks_per_node": 1024, "workers": 1024, "reward.workers": 1024, "sandbox.workers": 1024,  # processes of a node
    "stage.epochs": 10_000, "stages.first.epochs": 10_000, "stages.second.epochs": 10_000,  # the schedule is made as a whole
}  # fmt: skip
SHARED = {  # sections of several commands: (positive, at least 0), where they are not null
    "cluster": (("nodes", "time_min", "cpus_per_task", "mem_gb"), ("signal_before_s", "rejoin_min")),
    "sandbox": (("workers", "queue_size", "patience_s", "queue_patience_s"), ("restarts",)),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def get(cfg: object, key: str) -> object:
    """The value at a dotted key."""
    value = cfg
    for part in key.split("."):
        value = getattr(value, part)
    return value


def require(
    cfg: object,
    *,
    choices: Mapping[str, Sequence[str]] = MappingProxyType({}),
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    below_one: Sequence[str] = (),
    fractions: Sequence[str] = (),
) -> None:
    """Raises ConfigError with the value, the rule and the remedy for the first setting of `cfg` out of its range."""
    for key, allowed in choices.items():
        if get(cfg, key) not in allowed:
            raise unknown_name(key, get(cfg, key), allowed)
    for key in positive:
        value = get(cfg, key)
        if not (value > 0 and math.isfinite(value)):  # type: ignore[operator]
            raise ConfigError(f"{key} is {value}, but it must be greater than 0. Give {key}=<a positive number>.")
    for key in not_negative:
        value = get(cfg, key)
        if not (value >= 0 and math.isfinite(value)):  # type: ignore[operator]
            raise ConfigError(f"{key} is {value}, but it must be at least 0. Give {key}=0 or more.")
    for key in below_one:
        value = get(cfg, key)
        if not 0 <= value < 1:  # type: ignore[operator]
            raise ConfigError(f"{key} is {value}, but it is a decay: give a number from 0 to below 1.")
    for key in fractions:
        value = get(cfg, key)
        if not 0 <= value <= 1:  # type: ignore[operator]
            raise ConfigError(f"{key} is {value}, but it is a fraction: give a number from 0 to 1.")


def check_shared(cfg: object) -> None:
    """The rules of SHARED and AT_MOST, for the settings that the command has. Raises ConfigError."""
    for section, (positive, not_negative) in SHARED.items():
        held = getattr(cfg, section, None)
        keys = [[f"{section}.{k}" for k in names if getattr(held, k, None) is not None] for names in (positive, not_negative)]
        require(cfg, positive=keys[0], not_negative=keys[1])
    for key, most in AT_MOST.items():
        *sections, last = key.split(".")
        held = cfg
        for section in sections:
            held = getattr(held, section, None)
        value = getattr(held, last, None)
        if value is not None and value > most:
            raise ConfigError(f"{key} is {value}, but it must be at most {most}. Give {key}={most} or less.")


def check_names(name: str, run_dir: str | None) -> None:
    """`name` becomes a part of file and job names, `run_dir` a folder. Raises ConfigError where they cannot."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"name is {name!r}, but it becomes a part of folder and job names. Allowed: 1 to 100 letters, digits, and "
            "`.`, `_`, `-` after the first."
        )
    if run_dir is None:
        return
    if not run_dir.strip() or "\n" in run_dir:
        raise ConfigError(
            f"run_dir is {run_dir!r}, which names no folder. Give run_dir=<folder>, or leave it out: runs/<name>-<job>."
        )
    taken = next((p for p in (Path(run_dir), *Path(run_dir).parents) if p.exists() or p.is_symlink()), None)
    if taken is not None and not taken.is_dir():
        raise ConfigError(f"run_dir is {run_dir!r}, but {taken} is a file. Give run_dir=<folder>.")


def check_values(cfg: RunConfig) -> None:
    """The rules of single settings of `k15 rl`. Raises ConfigError."""
    positive = [*POSITIVE, *(k for k in POSITIVE_OR_NULL if get(cfg, k) is not None)]
    positive += POSITIVE_IN_WARMUP if cfg.model.path is None else ()
    require(
        cfg, choices=CHOICES, positive=positive, not_negative=NOT_NEGATIVE, below_one=BELOW_ONE, fractions=FRACTIONS
    )  # fmt: skip
    check_shared(cfg)
    if not math.isfinite(cfg.reward.custom_weight):
        raise ConfigError(f"reward.custom_weight is {cfg.reward.custom_weight}, but it must be a finite number.")
