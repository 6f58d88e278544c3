"""`k15 COMMAND --multirun`: every point is a `k15 COMMAND` of its own, here or as a task of a Slurm job array.

Hydra's launchers keep their names (basic, submitit_slurm, submitit_local; slurm and local are ours, conf/hydra/launcher) but
run points as `k15 launch` runs a job: saved before the time limit, put back into the queue, in a folder that holds the run.
A call with `hydra.sweep.dir` of an earlier one runs the points that have not ended well; those still in the queue are waited for.
"""

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
from omegaconf import open_dict

from k15.config.words import FREE_TEXT
from k15.errors import REQUEUE, ClusterError, ConfigError, K15Error
from k15.launch.processes import run_all
from k15.launch.sbatch import fabric_lines
from k15.launch.status import QUEUED
from k15.launch.submit import ENVIRONMENT, POINT, NodeCommand, node_command
from k15.log.metrics import read_metrics
from k15.log.sweep import Sweep, SweepPoint, is_finished, is_sweep, read_sweep

POLL_S = 3.0
COMPLETED = "COMPLETED"
VALUES = ("eval_greedy_accuracy", "eval_sampled_accuracy", "eval_loss")  # what a sweeper that searches is told of a point
FREE = ("cluster", "log", "save")  # settings in which a second call may differ


def install() -> None:
    """Let Hydra run a sweep's points with the launchers of this module."""
    known = Plugins.instance().class_name_to_class
    for theirs, ours in ((BasicLauncher, HereSweep), (LocalLauncher, LocalSweep), (SlurmLauncher, SlurmSweep)):
        known[f"{theirs.__module__}.{theirs.__name__}"] = ours


