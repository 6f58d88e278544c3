"""`k15 status [RUN_DIR | JOB]`: queue state, iteration, last metrics and log of one run, or of all runs in runs/."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k15.config.compose import from_yaml
from k15.errors import DataError
from k15.log import read_metrics

RUNS = Path("runs")
MARKS = ("config.yaml", "metrics.jsonl", "job.json")
SHOWN = ("reward_mean", "accuracy", "response_length_mean", "eval_greedy_accuracy")


@dataclass(frozen=True)
class Status:
    """One run. `state` is Slurm's word for the job, or why there is none; `metrics` is the last line (all numbers)."""

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
        if fields is not None:
            return Status(None, str(target), queue_state(fields), log=log_of(fields))
    raise DataError(
        f"{target} is neither a run folder (with {', '.join(MARKS)}), nor a run in {RUNS}/, nor a job that Slurm knows."
    )


def of_run(folder: Path) -> Status:
    """The status of a run folder."""
    job, record = job_of(folder)
    fields = slurm_job(job) if job is not None and record.get("kind", "slurm") == "slurm" else None
    log = log_of(fields) if fields is not None else Path(str(record["log"])) if "log" in record else None
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    last = rows[-1] if rows else {}
    config = folder / "config.yaml"
    return Status(
        run=folder,
        job=job,
        state=local_state(job, folder) if record.get("kind") == "local" else queue_state(fields),
        iteration=int(last["iteration"]) if rows else None,
        iterations=from_yaml(config.read_text()).algo.iterations if config.is_file() else None,
        metrics=last,
        log=log if log is not None else folder / "logs",
    )


def is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def all_runs() -> list[Path]:
    """The run folders in runs/ (and those of a sweep's points, one level down), newest last."""
    found = [p for pattern in ("*", "*/*") for p in RUNS.glob(pattern) if p.is_dir() and is_run(p)]
    return sorted(found, key=lambda p: p.stat().st_mtime)


def job_of(folder: Path) -> tuple[str | None, dict[str, object]]:
    """A run's job id (from job.json, a running job's rendezvous file, or the folder's name) and what launch noted."""
    record: dict[str, object] = {}
    if (folder / "job.json").is_file():
        record = json.loads((folder / "job.json").read_text())
        return str(record["job_id"]), record
    running = sorted(folder.glob(".job-*-*.json"), key=lambda p: p.stat().st_mtime)
    named = re.fullmatch(r"\.job-(\d+(?:_\d+)?)-\d+\.json", running[-1].name) if running else None
    if named is None:
        named = re.search(r"-(\d{1,10}(?:_\d+)?)$", folder.name)
        if re.search(r"-\d{8}-\d{6}$", folder.name):  # a time of day: a run outside Slurm
            named = None
    return (named[1] if named else None), record


def slurm_job(job: str) -> dict[str, str] | None:
    """`scontrol show job` as a dict; None if Slurm is not here or knows the job no more."""
    if shutil.which("scontrol") is None:
        return None
    try:
        done = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, timeout=15)
    except subprocess.TimeoutExpired:
        return None
    return dict(re.findall(r"(\w+)=(\S*)", done.stdout)) if done.returncode == 0 else None


def queue_state(fields: Mapping[str, str] | None) -> str:
    """For example `RUNNING 0:12:31 n[1-2]`, `PENDING (Resources)`, `FAILED (exit 1:0)`."""
    if fields is None:
        return "not in the queue"
    state = fields["JobState"]
    if state == "RUNNING":
        return f"{state} {fields['RunTime']} {fields.get('NodeList', '')}".strip()
    if state == "PENDING":
        return f"{state} ({fields.get('Reason', 'None')})"
    return state if fields.get("ExitCode", "0:0") == "0:0" else f"{state} (exit {fields['ExitCode']})"


def log_of(fields: Mapping[str, str]) -> Path | None:
    return Path(fields["StdOut"]) if fields.get("StdOut") else None


def local_state(job: str | None, folder: Path) -> str:
    """A job of submitit's local executor is the process that controls it."""
    try:
        words = Path(f"/proc/{job}/cmdline").read_bytes()
    except FileNotFoundError:
        words = b""
    return f"RUNNING (process {job})" if b"submitit" in words else "ended"


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
        rows.append([str(one.run), one.job if one.job is not None else "-", one.state, done + total, *shown, str(one.log)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str]) -> int:
    """With no word: all runs in runs/. With words: each of them in full."""
    if argv:
        print("\n\n".join(details(status(target)) for target in argv))
        return 0
    found = [of_run(folder) for folder in all_runs()]
    print(table(found) if found else f"no runs in {RUNS.absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
