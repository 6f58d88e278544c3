"""Submission through submitit: the same command on every node as slurm/rl.sbatch runs, saved and requeued alike.

submitit starts one task a node, each of which runs `NodeCommand`. Its own way to requeue is used: its signal becomes
USR1 for the head node's command, and the exit code 85 ("saved, go on later") becomes a checkpoint. Its local executor
does not start a job again by itself: submit the same words with the same run_dir.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from k15.config.schema import ClusterConfig
from k15.errors import REQUEUE, ClusterError, ConfigError
from k15.launch.hetjob import check_slurm
from k15.launch.sbatch import fabric_lines, memory, render

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

RUNS = Path("runs")
POINT = "K15_SWEEP_POINT"  # k15.runs.entry has the same: the folder in which a command says that it ended well
ENVIRONMENT = ["export PYTHONSAFEPATH=1", "export PYTHONUNBUFFERED=1"]  # as in slurm/preamble.sh


class JobConfig(Protocol):
    """What a command's settings must have to be submitted."""

    name: str
    run_dir: str | None
    cluster: ClusterConfig


@dataclass
class NodeCommand:
    """What submitit pickles and runs on each node: `argv` as a child that gets the signals."""

    argv: list[str]
    requeue: bool = True
    _child: int | None = None
    _code: int | None = None  # once it has ended and was reaped

    def __call__(self) -> int:
        """Runs the command and returns its exit code, 0 or (not on node 0) 85. Raises ClusterError for any other."""
        # submitit's signal reaches every process of the step: it must mean nothing to the command and what it starts.
        number = _preempt_signal()
        process = subprocess.Popen(self.argv, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
        self._child = process.pid
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: self._send(n))
        self._wait()
        self._code = code = process.wait()
        if code == REQUEUE and _rank() == 0:
            signal.raise_signal(_preempt_signal())  # submitit checkpoints (below), requeues and exits
        if code not in (0, REQUEUE):
            raise ClusterError(f"{' '.join(self.argv)} ended with exit code {code}; its log is above.")
        return code

    def checkpoint(self) -> "DelayedSubmission | None":
        """submitit's hook, on node 0 only: let the command save; None (no requeue) unless it asks for another run."""
        from submitit.helpers import DelayedSubmission

        self._send(signal.SIGUSR1)
        code = self._wait()
        if code == 0:
            sys.exit(0)  # it was done anyway
        return DelayedSubmission(NodeCommand(self.argv, self.requeue)) if code == REQUEUE and self.requeue else None

    def _send(self, number: int) -> None:
        if self._child is not None and self._code is None:
            os.kill(self._child, number)  # unreaped, so the number is still its own

    def _wait(self) -> int:
        """The child's exit code, without reaping it: a signal handler may wait here while __call__ does
        (two calls of Popen.wait would lock up)."""
        if self._code is not None:
            return self._code
        assert self._child is not None
        ended = os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", os.environ.get("SUBMITIT_LOCAL_GLOBALID", "0")))


def _preempt_signal() -> signal.Signals:
    from submitit.core.job_environment import JobEnvironment

    return JobEnvironment._usr_sig()


def node_command(command: str, overrides: Sequence[str]) -> list[str]:
    """What runs on each node, e.g. `python -m k15 rl algo.tau=0.1`."""
    return [sys.executable, "-m", "k15", command, *overrides]


def kind(cfg: ClusterConfig) -> str:
    """slurm or local; `auto` looks whether `sinfo` answers. Raises ClusterError for slurm where none does."""
    if cfg.kind == "local":
        return "local"
    answers = False
    if shutil.which("sinfo") is not None:
        try:
            answers = subprocess.run(["sinfo", "-h"], capture_output=True, timeout=15).returncode == 0
        except subprocess.TimeoutExpired:
            answers = False
    if cfg.kind == "slurm" and not answers:
        raise ClusterError("cluster.kind is slurm, but sinfo does not answer. slurm/local/up starts one on this machine.")
    return "slurm" if answers else "local"


def dry_run(cfg: JobConfig, command: str, overrides: Sequence[str]) -> str:
    """The job as a plain batch script: `sbatch` on it does what `submit` does. Its log is where submit's would be if that
    folder is there, else here: Slurm makes no folder. Raises ConfigError for several nodes without Slurm.
    """
    _refuse_nodes_here(cfg.cluster, cfg.cluster.kind)
    logs = _log_dir(cfg).absolute()
    return render(
        cfg.cluster, node_command(command, overrides), job_name=f"k15-{cfg.name}", log_dir=logs if logs.is_dir() else Path.cwd()
    )


