"""`k15 status [RUN_DIR | JOB]`: state, iteration, last metrics and log of one run, or of all in runs/ and multirun/."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k15.config.compose import from_yaml
from k15.errors import ClusterError, ConfigError, DataError
from k15.launch.ends import is_ended, steps_of
from k15.log import read_metrics
from k15.log.columns import columns

RUNS = Path("runs")
SWEEPS = Path("multirun")  # of Hydra: multirun/<time>/<point>
MARKS = ("config.yaml", "metrics.jsonl", "job.json")
SHOWN = ("reward_mean", "accuracy", "response_length_mean", "eval_greedy_accuracy")
QUEUED = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED", "SIGNALING", "STAGE_OUT"}
USAGE = """usage: k15 status [RUN_DIR | JOB ...]
       k15 status --cost [RUN_DIR | JOB ...] [--price P]

No word: a line for each run in runs/ and multirun/. With run folders, names of runs in runs/, or job ids: each in full.
The log that is named can be followed with tail -f. --cost: GPU-hours and energy, from Slurm's accounting.
"""


@dataclass(frozen=True)
class Status:
    """One run. `state`: Slurm's word for a job that it has, else what the run folder shows; `metrics`: the last line.

    `log`: a file that can be followed; None while there is none.
    """

    run: Path | None
    job: str | None
    state: str
    iteration: int | None = None
    iterations: int | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    log: Path | None = None


def status(target: str | Path) -> Status:
    """The status of a run folder, of a run's name in runs/, or of a job id. Raises DataError if it is none of them."""
    for folder in (Path(target), RUNS / target):
        if is_run(folder):
            return of_run(folder)
    if re.fullmatch(r"\d+(_\d+)?", str(target)):
        for folder in all_runs():
            if job_of(folder)[0] == str(target):
                return of_run(folder)
        fields = slurm_job(str(target))
        if fields:
            return Status(None, str(target), queue_state(fields), log=log_file(RUNS / "slurm", str(target), {}, fields))
    raise DataError(
        f"{target} is neither a run folder (with {', '.join(MARKS)}), nor a run in {RUNS}/, nor a job that Slurm knows."
    )


def of_run(folder: Path) -> Status:
    """The status of a run folder."""
    job, record = job_of(folder)
    in_slurm = job is not None and record.get("kind", "slurm") == "slurm"
    fields = slurm_job(job) if in_slurm else {}
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    last = rows[-1] if rows else {}
    config = folder / "config.yaml"
    iteration = int(last["iteration"]) if rows else None
    planned = _iterations(config)
    return Status(
        run=folder,
        job=job,
        state=state_of(
            folder,
            fields,
            finished=(iteration is not None and iteration == planned) or is_ended(folder),
        ),
        iteration=iteration,
        iterations=planned if planned is not None else steps_of(folder)[1],
        metrics=last,
        log=log_file(folder, job, record, fields),
    )


def state_of(folder: Path, fields: Mapping[str, str] | None, *, finished: bool) -> str:
    """`fields`: what Slurm says of the job, {} if it has none, None if no Slurm answers."""
    if fields and fields["JobState"] in QUEUED:
        return queue_state(fields)
    if finished:
        return "finished"
    process = local_process(folder)
    if process is not None:
        return f"running here (process {process})"
    stopped = stopped_by(folder)
    if stopped is not None:
        return stopped
    if fields:
        return queue_state(fields)
    if fields is None and any(folder.glob(".job-*-*.json")):  # a job removes it when it ends
        return "no Slurm answers; not ended in order"
    return "ended early"


def stopped_by(folder: Path) -> str | None:
    """Of a stage of `k15 launch pipeline` that never began: which stage before it did not succeed, and how that ended."""
    record = json.loads((folder / "job.json").read_text()) if (folder / "job.json").is_file() else {}
    if "after" not in record or Path(str(record.get("log"))).exists():
        return None
    before = Path(record["after"])
    return f"not started: stage {before.name} before it: {of_run(before).state}"


def local_process(folder: Path) -> str | None:
    """The process of a run outside Slurm: `k15 rl` itself, or the one by which submitit's local executor controls it."""
    found = [m[1] for p in folder.glob(".job-*.json") if (m := re.fullmatch(r"\.job-local-(\d+)-\d+\.json", p.name))]
    if (folder / "job.json").is_file():
        record = json.loads((folder / "job.json").read_text())
        found += [str(record["job_id"])] if record.get("kind") == "local" else []
    for process in found:
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"k15" in words or b"submitit" in words:  # a killed run leaves its file, and numbers come again
            return process
    return None


