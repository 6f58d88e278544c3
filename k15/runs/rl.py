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
    "weights", "sandbox",
    *(f"algo.{name}" for name in ("iterations", "lr", "micro_batch_tokens", "kernels")),
    *(f"rollout.{name}" for name in (
        "engines_per_node", "tensor_parallel", "max_concurrent", "kv_cache_bytes", "gpu_memory_utilization", "update",
        "request_timeout_s", "silence_timeout_s", "max_retries", "canary_tolerance",
    )),
    "reward.workers", "reward.classic.device", "reward.classic.timeout_s",
    *(f"reward.judge.{name}" for name in ("url", "key_env", "timeout_s", "concurrency")),
)  # fmt: skip
"""Besides what every command allows: where a service is found now, what has to be lowered after memory ran out, what a message
of ours advises to change. What decides a verdict is not among them: another judge has another `reward.judge.model`."""
JOB = Job("rl", RunConfig, check, "k15.runs.controller", (*MAY_CHANGE, *RESUMED_WITH))


@hydra.main(config_path="pkg://k15.conf", config_name="rl", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("rl", config, run)


def run(cfg: RunConfig) -> int:
    """Check, prepare the run folder, be this node until the job ends. Returns the exit code."""
    return JOB.run(cfg)
