"""Every setting of `k15 long_cot`, typed; `conf/long_cot.yaml` holds the values. Torch-free."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from k15.config.answers import AnswersConfig, check_answers
from k15.errors import ConfigError

SUFFIX = (
    "\n\nThink at length before you answer. Make a plan first. Check intermediate results. When something looks wrong, say so "
    "and correct it. Where one way does not lead on, try another. End with the final answer."
)


@dataclass
class LongCotConfig(AnswersConfig):
    """The whole of `k15 long_cot`: right answers that show how they were found, for a light fine-tuning (report 2.2)."""

    name: str = "long_cot"
    suffix: str = SUFFIX
    min_traits: int = 2  # of planning, evaluation, reflection, exploration
    per_prompt: int = 1  # answers kept of a prompt, those with most traits first


ConfigStore.instance().store(name="long_cot_schema", node=LongCotConfig)


def check_long_cot(cfg: LongCotConfig) -> None:
    """All rules but those of the data itself. Raises ConfigError."""
    check_answers(cfg, "long_cot")
    if not 0 <= cfg.min_traits <= 4:
        raise ConfigError(f"min_traits is {cfg.min_traits}, but there are 4 traits; give 0 (all right answers) to 4.")
    if cfg.per_prompt < 1:
        raise ConfigError(f"per_prompt is {cfg.per_prompt}, but it must be at least 1.")
