"""How the nodes of one job find each other: a file in the run folder that the first node writes and the others wait for.

The file is readable by its owner only, since it holds the job's token and the metadata server's password.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from k15.errors import ClusterError


@dataclass(frozen=True)
class Rendezvous:
    """Where the job's metadata lives and what opens it."""

    job: str
    token: str
    etcd: str  # http://address:port
    etcd_password: str
    head_address: str


@dataclass(frozen=True)
class JobIdentity:
    """This process's place in the allocation; one node and rank 0 outside Slurm."""

    job: str
    node_rank: int
    node_count: int
    restart: int

    @staticmethod
    def from_environment() -> "JobIdentity":
        env = os.environ
        if "SLURM_JOB_ID" not in env or "SLURM_PROCID" not in env:
            return JobIdentity(f"local-{os.getpid()}", 0, 1, 0)
        job = env["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in env:
            job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return JobIdentity(
            job=job,
            node_rank=int(env["SLURM_PROCID"]),
            node_count=int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1"))),
            restart=int(env.get("SLURM_RESTART_COUNT", "0")),
        )

    @staticmethod
    def of_visitor() -> "JobIdentity":
        """Of a node that joins a job for rollout only: the id of its own job, or of its part of a heterogeneous one
        (K15_HET_GROUP), makes its rank, which no other node of that job has. Raises ClusterError outside Slurm."""
        own, env = JobIdentity.from_environment(), os.environ
        if "SLURM_JOB_ID" not in env:
            raise ClusterError("only a Slurm job can join a run; submit one with `k15 scale RUN_DIR +1`.")
        return JobIdentity(own.job, 1000 * int(own.allocation) + own.node_rank, own.node_count, own.restart)

    @property
    def allocation(self) -> str:
        """What Slurm's epilog calls the job on this node: the number alone, of an array's task and of a heterogeneous job's
        part too, which `job` is not. Outside Slurm it is `job`."""
        env = os.environ
        if not self.in_slurm:
            return self.job
        if "K15_HET_GROUP" in env:
            return env[f"SLURM_JOB_ID_HET_GROUP_{env['K15_HET_GROUP']}"]
        return env.get("SLURM_JOB_ID", self.job)

    @property
    def in_slurm(self) -> bool:
        return not self.job.startswith("local-")

    def path(self, run_dir: Path) -> Path:
        return run_dir / f".job-{self.job}-{self.restart}.json"


def publish(identity: JobIdentity, run_dir: Path, rendezvous: Rendezvous) -> Path:
    """Write the rendezvous file atomically with mode 0600; returns its path, to be removed at the end."""
    path = identity.path(run_dir)
    tmp = path.with_suffix(".tmp")
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as f:
        json.dump(asdict(rendezvous), f)
    tmp.rename(path)
    return path


def await_rendezvous(identity: JobIdentity, run_dir: Path, timeout_s: float = 300.0) -> Rendezvous:
    """Wait for the first node's file. Raises ClusterError after `timeout_s`."""
    path = identity.path(run_dir)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            os.listdir(run_dir)  # refreshes the directory cache of network file systems
            return Rendezvous(**json.loads(path.read_text()))
        except FileNotFoundError:
            time.sleep(0.5)
    raise ClusterError(
        f"node {identity.node_rank} waited {timeout_s:.0f} s for {path.name} in {run_dir}. Either the first node failed "
        "(see its log) or the run folder is not on a file system that all nodes share; set run_dir= to one that is."
    )


def started_after(path: Path) -> Path | None:
    """The rendezvous file of the newest start, after the one that wrote `path`, of the same job: Slurm requeued it meanwhile."""
    job, restart = path.stem.rsplit("-", 1)
    starts = {int(p.stem.rsplit("-", 1)[1]): p for p in path.parent.glob(f"{job}-*.json")}
    newest = max(starts, default=-1)
    return starts[newest] if newest > int(restart) else None
