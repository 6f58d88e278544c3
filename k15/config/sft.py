"""Every setting of `k15 sft` (report 2.5.2), typed; `conf/sft.yaml` holds the values. Torch-free."""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from k15.config.fit import FitConfig, FitEvalConfig, FitSaveConfig, StageConfig, check_files, check_fit
from k15.config.schema import ClusterConfig, LogConfig, ModelConfig, ParallelConfig
from k15.errors import ConfigError, unknown_name

EXAMPLE = "data.paths=[train.jsonl]"
MOST_OFTEN = 10_000  # that an epoch sees a row
LONG = ("error", "skip", "split")


@dataclass
class SftDataConfig:
    """JSONL rows {"messages": [{"role", "content"}, ...]} or {"prompt", "response"}, with the loss on responses only; or
    {"text"}, with the loss on all of it (continued pretraining, report B).

    A file's `weight` is how often an epoch sees each of its rows; 0.5: a half of them, drawn anew each epoch.
    `arithmetic` > 0: that many generated examples for the tiny model, in place of files.
    """

    paths: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # empty: 1 for each file
    eval_paths: list[str] = field(default_factory=list)  # empty: `eval_fraction` of the rows is held out
    eval_fraction: float = 0.01
    turns: str = "all"  # assistant turns that count in the loss: all | last
    on_bad_row: str = "error"  # error | skip
    on_long: str = "error"  # an example over the longest stage's context: error | skip | split (plain texts; others: skip)
    arithmetic: int = 0


@dataclass
class StagesConfig:
    """One after the other, each with its own rise of the learning rate."""

    first: StageConfig = field(default_factory=StageConfig)
    second: StageConfig = field(default_factory=lambda: StageConfig(context_tokens=131072, lr=1e-5, final_lr=1e-6))


@dataclass
class SftConfig:
    """The whole of `k15 sft`."""

    name: str = "sft"
    run_dir: str | None = None  # null: runs/<name>-<job id>
    seed: int = 0
    dry_run: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: SftDataConfig = field(default_factory=SftDataConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    eval: FitEvalConfig = field(default_factory=FitEvalConfig)
    save: FitSaveConfig = field(default_factory=FitSaveConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def named_stages(self) -> dict[str, StageConfig]:
        """The stages by the name of their settings, in order."""
        return {"stages.first": self.stages.first, "stages.second": self.stages.second}


ConfigStore.instance().store(name="sft_schema", node=SftConfig)


def check_sft(cfg: SftConfig) -> dict[str, object]:
    """All rules but those of the data itself. Returns the model's config.json. Raises ConfigError."""
    model = check_fit(cfg, cfg.named_stages())
    data = cfg.data
    for key, value, allowed in (("data.turns", data.turns, ("all", "last")), ("data.on_long", data.on_long, LONG)):
        if value not in allowed:
            raise unknown_name(key, value, allowed)
    if data.arithmetic < 0:
        raise ConfigError(f"data.arithmetic is {data.arithmetic}, but it must be at least 0.")
    if not data.paths and not data.arithmetic:
        raise ConfigError(
            f"data.paths is empty, so there is nothing to learn from. Give JSONL files, {EXAMPLE} with model.path=<folder>; "
            "or see it run at once with experiment=sft_tiny."
        )
    if data.paths and data.arithmetic:
        raise ConfigError(
            f"data.paths and data.arithmetic={data.arithmetic} are both given; take one: generated examples are for the tiny "
            "model. For files, give data.arithmetic=0 and model.path=<Hugging Face folder>."
        )
    if cfg.model.path is None and data.paths:
        raise ConfigError(
            "model.path is null, and the tiny model that is made then reads generated arithmetic only. "
            "Give model.path=<Hugging Face folder>."
        )
    check_files("data.paths", data.paths, EXAMPLE)
    check_files("data.eval_paths", data.eval_paths, "data.eval_paths=[held_out.jsonl]")
    if data.weights and len(data.weights) != len(data.paths):
        raise ConfigError(
            f"data.weights has {len(data.weights)} numbers for {len(data.paths)} files in data.paths; give one each."
        )
    if any(not 0 <= w <= MOST_OFTEN for w in data.weights) or (data.weights and not any(data.weights)):
        raise ConfigError(f"data.weights is {list(data.weights)}; weights are from 0 to {MOST_OFTEN}, and one must be above 0.")
    return model
