"""Every setting of `k15 shortest`, typed; `conf/shortest.yaml` holds the values. Torch-free."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from k15.config.answers import AnswersConfig, check_answers
from k15.errors import ConfigError


@dataclass
class ShortestConfig(AnswersConfig):
    """The whole of `k15 shortest`: the shortest right answers, and pairs (report 2.4)."""

    name: str = "shortest"
    ratio: float = 1.5  # a right answer so much longer than the shortest is rejected in a pair


ConfigStore.instance().store(name="shortest_schema", node=ShortestConfig)


def check_shortest(cfg: ShortestConfig) -> None:
    """All rules but those of the data itself. Raises ConfigError."""
    check_answers(cfg, "shortest")
    if not cfg.ratio > 1:
        raise ConfigError(f"ratio is {cfg.ratio}, but it must be above 1. Report: ratio=1.5.")