def _refuse_nodes_here(cluster: ClusterConfig, where: str) -> None:
    if where == "local" and cluster.nodes > 1:
        raise ConfigError(
            f"cluster.nodes is {cluster.nodes}, but without Slurm there is this machine only. "
            "Set cluster.nodes=1, or start a cluster on this machine: slurm/local/up."
        )
    if where == "local" and cluster.rollout_nodes:
        raise ConfigError(
            f"cluster.rollout_nodes is {cluster.rollout_nodes}, but without Slurm there is this machine only. "
            "Leave it out, or start a cluster on this machine: slurm/local/up."
        )


def submit(cfg: JobConfig, command: str, overrides: Sequence[str]) -> str:
    """Submits `k15 <command> <overrides>` as a job and returns its id (for `local`, the process id of its controller).

    Raises ConfigError for several nodes without Slurm, ClusterError when Slurm refuses the job.
    """
    where = kind(cfg.cluster)
    words = list(overrides)
    run_dir = cfg.run_dir
    _refuse_nodes_here(cfg.cluster, where)
    if where == "local" and run_dir is None:  # in Slurm the run names its folder by its job id, known after submission here
        run_dir = str((RUNS / f"{cfg.name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute())
        words.append(f"run_dir={run_dir}")
    if cfg.cluster.rollout_nodes:
        job_id, log = submit_parts(cfg, node_command(command, words))
    else:
        job = submit_argv(cfg, node_command(command, words), where)
        job_id, log = job.job_id, job.paths.stdout
    run_path = Path(run_dir).absolute() if run_dir is not None else (RUNS / f"{cfg.name}-{job_id}").absolute()
    run_path.mkdir(parents=True, exist_ok=True)
    record = {"job_id": job_id, "kind": where, "log": str(log), "submitted": time.time()}
    (run_path / "job.json").write_text(json.dumps(record) + "\n")
    return job_id


def submit_parts(cfg: JobConfig, argv: list[str]) -> tuple[str, Path]:
    """Submits a heterogeneous job, which submitit cannot, as `dry_run` writes it; (its id, its log). Raises ClusterError."""
    check_slurm()
    folder, name = _log_dir(cfg).absolute(), f"k15-{cfg.name}"
    folder.mkdir(parents=True, exist_ok=True)
    job = sbatch(render(cfg.cluster, argv, job_name=name, log_dir=folder))
    return job, folder / f"{name}-{job}.out"


def sbatch(script: str, *options: str) -> str:
    """Submits a batch script; the job's id. Raises ClusterError with what Slurm says."""
    try:
        done = subprocess.run(["sbatch", "--parsable", *options], input=script, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"sbatch refused the job: {error}") from error
    if done.returncode:
        raise ClusterError(f"sbatch refused the job: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]


def submit_argv(cfg: JobConfig, argv: list[str], where: str) -> "Job":
    """Submits any command, with `cfg.cluster`, as a submitit job. Raises ClusterError when Slurm refuses it."""
    import submitit

    executor = submitit.AutoExecutor(folder=_log_dir(cfg).absolute(), cluster=where, slurm_max_num_timeout=10**6)
    executor.update_parameters(**parameters(cfg, where))
    try:
        return executor.submit(NodeCommand(argv, cfg.cluster.requeue))
    except submitit.core.utils.FailedJobError as error:
        raise ClusterError(f"sbatch refused the job: {str(error).splitlines()[-1]}") from error


def parameters(cfg: JobConfig, where: str) -> dict[str, object]:
    """submitit's names for `cluster.*`; the values mean the same as in slurm/rl.sbatch."""
    cluster = cfg.cluster
    common: dict[str, object] = {
        "name": f"k15-{cfg.name}",
        "nodes": cluster.nodes,
        "tasks_per_node": 1,
        "timeout_min": cluster.time_min,
        "stderr_to_stdout": True,
    }
    if cluster.gpus_per_node is not None:
        common["gpus_per_node"] = cluster.gpus_per_node
    setup = [*cluster.setup, *ENVIRONMENT]
    if where == "local":
        return common | {"local_setup": setup}
    slurm: dict[str, object] = {
        "cpus_per_task": cluster.cpus_per_task,
        "slurm_signal_delay_s": cluster.signal_before_s,
        "slurm_setup": [*setup, *fabric_lines()],
        "slurm_srun_args": ["--kill-on-bad-exit=0", "--wait=300", f"--cpus-per-task={cluster.cpus_per_task}"],
        "slurm_additional_parameters": {"requeue" if cluster.requeue else "no-requeue": True},
    }
    optional = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "mem": memory(cluster)}
    return common | slurm | {f"slurm_{name}": value for name, value in optional.items() if value is not None}


def _log_dir(cfg: JobConfig) -> Path:
    return RUNS / "slurm" if cfg.run_dir is None else Path(cfg.run_dir) / "logs" / "launch"