def log_file(folder: Path, job: str | None, record: Mapping[str, object], fields: Mapping[str, str] | None) -> Path | None:
    """The job's output (of sbatch, then of submitit), else the newest file below logs/."""
    found = [Path(fields["StdOut"])] if fields and fields.get("StdOut") else []
    if job is not None:
        found += sorted({*(RUNS / "slurm").glob(f"*-{job}.out"), *(folder.parent / "slurm").glob(f"*-{job}.out")})
        found += [Path(str(record["log"]))] if "log" in record else []
        found += sorted([*(folder / "logs" / "launch").glob(f"{job}_*log.out"), *_submitit(folder).rglob(f"{job}_*log.out")])
    newest = sorted((p for p in (folder / "logs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime, reverse=True)
    return next((p for p in [*found, *newest] if p.is_file()), None)


def _submitit(point: Path) -> Path:
    """Where Hydra's launcher keeps the logs of a sweep."""
    return point.parent / ".submitit"


def _iterations(config: Path) -> int | None:
    """How many the run is to have; None where its config.yaml is missing, or another command's or version's."""
    try:
        return from_yaml(config.read_text()).algo.iterations if config.is_file() else None
    except ConfigError:
        return None


def is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def all_runs() -> list[Path]:
    """The run folders in runs/ and multirun/ (those of a sweep's points one level down), newest last."""
    found = [p for f in (RUNS, SWEEPS) for pattern in ("*", "*/*") for p in f.glob(pattern) if p.is_dir() and is_run(p)]
    return sorted(found, key=lambda p: p.stat().st_mtime)


def job_of(folder: Path) -> tuple[str | None, dict[str, object]]:
    """A run's job id (from job.json, a running job's rendezvous file, or the folder's name) and what launch noted."""
    record: dict[str, object] = {}
    if (folder / "job.json").is_file():
        record = json.loads((folder / "job.json").read_text())
        return str(record["job_id"]), record
    running = sorted(folder.glob(".job-*-*.json"), key=lambda p: p.stat().st_mtime)
    named = re.fullmatch(r"\.job-(\d+(?:_\d+)?)-\d+\.json", running[-1].name) if running else None
    if running and named is None:
        return None, record  # a run outside Slurm
    if named is None:
        named = re.search(r"-(\d{1,10}(?:_\d+)?)$", folder.name)
        if re.search(r"-\d{8}-\d{6}$", folder.name):  # a time of day: a run outside Slurm
            named = None
    return (named[1] if named else None), record


def slurm_job(job: str) -> dict[str, str] | None:
    """`scontrol show job` as a dict (of a heterogeneous job its first part, which runs the script); {} if Slurm does not have
    the job (any more), None if no Slurm answers."""
    parts = slurm_parts(job)
    return parts if parts is None else parts[0] if parts else {}


def slurm_parts(job: str) -> list[dict[str, str]] | None:
    """Each part of a job, one unless it is heterogeneous; [] and None as `slurm_job`."""
    if shutil.which("scontrol") is None:
        return None
    try:
        done = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, timeout=15)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return [] if "Invalid job id" in done.stderr else None
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines() if line.startswith("JobId=")]


def slurm_config() -> dict[str, str]:
    """`scontrol show config`. Raises ClusterError where no Slurm answers."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"scontrol does not answer: {error}; is this a login node?") from error
    if done.returncode:
        raise ClusterError(f"scontrol does not say how Slurm is configured: {done.stderr.strip()[-300:]}")
    return dict(re.findall(r"^(\w+)\s*=\s*(\S+)", done.stdout, re.MULTILINE))


def queue_state(fields: Mapping[str, str]) -> str:
    """For example `RUNNING 0:12:31 n[1-2]`, `PENDING (Resources)`, `FAILED (exit 1:0)`."""
    state = fields["JobState"]
    if state == "RUNNING":
        return f"{state} {fields['RunTime']} {fields.get('NodeList', '')}".strip()
    if state == "PENDING":
        return f"{state} ({fields.get('Reason', 'None')})"
    return state if fields.get("ExitCode", "0:0") == "0:0" else f"{state} (exit {fields['ExitCode']})"


def details(one: Status) -> str:
    """All of one run, a line each."""
    progress = "-" if one.iteration is None else str(one.iteration)
    lines = [
        f"run        {one.run if one.run is not None else '-'}",
        f"job        {one.job if one.job is not None else '-'}",
        f"state      {one.state}",
        f"iteration  {progress}{f' of {one.iterations}' if one.iterations is not None else ''}",
        f"log        {one.log if one.log is not None else '-'}",
    ]
    return "\n".join([*lines, *(f"  {name} = {number(value)}" for name, value in one.metrics.items())])


def table(all_of_them: Sequence[Status]) -> str:
    """A line for each run; metrics that no run has make no column."""
    names = [n for n in SHOWN if any(n in s.metrics for s in all_of_them)]
    rows = [["run", "job", "state", "iteration", *names, "log"]]
    for one in all_of_them:
        done = "-" if one.iteration is None else str(one.iteration)
        total = "" if one.iterations is None else f"/{one.iterations}"
        shown = [number(one.metrics[n]) if n in one.metrics else "-" for n in names]
        rows.append(
            [
                str(one.run),
                one.job if one.job is not None else "-",
                one.state,
                done + total,
                *shown,
                str(one.log) if one.log is not None else "-",
            ]
        )
    return columns(rows)


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str]) -> int:
    """With no word: all runs in runs/. With words: each of them in full."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    options = [w for w in argv if w.startswith("-")]
    if options:
        raise ConfigError(f"status has no option {options[0]}; it takes run folders, names of runs and job ids.")
    if argv:
        print("\n\n".join(details(status(target)) for target in argv))
        return 0
    found = [of_run(folder) for folder in all_runs()]
    print(table(found) if found else f"no runs in {RUNS.absolute()} or {SWEEPS.absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
