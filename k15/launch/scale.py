"""`k15 scale RUN_DIR +1 | -1 | NODES`: nodes join a running RL run for rollout only, or leave it (report 2.6.3).

Each node that joins is a Slurm job of one node (`k15 join`), on hosts that the run does not use. It finds the run by the
rendezvous file in the run folder; the run takes it in at its next hand-off. Leaving is Slurm's signal before the time limit:
what the node's engines have begun goes on elsewhere, then its job ends.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from k15.config.compose import from_yaml
from k15.config.schema import ClusterConfig
from k15.config.values import require
from k15.errors import ClusterError, ConfigError, DataError, unknown_name
from k15.launch.sbatch import render
from k15.launch.status import QUEUED, RUNS, slurm_job, slurm_parts
from k15.launch.submit import sbatch

USAGE = """usage: k15 scale RUN_DIR +N | -N | NODES [cluster.NAME=value ...]

Nodes join a running `k15 rl` for rollout only, or leave it again; training goes on untouched.
  +N      N nodes more, each a Slurm job of its own with the run's cluster.* settings (or those given here)
  -N      the N newest of them leave; what they have begun goes on elsewhere
  NODES   so many nodes in all, those that train included
Where the run is requeued, they wait cluster.rejoin_min minutes for its next start and join that.
"""


def main(argv: Sequence[str]) -> int:
    """Prints what was submitted or told to leave. Raises ConfigError, DataError, ClusterError."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    if len(argv) < 2:
        raise ConfigError(f"scale needs a run folder and a number of nodes.\n{USAGE.rstrip()}")
    run = run_folder(argv[0])
    cluster = settings(run, argv[2:])
    rendezvous, parts = running_job(run)
    training = sum(int(part["NumNodes"]) for part in parts)
    visiting = visitors(run, rendezvous.name)
    wanted = target(argv[1], training, len(visiting))
    if wanted > training + len(visiting):
        grow(run, rendezvous, cluster, [*parts, *visiting.values()], wanted - training - len(visiting))
    elif wanted < training + len(visiting):
        shrink(visiting, training + len(visiting) - wanted)
    else:
        print(f"{run} has {wanted} nodes already: {training} that train, {len(visiting)} for rollout only")
    return 0


def run_folder(given: str) -> Path:
    """The folder, or the run of that name in runs/. Raises DataError."""
    for folder in (Path(given), RUNS / given):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
    raise DataError(f"{given} is no run folder: it has no config.yaml. Give the folder of a running `k15 rl`; see `k15 status`.")


def settings(run: Path, words: Sequence[str]) -> ClusterConfig:
    """The run's cluster settings with the words `cluster.NAME=value`. Raises ConfigError."""
    try:
        cfg = from_yaml((run / "config.yaml").read_text())
    except ConfigError as error:
        raise ConfigError(f"{run} is no run of `k15 rl`, the only command with rollouts to scale: {error}") from error
    if cfg.weights.transport == "mpi":
        raise ConfigError(
            f"{run} was started with weights.transport=mpi: its nodes are one MPI world, which no other can join. "
            "Runs that are to be scaled want weights.transport=auto, http or mooncake."
        )
    base = OmegaConf.structured(cfg.cluster)
    for word in words:
        if not re.fullmatch(r"cluster\.\w+=.*", word):
            raise ConfigError(f"{word!r} is not understood; behind the number of nodes come cluster.NAME=value only.")
        name = word.split("=")[0].removeprefix("cluster.")
        if name not in base:
            raise unknown_name("the setting cluster.*", name, base)
    try:
        own = OmegaConf.from_dotlist([w.removeprefix("cluster.") for w in words])
        merged = OmegaConf.to_object(OmegaConf.merge(base, own))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(merged, ClusterConfig)
    require(merged, not_negative=("rejoin_min",))
    if not merged.requeue:
        merged.rejoin_min = 0.0  # there will be nothing to wait for
    merged.nodes, merged.requeue, merged.rollout_nodes = 1, False, 0
    return merged


