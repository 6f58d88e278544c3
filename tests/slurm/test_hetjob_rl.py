"""One heterogeneous job on a real Slurm: its first node trains, its second only samples, and both end with the run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

from k15.log import read_metrics

pytestmark = [pytest.mark.slurm, pytest.mark.vllm, pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = [
    "cluster.kind=slurm", "cluster.rollout_nodes=1", "cluster.time_min=15", "name=het", "run_dir=run", "warmup.steps=10",
    "algo.iterations=2", "algo.prompts_per_iteration=8", "algo.samples_per_prompt=4", "eval.size=4", "eval.every=100",
    "save.every=100", "data.train_size=100", "rollout.max_response_tokens=48", "rollout.budget_tokens=48",
]  # fmt: skip


def test_the_second_part_samples_for_the_first_and_leaves_with_it(slurm_cluster: Cluster, tmp_path: Path) -> None:
    def k15(*words: str) -> str:
        done = subprocess.run([sys.executable, "-P", "-m", "k15", *words], env=slurm_cluster.env, cwd=tmp_path, text=True,
                              capture_output=True, timeout=180)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "on 1 node(s) and 1 for rollout only" in k15("launch", "rl", *SETTINGS)
    record = json.loads((tmp_path / "run" / "job.json").read_text())
    job, log = record["job_id"], Path(record["log"])

    def seen(text: str) -> bool:
        state = slurm_cluster.job(f"{job}+0")["JobState"]
        said = log.read_text() if log.exists() else ""
        assert state in ("PENDING", "CONFIGURING", "RUNNING"), f"{state} before {text!r}:\n{said[-4000:]}"
        return text in said

    wait_for(lambda: seen("warm-up step 1/"), 400, "the trainer and the first node's engine")
    # The trainer stands still until the other node is ready, which is then taken in at the first hand-off.
    inside = ["srun", f"--jobid={job}", "--overlap", "--het-group=0", "--ntasks=1", "bash", "-c"]
    pid = slurm_cluster.run(*inside, "pgrep -f [k]15.runs.trainer_rank").strip()
    slurm_cluster.run(*inside, f"kill -STOP {pid}")
    try:
        wait_for(lambda: seen("is ready: it takes part"), 400, "the second node's engine")
    finally:
        slurm_cluster.run(*inside, f"kill -CONT {pid}")
    end = slurm_cluster.wait_job(f"{job}+0", timeout=300)
    assert end["JobState"] == "COMPLETED", log.read_text()[-4000:]
    other = slurm_cluster.wait_job(f"{job}+1", timeout=30)
    assert (other["HetJobId"], other["JobState"]) == (job, "COMPLETED") and other["NodeList"] != end["NodeList"]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(r["iteration"], r["engines"], r["rollout_engines"]) for r in rows[1:]] == [(1, 2, 2), (2, 2, 2)]
    assert max(r["canary_mean_abs"] for r in rows) < 1e-4
    assert "were ended with the run" not in log.read_text()
    assert "state      finished" in k15("status", "run")
