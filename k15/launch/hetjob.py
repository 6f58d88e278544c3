"""Heterogeneous jobs: nodes that train and nodes for rollout only as one Slurm job (`cluster.rollout_nodes`, report 2.6.3).

Slurm starts both parts together. slurm/preamble.sh runs the command on the first part, and on the second the same with
K15_HET_GROUP set, which makes of it a node that joins the run as those of `k15 scale` do (`k15.runs.join`).
"""

import os
import re

from k15.config.schema import ClusterConfig
from k15.errors import ClusterError, ConfigError
from k15.launch.status import slurm_config

OLDEST = (20, 2)  # Slurm's release that named them so
PLAIN = "sbatch --nodes=N ... : --nodes=M ... slurm/rl.sbatch ..."


def check_rollout_nodes(cluster: ClusterConfig, command: str, *, submitted: bool, multirun: bool, dry_run: bool) -> None:
    """Raises ConfigError where `cluster.rollout_nodes` would not come. `submitted`: as a job of its own, now."""
    n = cluster.rollout_nodes
    if not n:
        return
    if command != "rl":
        raise ConfigError(
            f"cluster.rollout_nodes={n}, but `k15 {command}` has no rollouts to run there; only rl has. Leave it out."
        )
    if multirun:
        raise ConfigError(
            f"cluster.rollout_nodes={n}, but the points of a sweep are a job array, and Slurm makes none of heterogeneous jobs. "
            "Leave it out; `k15 scale RUN_DIR +N` adds nodes to a point that runs."
        )
    if submitted or dry_run or "SLURM_HET_SIZE" in os.environ:
        return
    where = "this Slurm job has one part only" if "SLURM_JOB_ID" in os.environ else "a run on this machine has no other nodes"
    raise ConfigError(
        f"cluster.rollout_nodes={n}, but {where}. Submit it with `k15 launch rl ...` or `{PLAIN}`; "
        "`k15 scale RUN_DIR +N` adds nodes to a run that is a Slurm job."
    )


def check_slurm() -> None:
    """Raises ClusterError where the Slurm that answers starts no heterogeneous jobs: it would leave them pending for ever."""
    fields = slurm_config()
    remedy = "Leave out cluster.rollout_nodes, and add nodes with `k15 scale RUN_DIR +N` once the run has started."
    if fields.get("SchedulerType", "sched/backfill") != "sched/backfill":
        raise ClusterError(
            f"cluster.rollout_nodes needs a heterogeneous job, which only the scheduler sched/backfill starts; this Slurm has "
            f"SchedulerType={fields['SchedulerType']}. {remedy}"
        )
    version = re.match(r"(\d+)\.(\d+)", fields.get("SLURM_VERSION", ""))
    if version is not None and (int(version[1]), int(version[2])) < OLDEST:
        raise ClusterError(
            f"cluster.rollout_nodes needs heterogeneous jobs as Slurm has them since 20.02; this is {version[0]}. {remedy}"
        )
