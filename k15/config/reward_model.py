"""Every setting of `k15 reward_model`, typed; conf/reward_model.yaml and conf/kind hold the values. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from hydra.core.config_store import ConfigStore

from k15.config.compose import compose_as, settings
from k15.config.schema import ClusterConfig, ModelConfig, ParallelConfig
from k15.config.values import check_shared, get, require
from k15.errors import ConfigError

KINDS = ("classic", "cot")
CALIBRATIONS = ("platt", "temperature", "none")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16")
NOT_POSITIVE = ("weight_decay",)


@dataclass
class TripleDataConfig:
    """Labelled triples: JSONL (`path`), or generated from arithmetic where it is null."""

    path: str | None = None
    eval_path: str | None = None  # null: the last `eval_size` of `path`
    train_size: int = 40000  # generated
    eval_size: int = 600  # of the spot check
    calibration_size: int = 600  # held out from training, for the Classic model's calibration
    template: str = "compact"  # compact (the tiny model) | plain (a model that knows words)


@dataclass
class FitConfig:
    """Optimizer steps: the learning rate rises linearly, then falls to `min_lr` by a cosine."""

    steps: int = 600
    batch_size: int = 64
    lr: float = 3e-3
    min_lr: float = 1e-4
    weight_decay: float = 0.0
    micro_batch_tokens: int = 8192
    save_every: int = 200  # steps between checkpoints, from which a run that was killed goes on


@dataclass
class VoteConfig:
    """How the Chain-of-thought judge is asked in the spot check."""

    votes: int = 1
    retries: int = 2
    temperature: float = 0.0
    max_tokens: int = 96
    concurrency: int = 64
    start_timeout_s: float = 600.0  # of its vLLM server


@dataclass
class RewardModelConfig:
    """`kind` classic: value head, one scalar; cot: reasoning that ends in JSON (report 2.3.5)."""

    name: str = "reward_model"
    kind: str = "classic"
    run_dir: str | None = None  # null: runs/reward_model-<kind>-<job id or time>
    seed: int = 0
    dry_run: bool = False
    calibration: str = "platt"  # platt | temperature | none
    device: str = "auto"  # cluster.device's short name
    model: ModelConfig = field(default_factory=ModelConfig)
    data: TripleDataConfig = field(default_factory=TripleDataConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    judge: VoteConfig = field(default_factory=VoteConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)  # ranks of this machine
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


ConfigStore.instance().store(name="reward_model_schema", node=RewardModelConfig)


def compose_reward_model(words: Sequence[str]) -> RewardModelConfig:
    """The settings of `kind=... name=value ...`. Raises ConfigError."""
    found = compose_as(RewardModelConfig, "reward_model", settings(words))
    check_reward_model(found)
    return found


def check_reward_model(cfg: RewardModelConfig, nodes: int = 1) -> None:
    """Raises ConfigError for what cannot be."""
    nodes = max(nodes, cfg.cluster.nodes)
    if nodes > 1:
        raise ConfigError(
            f"cluster.nodes is {nodes}, but a reward model is trained on one machine. Give cluster.nodes=1 and its GPUs as "
            "parallel.ranks_per_node."
        )
    choices = {"kind": KINDS, "calibration": CALIBRATIONS, "device": DEVICES, "cluster.device": DEVICES, "model.dtype": DTYPES}
    positive = [f"{s}.{f.name}" for s in ("data", "fit") for f in fields(getattr(cfg, s)) if f.name not in NOT_POSITIVE]
    positive = [key for key in positive if isinstance(get(cfg, key), int | float)]
    require(cfg, choices=choices, positive=[*positive, "parallel.ranks_per_node", "judge.votes", "judge.max_tokens"],
            not_negative=("fit.weight_decay", "seed", "judge.retries"))  # fmt: skip
    check_shared(cfg)
    if "auto" not in (cfg.device, cfg.cluster.device) and cfg.device != cfg.cluster.device:
        raise ConfigError(f"device is {cfg.device}, but cluster.device is {cfg.cluster.device}; give one of the two.")
    if cfg.data.eval_path is not None and cfg.data.path is None:
        raise ConfigError("data.eval_path is set but data.path is null; give both, or neither for generated triples.")
    if cfg.model.path is not None and cfg.data.template == "compact" and cfg.data.path is not None:
        raise ConfigError("data.template is compact, which only the tiny model is trained on; set data.template=plain.")
