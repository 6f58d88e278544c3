"""Two runs in one folder: the second is refused, and a folder whose holder is gone is free at once, however it ended."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k15.config.compose import compose_run
from k15.config.reward_model import compose_reward_model
from k15.errors import ConfigError
from k15.node.rendezvous import JobIdentity
from k15.runs import reward_model
from k15.runs.hold import held
from k15.runs.rl import JOB

HOLDER = """
import sys
from pathlib import Path
from k15.node.rendezvous import JobIdentity
from k15.runs.hold import held

with held(Path(sys.argv[1]), JobIdentity(sys.argv[2], 0, 1, int(sys.argv[3]))):
    print("held", flush=True)
    sys.stdin.read()
"""
NODE = """
import sys
from k15.config.check import check
from k15.config.compose import compose_run
from k15.config.schema import RunConfig
from k15.runs.job import Job

sys.exit(Job("rl", RunConfig, check, "until_told").run(compose_run([f"run_dir={sys.argv[1]}"])))
"""
CONTROLLER = """
import sys, time
from pathlib import Path

run_dir = Path(sys.argv[1])
(run_dir / "begun").touch()
while not (run_dir / "enough").exists():
    time.sleep(0.1)
"""


@contextmanager
def holder(run_dir: Path, job: str, restart: int = 0) -> Iterator[subprocess.Popen]:
    """A process that holds `run_dir` until it or the block ends."""
    words = [sys.executable, "-P", "-c", HOLDER, str(run_dir), job, str(restart)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_is_its_nodes_as_long_as_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real node, with a controller that waits; a second start has changed nothing when it is refused."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "until_told.py").write_text(CONTROLLER)
    run_dir = tmp_path / "run"
    with open(tmp_path / "log", "wb") as out:
        words = [sys.executable, "-c", NODE, str(run_dir)]
        node = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while not (run_dir / "begun").exists():
            assert node.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        before = (run_dir / "config.yaml").stat()
        with pytest.raises(ConfigError, match=rf"is in use by process {node.pid} on .* Give another run_dir="):
            JOB.run(compose_run([f"run_dir={run_dir}"]))
        assert (run_dir / "config.yaml").stat() == before
        (run_dir / "enough").touch()
        assert node.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        node.kill()
        node.wait()
    assert (run_dir / ".lock").read_text() == ""


def test_a_reward_models_folder_is_held_too(tmp_path: Path) -> None:
    with holder(tmp_path, "77"), pytest.raises(ConfigError, match="in use by job 77"):
        reward_model.run(compose_reward_model([f"run_dir={tmp_path}"]))
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path, "local-1") as process:
        process.kill()
        process.wait()
        with held(tmp_path, JobIdentity("local-2", 0, 1, 0)):
            assert json.loads((tmp_path / ".lock").read_text())["job"] == "local-2"


def test_a_job_waits_for_the_one_that_is_just_ending_and_no_longer(tmp_path: Path) -> None:
    with holder(tmp_path, "77") as process:
        with pytest.raises(ConfigError, match=r"in use by job 77 on .*scancel 77"), held(tmp_path, JobIdentity("78", 0, 1, 0), 0):
            pass
        threading.Timer(0.5, process.terminate).start()
        with held(tmp_path, JobIdentity("78", 0, 1, 0), patience_s=60):
            assert process.wait(10) == -signal.SIGTERM


def test_a_requeued_job_outlives_the_lock_of_its_failed_node(tmp_path: Path) -> None:
    """NFS may keep the lock of a node that died. The same start of the job, or the same node, is no such case."""
    with holder(tmp_path, "77", 1):
        for again in (
            JobIdentity("77", 0, 1, 1),
            JobIdentity("77", 0, 1, 2),
        ):  # a second step; this node, where locks do not outlive
            with pytest.raises(ConfigError, match="in use by job 77"), held(tmp_path, again, patience_s=0):
                pass
        (tmp_path / ".lock").write_text(json.dumps({"job": "77", "restart": 1, "host": "gone"}))
        with held(tmp_path, JobIdentity("77", 0, 1, 2), patience_s=0):
            with pytest.raises(ConfigError, match=f"in use by job 77 on {os.uname().nodename}"):
                with held(tmp_path, JobIdentity("local-5", 0, 1, 0)):
                    pass
        with held(tmp_path, JobIdentity("local-5", 0, 1, 0)):
            pass
