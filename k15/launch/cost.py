"""`k15 status --cost [RUN_DIR | JOB ...]`: GPU-hours, core-hours and energy of runs, from Slurm's accounting (slurmdbd)."""

import argparse
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from k15.errors import ClusterError, DataError
from k15.launch.status import RUNS, all_runs, is_run, job_of, slurm_config
from k15.log.columns import columns
from k15.log.sweep import is_sweep, read_sweep

FIELDS = ("JobID", "State", "ElapsedRaw", "NNodes", "AllocTRES", "ConsumedEnergyRaw")
JOB = r"\d+(_\d+)?"
J_PER_KWH = 3.6e6
_LOG = rf"(?:^|-)({JOB})(?:_\d+_log)?\.out$"  # submitit's JOB_TASK_log.out, a rendered script's k15-NAME-JOB.out
MOST_JOBS = 500  # in one call of sacct


@dataclass(frozen=True)
class Use:
    """What jobs used. `seconds`: of wall-clock time, summed over starts. `gpu_hours`: None where Slurm does not count GPUs.

    `joules`: None where nothing measured energy. `lost_hours`: GPU-hours of starts that ended as FAILED, NODE_FAIL, ...
    """

    starts: int = 0
    seconds: float = 0.0
    node_hours: float = 0.0
    core_hours: float = 0.0
    gpu_hours: float | None = 0.0
    lost_hours: float = 0.0
    joules: float | None = None

    def __add__(self, other: "Use") -> "Use":
        gpus = None if self.gpu_hours is None or other.gpu_hours is None else self.gpu_hours + other.gpu_hours
        known = [j for j in (self.joules, other.joules) if j is not None]
        return Use(
            self.starts + other.starts,
            self.seconds + other.seconds,
            self.node_hours + other.node_hours,
            self.core_hours + other.core_hours,
            gpus,
            self.lost_hours + other.lost_hours,
            sum(known) if known else None,
        )


