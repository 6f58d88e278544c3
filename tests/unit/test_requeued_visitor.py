"""A visiting node and a run that is requeued, twice: it waits, joins the next start, and ends when it is told to.

Nodes, agents, etcd, signals and files are the real ones, each node a process; a program that waits for the signal is the controller.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from cluster import wait_for

from k15.config.compose import compose_run, to_yaml
from k15.errors import REQUEUE
from k15.node.rendezvous import Rendezvous, started_after
from k15.weights.store import Store

CONTROLLER = f"import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit({REQUEUE}))\ntime.sleep(300)\n"
HEAD = """
import asyncio, sys
from pathlib import Path
from k15.node.rendezvous import JobIdentity
from k15.node.service import Node
sys.exit(asyncio.run(Node(JobIdentity.from_environment(), Path(sys.argv[1]), "cpu", controller="saves").run()))
"""


@pytest.fixture
def start(tmp_path):
    """start(log, SLURM_JOB_ID, restart, words): a node's process; those that are left at the end are killed."""
    (tmp_path / "saves.py").write_text(CONTROLLER)
    made = []

    def begin(log: str, job: int, restart: int, *words: str) -> subprocess.Popen:
        slurm = {"JOB_ID": job, "PROCID": 0, "STEP_NUM_TASKS": 1, "RESTART_COUNT": restart}
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        env |= {f"SLURM_{k}": str(v) for k, v in slurm.items()} | {"PYTHONPATH": str(tmp_path)}
        with (tmp_path / log).open("ab") as out:
            made.append(subprocess.Popen([sys.executable, "-P", *words], env=env, stdout=out, stderr=out))
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.wait()


def test_a_visitor_joins_every_start_of_a_run_that_is_requeued(start, tmp_path):
    job, own = os.getpid(), os.getpid() + 10_000_000
    (tmp_path / "config.yaml").write_text(to_yaml(compose_run([])))

    def said() -> str:
        return (tmp_path / "visitor").read_text() if (tmp_path / "visitor").exists() else ""

    visitor = None
    for restart in (0, 1):
        head = start("head", job, restart, "-c", HEAD, str(tmp_path))
        path = tmp_path / f".job-{job}-{restart}.json"
        wait_for(path.exists, 90, "the head")
        if visitor is None:
            visitor = start("visitor", own, 0, "-m", "k15", "join", str(tmp_path), path.name, "10")
        met = Rendezvous(**json.loads(path.read_text()))
        store = Store(met.etcd, f"/k15/{job}", met.etcd_password)
        store.put("trainer/0", "{}")
        wait_for(lambda s=store: f"agents/{1000 * own}" in s.prefix("agents/"), 90, f"the visitor at start {restart}")
        head.send_signal(signal.SIGUSR1)
        assert head.wait(60) == REQUEUE, (tmp_path / "head").read_text()
        wait_for(lambda n=restart: said().count("the run is requeued") == n + 1, 60, "the visitor to wait")
        assert not path.exists() and visitor.poll() is None
    visitor.send_signal(signal.SIGUSR1)
    assert visitor.wait(30) == 0, said()
    assert "waits no longer" in said()


def test_only_a_later_start_of_the_same_job_is_another_start(tmp_path):
    first = tmp_path / ".job-12_3-9.json"
    for name in (".job-12_3-9.json", ".job-12_3-2.json", ".job-12_33-11.json", ".job-12-12.json", ".job-12_3-10.tmp"):
        (tmp_path / name).touch()
        assert started_after(first) is None, name
    for restart in (10, 11):
        (tmp_path / f".job-12_3-{restart}.json").touch()
        assert started_after(first) == tmp_path / f".job-12_3-{restart}.json"
