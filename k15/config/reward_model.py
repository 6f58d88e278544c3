"""Every setting of `k15 reward_model`, typed; `conf/reward_model/<kind>.yaml` holds the values. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from k15.config.compose import settings
from k15.config.schema import ModelConfig, ParallelConfig
from k15.errors import ConfigError, unknown_name

KINDS = ("classic", "cot")


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

    kind: str = "classic"
    run_dir: str | None = None  # null: runs/reward_model-<kind>-<time>
    seed: int = 0
    calibration: str = "platt"  # platt | temperature | none
    device: str = "auto"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: TripleDataConfig = field(default_factory=TripleDataConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    judge: VoteConfig = field(default_factory=VoteConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)  # ranks of this machine


ConfigStore.instance().store(name="reward_model_schema", node=RewardModelConfig)


def compose_reward_model(words: Sequence[str]) -> RewardModelConfig:
    """The settings of `kind=... name=value ...`. Raises ConfigError."""
    given = dict(w.split("=", 1) for w in settings(words) if "=" in w)
    kind = given.get("kind", "classic")
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    GlobalHydra.instance().clear()
    with initialize_config_module("k15.conf", version_base="1.3", job_name="k15"):
        try:
            found = OmegaConf.to_object(compose(f"reward_model/{kind}", overrides=list(words)))
        except (HydraException, OmegaConfBaseException) as error:
            cause = str(error.__cause__).splitlines()[0] if error.__cause__ is not None else ""
            raise ConfigError(f"{str(error).splitlines()[0]} {cause}".strip()) from error
    assert isinstance(found, RewardModelConfig)
    _check(found)
    return found


def _check(cfg: RewardModelConfig) -> None:
    """Raises ConfigError for a number that cannot be."""
    for part, name in ((cfg, "data"), (cfg, "fit")):
        section = getattr(part, name)
        for item in fields(section):
            value = getattr(section, item.name)
            if isinstance(value, int | float) and value <= 0 and item.name != "weight_decay":
                raise ConfigError(f"{name}.{item.name} is {value}; it must be above 0.")
    if cfg.data.eval_path is not None and cfg.data.path is None:
        raise ConfigError("data.eval_path is set but data.path is null; give both, or neither for generated triples.")
    if cfg.model.path is not None and cfg.data.template == "compact" and cfg.data.path is not None:
        raise ConfigError("data.template is compact, which only the tiny model is trained on; set data.template=plain.")