BAD = ("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def uses(text: str, *, counts_gpus: bool = True, measures_energy: bool = True) -> dict[str, Use]:
    """What each job used, by job id (tasks of an array apart, parts of a heterogeneous job together).

    `text`: of `sacct -D -P -n -o` FIELDS, where a start's line is followed by those of its steps. Steps run at the same time on
    the same nodes and each is given the nodes' energy, so a start's energy is that of the step with most, not their sum.
    Raises DataError for a line that is none of sacct's.
    """
    found: dict[str, Use] = {}
    job = ""
    start = Use()
    for line in filter(None, text.splitlines()):
        cells = line.split("|")
        if len(cells) != len(FIELDS) or not re.match(r"\d+", cells[0]):
            raise DataError(f"sacct's line {line!r} has not the fields {','.join(FIELDS)}")
        name, state, elapsed, nodes, tres, energy = cells
        joules = float(energy) if energy not in ("", "0") and measures_energy else None
        if "." not in name:
            found[job] = found.get(job, Use()) + start
            job, start = name.split("+")[0], _start(state, float(elapsed or 0), int(nodes or 0), tres, counts_gpus)
        if joules is not None:
            start = replace(start, joules=max(joules, start.joules if start.joules is not None else 0.0))
    found[job] = found.get(job, Use()) + start
    found.pop("", None)
    return found


def _start(state: str, seconds: float, nodes: int, tres: str, counts_gpus: bool) -> Use:
    amounts = dict(pair.split("=", 1) for pair in tres.split(",") if "=" in pair)
    hours = seconds / 3600
    gpus = hours * _gpus(amounts)
    return Use(
        starts=1 if seconds or amounts else 0,  # a job that still waits has none
        seconds=seconds,
        node_hours=hours * nodes,
        core_hours=hours * float(amounts.get("cpu", 0)),
        gpu_hours=gpus if counts_gpus else None,
        lost_hours=gpus if state.split(" ")[0] in BAD else 0.0,
    )


def _gpus(amounts: Mapping[str, str]) -> float:
    """Typed names (gres/gpu:h100=8) come beside the plain one or, where only they are counted, without it."""
    if "gres/gpu" in amounts:
        return float(amounts["gres/gpu"])
    return sum(float(n) for name, n in amounts.items() if name.startswith("gres/gpu:"))


def jobs_of(folder: Path) -> list[str]:
    """The jobs of a run folder that are known: its last, those whose logs `k15 launch` put there, and nodes that joined."""
    last, record = job_of(folder)
    found = [last] if last is not None and record.get("kind", "slurm") == "slurm" else []
    found += [m[1] for p in (folder / "logs" / "launch").glob("*.out") if (m := re.search(_LOG, p.name))]
    found += [p.stem for p in (folder / "scale").glob("*.json") if re.fullmatch(JOB, p.stem)]
    if is_sweep(folder.parent):
        points = read_sweep(folder.parent).points.values()
        found += [p.job for p in points if p.folder == folder.name and p.job is not None]
    return list(dict.fromkeys(found))


def ask(jobs: Sequence[str]) -> dict[str, Use]:
    """What Slurm's accounting has of `jobs`. Raises ClusterError where there is no accounting, or it does not answer."""
    config = slurm_config()
    found: dict[str, Use] = {}
    if config.get("AccountingStorageType") == "accounting_storage/none":
        raise ClusterError(
            "this Slurm keeps no accounts (AccountingStorageType is none); docs/admin.md has how to set up slurmdbd"
        )
    counts = bool(re.search(r"\bgres/gpu\b", config.get("AccountingStorageTRES", "")))
    measures = config.get("AcctGatherEnergyType") not in (None, "acct_gather_energy/none", "(null)")
    for first in range(0, len(jobs), MOST_JOBS):
        some = ",".join(jobs[first : first + MOST_JOBS])
        text = _sacct("--duplicates", "--parsable2", "--noheader", f"--format={','.join(FIELDS)}", f"--jobs={some}")
        found |= uses(text, counts_gpus=counts, measures_energy=measures)
    return found


def _sacct(*words: str) -> str:
    try:
        done = subprocess.run(["sacct", *words], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"sacct does not answer: {error}") from error
    if done.returncode:
        raise ClusterError(f"sacct fails: {done.stderr.strip()[-300:] or 'it gives no reason'}")
    return done.stdout


def table(rows: Sequence[tuple[str, Sequence[str], Use]], price: float | None) -> str:
    """A line for each run, and their sum. Hours; energy in kWh."""
    names = ["run", "jobs", "starts", "wall h", "node-h", "core-h", "GPU-h", "of failed starts", "energy kWh"]
    lines = [[*names, *(["cost"] if price is not None else [])]]
    everything = sum((use for _, _, use in rows), Use())
    shown = [*rows, ("sum", [j for _, jobs, _ in rows for j in jobs], everything)] if len(rows) > 1 else rows
    for run, jobs, use in shown:
        cells = [run, " ".join(jobs) if run != "sum" else str(len(jobs)), str(use.starts), _hours(use.seconds / 3600)]
        cells += [_hours(use.node_hours), _hours(use.core_hours)]
        cells += ["not counted", "not counted"] if use.gpu_hours is None else [_hours(use.gpu_hours), _hours(use.lost_hours)]
        cells.append("not measured" if use.joules is None else f"{use.joules / J_PER_KWH:.4g}")
        if price is not None:
            cells.append("not counted" if use.gpu_hours is None else f"{use.gpu_hours * price:,.2f}")
        lines.append(cells)
    return columns(lines)


def _hours(value: float) -> str:
    return f"{value:.4g}"


def main(argv: Sequence[str]) -> int:
    """Prints the table; SystemExit for wrong words. Raises DataError, ClusterError."""
    parser = argparse.ArgumentParser(
        prog="k15 status", allow_abbrev=False,
        description="What runs used, from Slurm's accounting: every start of each of their jobs, those before a requeue and "
        "rollout-only nodes too.",
    )  # fmt: skip
    parser.add_argument("--cost", action="store_true", required=True, help="GPU-hours, core-hours and energy")
    parser.add_argument("--price", type=_price, metavar="P", help="a GPU-hour costs P")
    parser.add_argument("target", nargs="*", metavar="RUN_DIR|JOB", help="none: all runs in runs/ and multirun/")
    args = parser.parse_args(list(argv))
    targets, price = args.target, args.price
    wanted: list[tuple[str, list[str]]] = []
    for target in targets if targets else [str(folder) for folder in all_runs()]:
        folder = next((f for f in (Path(target), RUNS / target) if is_run(f)), None)
        if folder is None and not re.fullmatch(JOB, target):
            raise DataError(f"{target} is neither a run folder, nor a run in {RUNS}/, nor a job id; see `k15 status`.")
        wanted.append((target, jobs_of(folder) if folder is not None else [target]))
    if not wanted:
        print(f"no runs in {RUNS.absolute()}")
        return 0
    jobs = list(dict.fromkeys(j for _, found in wanted for j in found))
    if not jobs:
        raise DataError("none of these runs has a Slurm job; runs on this machine alone are in nobody's accounts.")
    known = ask(jobs)
    own = {job: [k for k in known if k == job or k.startswith(f"{job}_")] for job in jobs}  # an array's tasks
    rows = []
    for run, found in wanted:
        mine = list(dict.fromkeys(k for job in found for k in own[job]))
        rows.append((run, mine, sum((known[k] for k in mine), Use())))
    print(table(rows, price))
    absent = [job for job in jobs if not own[job]]
    if absent:
        print(f"not in the accounts: job {', '.join(absent)}", file=sys.stderr)
    return 0 if known else 1


def _price(word: str) -> float:
    try:
        price = float(word)
    except ValueError:
        price = math.nan
    if not math.isfinite(price) or price < 0:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of 0 or more: the cost of a GPU-hour, such as 2.5")
    return price
