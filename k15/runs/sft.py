"""`k15 sft`: supervised fine-tuning in two stages (report 2.5.2), loss on responses only.

The same words run on a laptop, in `sbatch slurm/sft.sbatch`, and in a sweep; the work is in `k15.runs.fit_controller`.
"""

import hydra
from omegaconf import DictConfig

from k15.config.sft import SftConfig, check_sft
from k15.runs.entry import enter
from k15.runs.fit_command import preflight_fit, run_fit, sft_rows
from k15.runs.job import MAY_CHANGE, Job

__all__ = ["main", "preflight", "run"]


@hydra.main(config_path="pkg://k15.conf", config_name="sft", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("sft", config, run)


def preflight(cfg: SftConfig, nodes: int) -> dict[str, object]:
    """All checks that need no GPU. Returns the model's config.json. Raises ConfigError and DataError."""
    return preflight_fit(cfg, nodes, check_sft, sft_rows)


RESUMED_WITH = ("stages.first.lr", "stages.first.final_lr", "stages.second.lr", "stages.second.final_lr", "fit.kernels")
JOB = Job("sft", SftConfig, preflight, "k15.runs.fit_controller", (*MAY_CHANGE, *RESUMED_WITH))


def run(cfg: SftConfig) -> int:
    """Check, prepare the run folder, be this node until the job ends. Returns the exit code."""
    return run_fit(JOB, cfg)
