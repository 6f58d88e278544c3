"""What `k15 shortest` and `k15 long_cot` have in common: prompts, answers sampled on engines, verdicts. Torch-free."""

from dataclasses import dataclass, field

from k15.config.check import data_is_read, model_config
from k15.config.engines import check_engines, heads_divide
from k15.config.job import signal_comes_before_the_end
from k15.config.schema import ClusterConfig, DataConfig, ModelConfig, RewardConfig, RolloutConfig, SandboxConfig
from k15.config.values import CHOICES, check_shared, get, require
from k15.errors import ConfigError

_CHOICES = {k: CHOICES[k] for k in ("data.kind", "data.on_bad_row", "cluster.kind", "cluster.device", "model.dtype")}
_POSITIVE = (
    "samples", "chunk_prompts", "start_timeout_s", "model.max_context_tokens", "rollout.temperature",
    "rollout.max_response_tokens", "rollout.engines_per_node", "rollout.tensor_parallel", "rollout.max_concurrent",
    "rollout.request_timeout_s", "rollout.silence_timeout_s", "rollout.kv_cache_bytes", "rollout.block_size",
    "rollout.gpu_memory_utilization", "rollout.budget_tokens", "reward.workers", "reward.timeout_s", "reward.memory_gb",
    "data.train_size", "data.eval_size",
)  # fmt: skip


@dataclass
class AnswersConfig:
    """n answers to each prompt, judged."""

    name: str = "answers"
    run_dir: str | None = None  # null: runs/<name>; answers are kept here, so that a restart asks only for the rest
    seed: int = 0
    dry_run: bool = False
    samples: int = 8
    suffix: str = ""  # put behind each prompt when it is asked; what is learned from is the prompt without it
    limit: int | None = None  # only so many prompts of the set
    chunk_prompts: int = 64  # sampled and saved at a time; changes no answer
    start_timeout_s: float = 600.0  # of the engines
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)  # only the verdict counts: lengths, weights and penalties are RL's
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)  # for code: the `url` of a service that runs
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def check_answers(cfg: AnswersConfig, command: str) -> None:
    """All rules but those of the data itself. Raises ConfigError."""
    require(cfg, choices=_CHOICES, positive=_POSITIVE, not_negative=("seed", "rollout.max_retries"),
            fractions=("rollout.top_p", "rollout.gpu_memory_utilization", "data.eval_fraction"))  # fmt: skip
    check_shared(cfg)
    if cfg.limit is not None and cfg.limit < 1:
        raise ConfigError(f"limit is {cfg.limit}, but it must be at least 1, or null for all prompts.")
    if cfg.model.path is None:
        raise ConfigError("model.path is null; give the Hugging Face folder of the model to sample: model.path=runs/<run>/hf")
    if cfg.cluster.nodes != 1:
        raise ConfigError(f"cluster.nodes is {cfg.cluster.nodes}, but k15 {command} works on one node; set cluster.nodes=1.")
    data_is_read(cfg.data)
    for key in ("reward.judge.url", "reward.classic.path", "reward.custom"):
        if (value := get(cfg, key)) is not None:
            raise ConfigError(
                f"{key} is {value!r}, but k15 {command} goes by the rules of the domain alone: it asks no model for a verdict "
                f"and adds nothing to one. Leave it out ({key}=null)."
            )
    model = model_config(cfg)  # type: ignore[arg-type]
    heads_divide("rollout.tensor_parallel", cfg.rollout.tensor_parallel, model)
    check_engines(cfg, model)
    signal_comes_before_the_end(cfg.cluster)