def running_job(run: Path) -> tuple[Path, list[dict[str, str]]]:
    """The rendezvous file of the run's job, and what Slurm says of it: of each part, where it is a heterogeneous one (those for
    rollout only count with those that train: they leave with the job). Raises ConfigError, ClusterError where it does not run."""
    found = sorted(run.glob(".job-*.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise ConfigError(f"{run} is not running (a run that has started has a file .job-*.json there); see `k15 status {run}`.")
    named = re.fullmatch(r"\.job-(\d+(?:_\d+)?)-\d+\.json", found[-1].name)
    if named is None:
        raise ConfigError(f"{run} runs outside Slurm, on this machine alone; only a Slurm job can be joined. See `k15 launch`.")
    parts = slurm_parts(named[1])
    if parts is None:
        raise ClusterError("Slurm does not answer, so no node can join. Is SLURM_CONF set? slurm/local/up starts one here.")
    state = parts[0]["JobState"] if parts else "unknown to Slurm"
    if state != "RUNNING":
        raise ConfigError(f"job {named[1]} of {run} is {state}, not RUNNING: it cannot be scaled. See `k15 status {run}`.")
    if json.loads(found[-1].read_text())["head_address"].startswith("127."):
        raise ClusterError(
            f"job {named[1]} listens on 127.0.0.1 alone, since its host has no other address; it cannot be joined."
        )
    return found[-1], parts


def visitors(run: Path, rendezvous: str) -> dict[str, dict[str, str]]:
    """Jobs that joined the run's job (or wait to join it), oldest first: id -> what Slurm says. Those of a start before a requeue
    are there still where they have joined again, or are going to."""
    found, run_job = {}, rendezvous.rsplit("-", 1)[0]
    for path in sorted((run / "scale").glob("*.json"), key=lambda p: int(p.stem)):
        record = json.loads(path.read_text())
        fields = slurm_job(path.stem) if record["joins"].rsplit("-", 1)[0] == run_job and not record["left"] else None
        if fields and fields["JobState"] in QUEUED - {"COMPLETING", "STAGE_OUT"}:
            found[path.stem] = fields | {"record": str(path)}
    return found


def target(word: str, training: int, visiting: int) -> int:
    """Nodes in all after `word` (+N, -N, N). Raises ConfigError."""
    if not re.fullmatch(r"[+-]?\d+", word):
        raise ConfigError(f"the number of nodes is {word!r}; allowed: +N (more), -N (fewer), N (in all), for example +1.")
    now = training + visiting
    wanted = now + int(word) if word[0] in "+-" else int(word)
    if wanted < training:
        raise ConfigError(
            f"{word} would leave {max(wanted, 0)} nodes, but {training} train and cannot leave; {visiting} are for rollout only. "
            f"Allowed: {training} or more" + (f", or -1 to -{visiting}." if visiting else ".")
        )
    return wanted


def grow(run: Path, rendezvous: Path, cluster: ClusterConfig, jobs: Sequence[dict[str, str]], count: int) -> None:
    """Submit `count` jobs that join, on other hosts than `jobs` have. Raises ConfigError where there are not so many."""
    partition = cluster.partition if cluster.partition is not None else jobs[0]["Partition"]
    nodes = _nodes(partition)
    used = sum(int(job["NumNodes"].split("-")[0]) for job in jobs if job.get("Partition") == partition)
    if used + count > len(nodes):
        raise ConfigError(
            f"{count} more nodes are wanted, but partition {partition} has {len(nodes)} that work, and the run uses {used}. "
            f"Ask for at most {len(nodes) - used} more, or another partition: cluster.partition=NAME."
        )
    folder = run / "scale"
    folder.mkdir(exist_ok=True)
    argv = [sys.executable, "-m", "k15", "join", str(run), rendezvous.name, str(cluster.rejoin_min)]
    script = render(cluster, argv, job_name=f"k15-join-{run.name}", log_dir=folder)
    lists = [job["NodeList"] for job in jobs if job.get("NodeList") not in (None, "", "(null)")]
    for _ in range(count):
        job = sbatch(script, f"--exclude={','.join(lists)}", f"--chdir={run.parent}")
        record = {"joins": rendezvous.name, "submitted": time.time(), "left": False}
        (folder / f"{job}.json").write_text(json.dumps(record) + "\n")
        print(f"job {job} joins {run} for rollout; its log: {folder}/k15-join-{run.name}-{job}.out")


def _nodes(partition: str) -> set[str]:
    """Hosts of a partition that work."""
    try:
        done = subprocess.run(["sinfo", "-h", "-N", "-p", partition, "-o", "%N %t"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"sinfo does not answer: {error}") from error
    if done.returncode:
        raise ClusterError(f"sinfo refuses to say what partition {partition} has: {done.stderr.strip()}")
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name for name, state in rows if not state.startswith(("down", "drain", "fail", "maint", "unk"))}


def shrink(visiting: dict[str, dict[str, str]], count: int) -> None:
    """Let the newest jobs go. Raises ClusterError where Slurm refuses."""
    for job, fields in list(visiting.items())[: -count - 1 : -1]:
        options = ["--batch", "--signal=USR1"] if fields["JobState"] == "RUNNING" else []
        done = subprocess.run(["scancel", *options, job], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ClusterError(f"scancel refused to signal job {job}: {done.stderr.strip()}")
        record = Path(fields["record"])
        record.write_text(json.dumps(json.loads(record.read_text()) | {"left": True}) + "\n")
        print(f"job {job} leaves; what its engines have begun goes on elsewhere" if options else f"job {job} was cancelled")
