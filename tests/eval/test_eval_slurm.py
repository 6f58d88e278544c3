"""slurm/eval.sbatch as a real job, from any folder: the words after it are settings of `k15 eval`."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster

from k15.config.schema import TinyModelConfig
from k15.data.tiny import write_tiny_model

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]


def test_eval_sbatch_checks_and_runs_k15_eval(slurm_cluster: Cluster, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    cluster = replace(slurm_cluster, env={**slurm_cluster.env, "K15_VENV": sys.prefix})
    words = ["tasks=arithmetic", "limit=4", "sampling.samples=2", "sampling.temperature=1", f"model.path={model}", "dry_run=true"]
    job = cluster.sbatch(ROOT / "slurm" / "eval.sbatch", f"--chdir={tmp_path}", "--output=log", words=words)
    end = cluster.wait_job(job, timeout=120)
    log = (tmp_path / "log").read_text()
    assert end["JobState"] == "COMPLETED" and end["JobName"] == "k15-eval", log
    assert "# arithmetic: 4 problems x 2 answers" in log
