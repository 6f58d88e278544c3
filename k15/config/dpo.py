"""Every setting of `k15 dpo` (report 2.4), typed; `conf/dpo.yaml` holds the values. Torch-free."""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from k15.config.fit import FitConfig, FitEvalConfig, FitSaveConfig, StageConfig, check_files, check_fit
from k15.config.schema import ClusterConfig, LogConfig, ModelConfig, ParallelConfig
from k15.errors import ConfigError

EXAMPLE = "data.paths=[pairs.jsonl]"


@dataclass
class PairDataConfig:
    """JSONL rows {"prompt", "chosen", "rejected"}, as `k15 shortest` writes them."""

    paths: list[str] = field(default_factory=list)
    eval_paths: list[str] = field(default_factory=list)  # empty: `eval_fraction` of the prompts is held out
    eval_fraction: float = 0.05
    on_bad_row: str = "error"  # error | skip


@dataclass
class PairLossConfig:
    """-logsigmoid(beta ((pi_c - ref_c) - (pi_r - ref_r))); whole responses, not normalised by length."""

    beta: float = 0.1
    label_smoothing: float = 0.0  # assumed share of pairs whose labels are swapped


@dataclass
class DpoConfig:
    """The whole of `k15 dpo`; the model of `model.path` is the start and the reference."""

    name: str = "dpo"
    run_dir: str | None = None  # null: runs/<name>-<job id>
    seed: int = 0
    dry_run: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: PairDataConfig = field(default_factory=PairDataConfig)
    loss: PairLossConfig = field(default_factory=PairLossConfig)
    stage: StageConfig = field(default_factory=lambda: StageConfig(lr=1e-6, final_lr=1e-7))
    fit: FitConfig = field(default_factory=FitConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    eval: FitEvalConfig = field(default_factory=FitEvalConfig)
    save: FitSaveConfig = field(default_factory=FitSaveConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def named_stages(self) -> dict[str, StageConfig]:
        """The stages by the name of their settings, in order."""
        return {"stage": self.stage}


ConfigStore.instance().store(name="dpo_schema", node=DpoConfig)


def check_dpo(cfg: DpoConfig) -> dict[str, object]:
    """All rules but those of the data itself. Returns the model's config.json. Raises ConfigError."""
    if cfg.model.path is None:
        raise ConfigError(
            "model.path is null, but preferences are learned by a model that can answer already. Give the Hugging Face folder "
            "of a fine-tuned model: model.path=runs/<run>/hf"
        )
    model = check_fit(cfg, cfg.named_stages())
    if not cfg.loss.beta > 0 or cfg.loss.beta == float("inf"):
        raise ConfigError(f"loss.beta is {cfg.loss.beta}, but it must be greater than 0. Usual: 0.05 to 0.5.")
    if not 0 <= cfg.loss.label_smoothing < 0.5:
        raise ConfigError(f"loss.label_smoothing is {cfg.loss.label_smoothing}; give a number from 0 to below 0.5.")
    if not cfg.data.paths:
        raise ConfigError(
            f"data.paths is empty. Give JSONL files of prompt, chosen and rejected ({EXAMPLE}); `k15 shortest` makes them."
        )
    check_files("data.paths", cfg.data.paths, EXAMPLE)
    check_files("data.eval_paths", cfg.data.eval_paths, "data.eval_paths=[held_out.jsonl]")
    return model
