"""`k15 rl`: this task's part of an RL job. The same words run on a laptop, in `sbatch slurm/rl.sbatch`, and in a sweep."""

import hydra
from omegaconf import DictConfig

from k15.config.check import check
from k15.config.schema import RunConfig
from k15.runs.entry import enter
from k15.runs.job import MAY_CHANGE, Job
from k15.runs.prepare import preflight

__all__ = ["main", "preflight", "run"]
RESUMED_WITH = (
    "algo.iterations", "weights", "rollout.canary_tolerance", "rollout.request_timeout_s",
    "rollout.silence_timeout_s", "rollout.max_retries",
)  # fmt: skip
JOB = Job("rl", RunConfig, check, "k15.runs.controller", (*MAY_CHANGE, *RESUMED_WITH))


@hydra.main(config_path="pkg://k15.conf", config_name="rl", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("rl", config, run)


def run(cfg: RunConfig) -> int:
    """Check, prepare the run folder, be this node until the job ends. Returns the exit code."""
    return JOB.run(cfg)
