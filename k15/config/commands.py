"""The commands that are Hydra apps: what `k15 NAME`, `k15 NAME --multirun` and `k15 launch NAME` have in common.

A command NAME has a dataclass here (with at least `name`, `run_dir`, `dry_run`, `cluster`), its values in conf/NAME.yaml, and a
module k15/runs/NAME.py with `main` (Hydra's entry, see `k15.runs.entry`) and `preflight(cfg, nodes)`, torch-free.
"""

from k15.config.curate import CurateConfig
from k15.config.dpo import DpoConfig
from k15.config.eval import EvaluationConfig
from k15.config.long_cot import LongCotConfig
from k15.config.reward_model import RewardModelConfig
from k15.config.schema import RunConfig
from k15.config.sft import SftConfig
from k15.config.shortest import ShortestConfig

COMMANDS: dict[str, type] = {
    "rl": RunConfig,
    "sft": SftConfig,
    "dpo": DpoConfig,
    "shortest": ShortestConfig,
    "long_cot": LongCotConfig,
    "curate": CurateConfig,
    "reward_model": RewardModelConfig,
    "eval": EvaluationConfig,
}
