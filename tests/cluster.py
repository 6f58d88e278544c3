"""A real 2-node Slurm for tests (slurm/local under a name of its own), which goes when the test session ends."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from k15.log import read_metrics

# On a node: stop the process that pulls (the agent) or loads (the engine), see that it still does, kill, let it go on.
IN_HAND_OFF = r"""
import glob, os, re, signal, subprocess, sys, time
PATTERNS = {"agent": r"^\S*python\S* -m k15 rl", "engine": "[V]LLM::EngineCore", "etcd": "[e]tcd --name=k15"}
at, victim = sys.argv[1:]
names = {"pull": "agent", "load": "engine"}[at], victim
busy, doomed = (int(subprocess.check_output(["pgrep", "-of", PATTERNS[name]])) for name in names)

def version():
    if at == "pull":
        found = glob.glob("/dev/shm/k15-*/*.seg.tmp*-pull")
    else:
        found = re.findall(r"/dev/shm/\S+\.seg", open(f"/proc/{busy}/maps").read())
    return int(re.search(r"/v(\d+)-r", found[0])[1]) if found else None

while True:
    if version() is not None:
        os.kill(busy, signal.SIGSTOP)
        while open(f"/proc/{busy}/stat").read().rsplit(")", 1)[1].split()[0] != "T":
            pass
        if (number := version()) is not None:
            break
        os.kill(busy, signal.SIGCONT)
    time.sleep(2e-4)
os.kill(doomed, signal.SIGKILL)
time.sleep(0.2)
if doomed != busy:
    os.kill(busy, signal.SIGCONT)
print(number)
"""
SLURM = Path(__file__).resolve().parent.parent / "slurm"
LOCAL = SLURM / "local"
STATE = Path("/var/tmp")  # not tmp_path: its length would pass the 107 characters of a socket's path


@dataclass
class Cluster:
    """`env` is what a client of this cluster needs; `owned` is false where the machine's own Slurm is used."""

    env: dict[str, str]
    dir: Path
    name: str
    owned: bool = True

    def run(self, *command: str | Path, timeout: float = 60, check: bool = True) -> str:
        """stdout of a command that runs with this cluster's environment."""
        done = subprocess.run([str(c) for c in command], env=self.env, timeout=timeout, text=True, capture_output=True)
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def up(self, nodes: int = 2) -> None:
        lines = self.run(LOCAL / "up", "-n", str(nodes), timeout=180)
        found = re.search(r"export SLURM_CONF=(\S+)", lines)
        if found:
            self.env["SLURM_CONF"] = found[1]
        self.owned = found is not None and Path(found[1]).parent == self.dir

    def down(self) -> None:
        self.run(LOCAL / "down", "--purge", timeout=180)

    def sbatch(self, script: Path, *options: str, words: Sequence[str] = ()) -> str:
        """Submits `script` with its own arguments `words`; returns the job id."""
        return self.run("sbatch", "--parsable", *options, script, *words).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", job_id)))

    def wait_job(self, job_id: str, *states: str, timeout: float = 60) -> dict[str, str]:
        """The job's fields once it is in one of `states` (default: any final one)."""
        ends = states if states else ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return wait_for(lambda: (job := self.job(job_id))["JobState"] in ends and job, timeout, f"job {job_id} in {ends}")


class RlJob:
    """A job of slurm/rl.sbatch in `folder`, as its user sees it."""

    def __init__(self, cluster: Cluster, folder: Path, nodes: int, settings: Sequence[str]) -> None:
        self.cluster, self.folder, self.log_file = cluster, folder, folder / "job.out"
        self.job = cluster.sbatch(
            SLURM / "rl.sbatch", f"--nodes={nodes}", f"--chdir={folder}", f"--output={self.log_file}", words=settings
        )
        self.dir = folder / "runs" / f"rl-{self.job}"

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def rows(self) -> list[dict]:
        path = self.dir / "metrics.jsonl"
        return read_metrics(path) if path.exists() else []

    def until(self, condition, what: str, timeout: float = 400):
        """The first true value of `condition()` while the job lives."""

        def look():
            state = self.cluster.job(self.job)["JobState"]
            assert state in ("PENDING", "CONFIGURING", "RUNNING"), f"{state} before {what}:\n{self.log()[-6000:]}"
            return condition()

        return wait_for(look, timeout, what)


def kill_in_hand_off(cluster: Cluster, job: str, node: str, at: str, victim: str) -> int:
    """On a node of a job of `k15 rl`, kill `victim` (agent, engine, etcd) while the node pulls segments or its engine loads them
    (`at`: pull, load), in whichever hand-off it is caught at that; the version that was handed off."""
    words = ["srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", "-w", node]
    return int(cluster.run(*words, sys.executable, "-c", IN_HAND_OFF, at, victim, timeout=120))


def wait_for(condition, timeout: float, what: str):
    """The first true value of `condition()`; an assertion error after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.1)
    return value


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def make_cluster(tag: str, **settings: object) -> Cluster:
    """A cluster that is not up yet. `tag` (one letter) and this process's id make its name; both also lead a later
    session to what a killed one left."""
    for old in STATE.glob("k15-test-*"):
        owner = re.fullmatch(r"k15-test-([a-z])([0-9a-f]+)", old.name)
        if owner and not _alive(int(owner[2], 16)) and (old / "cluster").exists():
            subprocess.run([LOCAL / "down", "--purge"], env={**os.environ, "K15_LOCAL_SLURM_DIR": str(old)}, timeout=60)
    name = f"{tag}{os.getpid():x}"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "K15_LOCAL_SLURM_"))}
    directory = STATE / f"k15-test-{name}"
    env |= {"K15_LOCAL_SLURM_DIR": str(directory), "K15_LOCAL_SLURM_NAME": name}
    env |= {f"K15_LOCAL_SLURM_{k}": str(v) for k, v in settings.items()}
    return Cluster(env, directory, name)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """Two nodes; the machine's own Slurm where there is one. Tests may not break it: for that, see `make_cluster`."""
    assert shutil.which("sbatch"), "tests marked slurm need Slurm: apt-get install slurm-wlm munge"
    cluster = make_cluster("s")
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
