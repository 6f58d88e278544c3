"""Jobs on a real Slurm: the plain script, rl.sbatch and submitit run the same thing and resume alike."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

from k15.config.schema import ClusterConfig, RunConfig
from k15.launch.sbatch import render
from k15.launch.status import details, status
from k15.launch.submit import dry_run, submit_argv

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]

# A command that behaves as `k15 rl` does: USR1 makes every node save, and the head node asks for another run.
SAVES = """
import os, signal, subprocess, sys, time
rank, run = int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
children = [subprocess.Popen(["sleep", "70"], start_new_session=new) for new in (False, True)]
def save(*_):
    time.sleep(1)
    print("saved", rank, run, "children", *(c.poll() for c in children), flush=True)
    for child in children:
        child.kill()
    sys.exit(85 if rank == 0 else 0)
signal.signal(signal.SIGUSR1, save)
print("start", rank, run, os.environ["PYTHONSAFEPATH"], flush=True)
if run == 0:
    time.sleep(60)
print("end", rank, run, flush=True)
for child in children:
    child.kill()
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "saves.py"
    path.write_text(SAVES)
    return [sys.executable, str(path)]


def test_script_and_submitit_save_and_go_on_alike(
    slurm_cluster: Cluster, program: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm_cluster.env.get("SLURM_CONF", ""))
    monkeypatch.chdir(tmp_path)
    cfg = RunConfig(cluster=ClusterConfig(kind="slurm", nodes=2, time_min=5), run_dir=str(tmp_path / "run"))
    script = tmp_path / "job.sh"
    script.write_text(render(cfg.cluster, program, job_name="k15-test", log_dir=tmp_path))
    jobs = [slurm_cluster.sbatch(script), submit_argv(cfg, program, "slurm").job_id]
    logs = [[tmp_path / f"k15-test-{jobs[0]}.out"], []]
    logs[1] = [tmp_path / "run" / "logs" / "launch" / f"{jobs[1]}_{task}_log.out" for task in (0, 1)]

    def lines(which: int) -> list[str]:
        found = [line for path in logs[which] if path.exists() for line in path.read_text().splitlines()]
        return sorted(line for line in found if line.startswith(("start", "saved", "end")))

    for which in (0, 1):
        wait_for(lambda w=which: len(lines(w)) == 2, 60, f"the start of job {jobs[which]}")
    assert status(jobs[0]).state.startswith("RUNNING")
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", jobs[0])  # as --signal=B:USR1 does
    slurm_cluster.run("scancel", "--signal=USR2", jobs[1])  # as submitit's --signal=USR2 does
    for which, job in enumerate(jobs):
        slurm_cluster.wait_job(job, "COMPLETED", timeout=90)
        begun = ["start 0 0 1", "start 0 1 1", "start 1 0 1", "start 1 1 1"]
        assert [line for line in lines(which) if line.startswith("start")] == begun
        # submitit tells the head node alone, whose command ends the other nodes' part
        saved = [f"saved {rank} 0 children None None" for rank in ((0, 1) if which == 0 else (0,))]
        assert [line for line in lines(which) if line.startswith("saved")] == saved
        assert not {"end 0 0", "end 1 0"} & set(lines(which))
        assert {"end 0 1", "end 1 1"} <= set(lines(which))
        assert "COMPLETED" in details(status(job))


def test_a_failure_is_a_failed_job_and_is_not_run_again(
    slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm_cluster.env.get("SLURM_CONF", ""))
    argv = [sys.executable, "-c", "import os, sys; sys.exit(3 if os.environ['SLURM_PROCID'] == '1' else 0)"]
    cfg = RunConfig(cluster=ClusterConfig(nodes=2, time_min=5), run_dir=str(tmp_path / "run"))
    never = replace(cfg, cluster=ClusterConfig(time_min=5, requeue=False))
    scripts = [tmp_path / "job.sh", tmp_path / "never.sh"]
    scripts[0].write_text(render(cfg.cluster, argv, job_name="fails", log_dir=tmp_path))
    saved = [sys.executable, "-c", "import sys; sys.exit(85)"]
    scripts[1].write_text(render(never.cluster, saved, job_name="never", log_dir=tmp_path))
    jobs = [
        *map(slurm_cluster.sbatch, scripts),
        *(submit_argv(c, a, "slurm").job_id for c, a in ((cfg, argv), (never, saved))),
    ]
    ends = [slurm_cluster.wait_job(job) for job in jobs]
    assert [(end["JobState"], end["Restarts"]) for end in ends] == [("FAILED", "0")] * 4
    assert [ends[0]["ExitCode"], ends[1]["ExitCode"]] == ["3:0", "85:0"]
    assert status(jobs[0]).state == "FAILED (exit 3:0)"


def test_rl_sbatch_runs_k15_from_any_folder(slurm_cluster: Cluster, tmp_path: Path) -> None:
    env = {"K15_VENV": sys.prefix, "K15_SETUP": "echo hook ran"}
    cluster = replace(slurm_cluster, env={**slurm_cluster.env, **env})
    start = time.monotonic()
    options = ["--nodes=2", f"--chdir={tmp_path}", "--output=log"]
    job = cluster.sbatch(ROOT / "slurm" / "rl.sbatch", *options, words=["name=mine", "dry_run=true"])
    end = cluster.wait_job(job, timeout=120)
    log = (tmp_path / "log").read_text()
    assert end["JobState"] == "COMPLETED", log
    assert log.startswith("hook ran") and log.count("name: mine") == 2 and time.monotonic() - start < 120


def test_dry_run_prints_a_script_that_slurm_takes(slurm_cluster: Cluster, tmp_path: Path) -> None:
    cfg = RunConfig(name="seen", cluster=ClusterConfig(nodes=2, gpus_per_node=2, mem_gb=1.5, setup=["export SEEN=1"]))
    script = tmp_path / "job.sh"
    script.write_text(dry_run(cfg, "rl", ["name=with space"]))
    assert f"k15_job {sys.executable} -m k15 rl 'name=with space'" in script.read_text()
    slurm_cluster.run("sbatch", "--test-only", script)
    job = slurm_cluster.job(slurm_cluster.sbatch(script, "--hold", f"--chdir={tmp_path}"))
    slurm_cluster.run("scancel", job["JobId"])
    assert (job["JobName"], job["NumNodes"], job["TimeLimit"], job["Requeue"]) == ("k15-seen", "2-2", "01:00:00", "1")
    assert job["MinMemoryNode"] == "1.50G" and job["TresPerNode"] == "gres:gpu:2"


def test_local_executor_runs_the_same_command(tmp_path: Path) -> None:
    cfg = RunConfig(run_dir=str(tmp_path), cluster=ClusterConfig(kind="local", time_min=2, setup=["export SEEN=1"]))
    code = "import os; print(os.environ['SEEN'], os.environ['PYTHONSAFEPATH'], 'SLURM_JOB_ID' in os.environ)"
    job = submit_argv(cfg, [sys.executable, "-c", code], "local")
    assert job.result() == 0 and f"1 1 {'SLURM_JOB_ID' in os.environ}" in job.stdout().splitlines()
