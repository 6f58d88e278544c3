"""Runs of `k15` commands as processes of their own, a few at once, each in OUT/runs/NAME, gone on with where they were left.

    Job("base-0", ("rl", "experiment=finding/base", "seed=0", "run_dir={runs}/base-0"))   # after `k15`; {runs}: OUT/runs
    run_all(jobs, out, parallel=2)   # starts what its `needs` allow, skips what has finished; OUT/runs/NAME.log
    points(out / "runs" / "base-0", "sampled")   # its held-out evaluations

A job that ended well leaves OUT/runs/NAME.done with its words, seconds and commit: it is not run again, and other words under
its name are refused.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low

from benchmarks import machine
from k15.child import end, prepare
from k15.errors import K15Error
from k15.log import read_metrics, read_rollouts
from k15.log.rollouts import list_rollouts

ENVIRONMENT = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
SLURM = ("SLURM_", "SLURMD_", "SBATCH_")
POLL_S = 0.5


class RunError(K15Error, RuntimeError):
    """A run failed, or OUT holds other runs under these names."""


@dataclass(frozen=True)
class Job:
    """One process `k15 WORDS`. `needs`: names of jobs that must have finished. `{runs}` in a word is OUT/runs."""

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """A held-out evaluation: accuracy 0..1, its 95 % interval over problems, mean response length (tokens), and the responses
    that had been trained on by then."""

    iteration: int
    accuracy: float
    low: float
    high: float
    length: float
    samples: float


def run_all(jobs: Sequence[Job], out: Path, parallel: int = 2, timeout_s: float = 3600.0) -> None:
    """All jobs to their end, at most `parallel` at once, in the given order where `needs` allow.

    Raises RunError for other words under a finished name before anything starts; after a failure no further job starts, those
    that run are waited for, and RunError has the end of the first failure's log.
    """
    out = out.absolute()
    (out / "runs").mkdir(parents=True, exist_ok=True)
    waiting = [job for job in jobs if not _finished(job, out)]
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    failed: list[str] = []
    try:
        while running or (waiting and not failed):
            for job in [j for j in running if running[j][0].poll() is not None]:
                process, start = running.pop(job)
                failed += _end(job, out, process.returncode, time.monotonic() - start)
            overdue = [j for j, (_, start) in running.items() if time.monotonic() - start > timeout_s]
            for job in overdue:
                failed.append(f"{job.name} did not end within {timeout_s:.0f} s")
                end(running.pop(job)[0])
            for job in [j for j in waiting if not failed and all(_done(out, n).is_file() for n in j.needs)]:
                if len(running) < parallel:
                    waiting.remove(job)
                    running[job] = (_start(job, out), time.monotonic())
            if waiting and not running and not failed:
                failed.append(f"{waiting[0].name} needs {', '.join(waiting[0].needs)}, which no job here makes")
            time.sleep(POLL_S if running else 0)
    finally:
        for process, _ in running.values():
            end(process)
    if failed:
        raise RunError(failed[0])


def _done(out: Path, name: str) -> Path:
    return out / "runs" / f"{name}.done"


def _finished(job: Job, out: Path) -> bool:
    done = _done(out, job.name)
    if not done.is_file():
        return False
    before = json.loads(done.read_text())["words"]
    if before != list(job.words):
        raise RunError(f"{out} holds a run {job.name} with other settings ({' '.join(before)}). Give another --out.")
    return True


def _start(job: Job, out: Path) -> subprocess.Popen:
    words = [word.replace("{runs}", str(out / "runs")) for word in job.words]
    env = {k: v for k, v in os.environ.items() if not k.startswith(SLURM)} | ENVIRONMENT
    with (out / "runs" / f"{job.name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "k15", *words], env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            preexec_fn=prepare,  # whatever ends this process ends the run, and with it the run's own children
        )  # fmt: skip


def _end(job: Job, out: Path, code: int, seconds: float) -> list[str]:
    """Marks a job that ended well; the message of one that did not."""
    if code:
        log = out / "runs" / f"{job.name}.log"
        return [f"{job.name} failed with exit code {code}; the end of {log}:\n{log.read_text()[-3000:]}"]
    done = _done(out, job.name)
    part = done.with_suffix(".part")
    part.write_text(json.dumps({"words": list(job.words), "seconds": round(seconds, 1), "commit": machine.commit()}))
    part.rename(done)
    print(f"  {job.name}: {seconds:.0f} s", flush=True)
    return []


def points(folder: Path, kind: str = "sampled") -> list[Point]:
    """The held-out evaluations of a run folder of `k15 rl`, oldest first; `kind`: greedy or sampled."""
    found, samples = [], 0.0
    for row in read_metrics(folder / "metrics.jsonl"):
        samples += row.get("train_samples", 0.0)
        if f"eval_{kind}_accuracy" in row:
            values = [float(row[f"eval_{kind}_{name}"]) for name in ("accuracy", "low", "high", "length")]
            found.append(Point(int(row["iteration"]), *values, samples))
    return found


@dataclass(frozen=True)
class Lengths:
    """Mean length (tokens) of an iteration's responses to problems up to the median difficulty, and above it."""

    iteration: int
    easier: float
    harder: float


def lengths(folder: Path) -> list[Lengths]:
    """The trained responses' lengths by difficulty, an entry an iteration in which both kinds of problems were drawn."""
    records = {number: read_rollouts(path) for number, path in list_rollouts(folder)}
    bound = median_low(r["difficulty"] for found in records.values() for r in found)
    split = {n: [[r["length"] for r in found if (r["difficulty"] > bound) == hard] for hard in (False, True)]
             for n, found in records.items()}  # fmt: skip
    return [Lengths(n, fmean(easy), fmean(hard)) for n, (easy, hard) in sorted(split.items()) if easy and hard]


def seconds(out: Path, name: str) -> float:
    """How long a finished job took (its last start)."""
    return float(json.loads(_done(out, name).read_text())["seconds"])


def commits(out: Path, names: Sequence[str]) -> list[str]:
    """What finished jobs were run on, each commit once; `unknown` for those that did not keep it."""
    return sorted({json.loads(_done(out, name).read_text()).get("commit", "unknown") for name in names})