class _Resuming(ABC):
    """What the launchers share: which points are to run, and what is said at the end."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Hydra's hook: run these points and wait. Ends the process where a point did not end well (1; 85: it was saved)."""
        try:
            return self._launch(job_overrides, initial_job_idx)
        except K15Error as error:  # here, since Hydra would print its own traceback
            print(f"k15 {self.config.hydra.job.config_name}: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    def _launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        sweep = read_sweep(folder) if is_sweep(folder) else Sweep(str(self.config.hydra.job.config_name))
        here = {first + i: self._point(list(overrides), first + i) for i, overrides in enumerate(job_overrides)}
        _take(sweep, here, folder)
        todo = {n: p for n, p in here.items() if not is_finished(folder / p.folder)}
        sweep.write(folder)
        if not isinstance(self, SlurmSweep) and (going := _going(todo)):
            number = min(going)
            raise ConfigError(
                f"point {number} is still job {todo[number].job} in the queue, and must not run twice. Give "
                "hydra/launcher=slurm to wait for it, or scancel it."
            )
        skipped = f", {len(here) - len(todo)} finished before" if len(todo) < len(here) else ""
        print(f"sweep {folder}: {len(here)} points{skipped}", flush=True)
        ends = self.run_points(sweep, folder, todo) if todo else {}
        bad = {n: end for n, end in ends.items() if end != COMPLETED and not is_finished(folder / here[n].folder)}
        _say(sweep, folder, bad)
        if bad:
            raise SystemExit(REQUEUE if set(bad.values()) == {"saved"} else 1)
        return [
            JobReturn(overrides=p.overrides, status=JobStatus.COMPLETED, _return_value=value_of(folder / p.folder))
            for p in here.values()
        ]

    def _point(self, overrides: list[str], number: int) -> SweepPoint:
        """With the folder that hydra.sweep.subdir gives it."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = number
            config.hydra.job.id = str(number)
        return SweepPoint(overrides, str(config.hydra.sweep.subdir))

    @abstractmethod
    def run_points(self, sweep: Sweep, folder: Path, todo: Mapping[int, SweepPoint]) -> dict[int, str]:
        """Run points `todo` to their ends; the end of each: COMPLETED, or what happened instead."""


def _going(points: Mapping[int, SweepPoint]) -> set[int]:
    """Points whose job of an earlier call is still in the queue. Raises ClusterError where that is not known."""
    known = [p.job for p in points.values() if p.job is not None]
    queued = _states(known) if known else {}
    if queued is None:
        raise ClusterError("squeue does not answer, so it is not known which points still run; the same words later go on.")
    return {n for n, p in points.items() if queued.get(p.job) in QUEUED}


def value_of(point: Path) -> float | None:
    """The last value of the first of VALUES that a point's metrics have; None (which sweepers that search refuse) for none."""
    path = point / "metrics.jsonl"
    rows = read_metrics(path) if path.is_file() else []
    name = next((v for v in VALUES if any(v in row for row in rows)), None)
    return next((float(row[name]) for row in reversed(rows) if name in row), None)


def _take(sweep: Sweep, here: dict[int, SweepPoint], folder: Path) -> None:
    """Put the points into the sweep's list. Raises ConfigError where the folder holds others under their numbers or folders."""
    owners = {p.folder: n for n, p in sweep.points.items()}
    for number, point in here.items():
        if owners.setdefault(point.folder, number) != number:
            raise ConfigError(f"points {owners[point.folder]} and {number} of the sweep have one folder, {point.folder}; "
                              "change hydra.sweep.subdir.")  # fmt: skip
        before = sweep.points.get(number)
        if before is not None and _essence(before.overrides) != _essence(point.overrides):
            raise ConfigError(
                f"{folder} holds another sweep: its point {number} is {' '.join(before.overrides)}, not "
                f"{' '.join(point.overrides)}. Give the words of that sweep to go on with it, or another hydra.sweep.dir."
            )
        point.job = before.job if before is not None else None
        sweep.points[number] = point


def _essence(overrides: Sequence[str]) -> list[str]:
    return sorted(o for o in overrides if o.lstrip("+").split("=")[0].split(".")[0] not in FREE)


def _say(sweep: Sweep, folder: Path, bad: Mapping[int, str]) -> None:
    for number, end in bad.items():
        point = sweep.points[number]
        print(f"point {number} ({' '.join(point.overrides)}): {end}; its folder is {folder / point.folder}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} point(s) did not end well; the same words with hydra.sweep.dir={folder} run only those again",
              file=sys.stderr)  # fmt: skip
    print(f"all points side by side: k15 report {folder}", flush=True)


def _argv(sweep: Sweep, folder: Path, point: SweepPoint) -> list[str]:
    where = folder / point.folder
    where.mkdir(parents=True, exist_ok=True)
    return ["env", f"{POINT}={where}", *node_command(sweep.command, [*map(typed_again, point.overrides), f"run_dir={where}"])]


def typed_again(override: str) -> str:
    """A point's setting as a user types it: Hydra's sweeper has escaped free text, which `k15` quotes by itself."""
    key = override.partition("=")[0]
    if key.lstrip("+") not in FREE_TEXT:
        return override
    return f"{key}={OverridesParser.create().parse_override(override).value()}"


class HereSweep(_Resuming, BasicLauncher):
    """hydra/launcher=basic, the default: points one after another, in this terminal."""

    def run_points(self, sweep: Sweep, folder: Path, todo: Mapping[int, SweepPoint]) -> dict[int, str]:
        return run_all({n: _argv(sweep, folder, p) for n, p in todo.items()}, parallel=1, logs=None)


class LocalSweep(_Resuming, LocalLauncher):
    """hydra/launcher=local and submitit_local: processes of this machine, array_parallelism at once (all where it is not set)."""

    def run_points(self, sweep: Sweep, folder: Path, todo: Mapping[int, SweepPoint]) -> dict[int, str]:
        parallel = int(self.params.get("array_parallelism", len(todo)))
        logs = {n: folder / p.folder / "point.log" for n, p in todo.items()}
        return run_all({n: _argv(sweep, folder, p) for n, p in todo.items()}, parallel=parallel, logs=logs)


class SlurmSweep(_Resuming, SlurmLauncher):
    """hydra/launcher=slurm and submitit_slurm: a job array, array_parallelism tasks of it at once."""

    def run_points(self, sweep: Sweep, folder: Path, todo: Mapping[int, SweepPoint]) -> dict[int, str]:
        going = _going(todo)
        new = {n: p for n, p in todo.items() if n not in going}
        for number in sorted(going):
            print(f"point {number} is still job {todo[number].job} in the queue: waiting for it", flush=True)
        if new:
            self._submit(sweep, folder, new)
            sweep.write(folder)
        return _wait({n: p.job for n, p in todo.items() if p.job is not None})

    def _submit(self, sweep: Sweep, folder: Path, points: Mapping[int, SweepPoint]) -> None:
        """One array; fills in the points' jobs. Raises ClusterError."""
        import submitit

        executor = submitit.AutoExecutor(
            folder=self.params["submitit_folder"],
            cluster="slurm",
            slurm_max_num_timeout=10**6 if self.config.cluster.requeue else 0,
        )
        executor.update_parameters(**_parameters(self.params, requeue=bool(self.config.cluster.requeue)))
        try:
            with executor.batch():
                jobs = [
                    executor.submit(NodeCommand(_argv(sweep, folder, p), bool(self.config.cluster.requeue)))
                    for p in points.values()
                ]
        except submitit.core.utils.FailedJobError as error:
            raise ClusterError(f"sbatch refused the sweep: {str(error).splitlines()[-1]}") from error
        for (number, point), job in zip(points.items(), jobs, strict=True):
            point.job = job.job_id
            print(f"point {number} is job {job.job_id}: {' '.join(point.overrides)}", flush=True)


def _parameters(params: Mapping[str, object], *, requeue: bool) -> dict[str, object]:
    """submitit's names for hydra.launcher.*; the rest as `k15.launch.submit.parameters` has it."""
    given = {k: v for k, v in params.items() if v is not None and k not in ("submitit_folder", "max_num_timeout", "mem_gb")}
    cpus = given.setdefault("cpus_per_task", 1)
    given["setup"] = [*given.get("setup", []), *ENVIRONMENT, *fabric_lines()]
    given["additional_parameters"] = {"requeue" if requeue else "no-requeue": True, **given.get("additional_parameters", {})}
    given["srun_args"] = ["--kill-on-bad-exit=0", "--wait=300", f"--cpus-per-task={cpus}"]
    if params.get("mem_gb") is not None:
        given["mem"] = f"{int(float(params['mem_gb']) * 1024)}M"
    given |= {"tasks_per_node": 1, "stderr_to_stdout": True}
    common = set(BaseQueueConf.__dataclass_fields__)
    return {k if k in common and k != "cpus_per_task" else f"slurm_{k}": v for k, v in given.items()}


def _wait(jobs: Mapping[int, str]) -> dict[int, str]:
    """The last state of each point's job, once all have left the queue. submitit's own waiting needs accounting, and without
    it never ends for a job that was cancelled."""
    ends: dict[int, str] = {}
    try:
        while len(ends) < len(jobs):
            states = _states(jobs.values())
            for number, job in jobs.items():
                state = "gone" if states is not None and job not in states else (states or {}).get(job)
                if number not in ends and state is not None and state not in QUEUED:
                    ends[number] = state
                    print(f"point {number}, job {job}: {state}", flush=True)
            if len(ends) < len(jobs):
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        print("the points go on in the queue; the same words with this hydra.sweep.dir wait for them again", file=sys.stderr)
        raise SystemExit(130) from None
    return ends


def _states(jobs: Iterable[str]) -> dict[str, str] | None:
    """Slurm's word for each of the jobs that it knows; None while no controller answers."""
    arrays = sorted({job.split("_")[0] for job in jobs})
    if not arrays:
        return {}
    try:
        done = subprocess.run(
            ["squeue", "-h", "-r", "-t", "all", "-j", ",".join(arrays), "-o", "%i %T"],
            capture_output=True, text=True, timeout=60, env={k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return {} if "Invalid job id" in done.stderr else None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
