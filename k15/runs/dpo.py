"""`k15 dpo`: direct preference optimisation on pairs of a short and a longer or wrong response (report 2.4).

The same words run on a laptop, in `sbatch slurm/dpo.sbatch`, and in a sweep; the work is in `k15.runs.fit_controller`.
"""

import hydra
from omegaconf import DictConfig

from k15.config.dpo import DpoConfig, check_dpo
from k15.runs.entry import enter
from k15.runs.fit_command import dpo_rows, preflight_fit, run_fit
from k15.runs.job import MAY_CHANGE, Job

__all__ = ["main", "preflight", "run"]


@hydra.main(config_path="pkg://k15.conf", config_name="dpo", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("dpo", config, run)


def preflight(cfg: DpoConfig, nodes: int) -> dict[str, object]:
    """All checks that need no GPU. Returns the model's config.json. Raises ConfigError and DataError."""
    return preflight_fit(cfg, nodes, check_dpo, dpo_rows)


RESUMED_WITH = ("stage.lr", "stage.final_lr", "fit.kernels")
JOB = Job("dpo", DpoConfig, preflight, "k15.runs.fit_controller", (*MAY_CHANGE, *RESUMED_WITH))


def run(cfg: DpoConfig) -> int:
    """Check, prepare the run folder, be this node until the job ends. Returns the exit code."""
    return run_fit(JOB, cfg)
