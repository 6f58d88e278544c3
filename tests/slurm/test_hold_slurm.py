"""A run folder on a file system that keeps locks to one node: who has it is known by the Slurm job."""

import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

from k15.errors import ConfigError
from k15.node.rendezvous import JobIdentity
from k15.runs.hold import held

pytestmark = pytest.mark.slurm
# The lock goes with the process, the job stays: what a start on another node sees where locks do not reach it.
HOLDS = """
import os, sys, time
from pathlib import Path
from k15.node.rendezvous import JobIdentity
from k15.runs.hold import held
with held(Path(sys.argv[1]), JobIdentity.from_environment()):
    os._exit(0)
"""


def test_a_job_that_runs_on_another_node_has_the_folder(
    slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not slurm_cluster.owned:
        pytest.skip("on the machine's own Slurm the job may be on this node, where locks do reach")
    monkeypatch.setenv("SLURM_CONF", slurm_cluster.env.get("SLURM_CONF", ""))
    (tmp_path / "holds.py").write_text(HOLDS)
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\nsrun {sys.executable} {tmp_path}/holds.py {tmp_path}/run && touch {tmp_path}/held; sleep 300\n"
    )
    job = slurm_cluster.sbatch(script, "-N1", f"--output={tmp_path / 'log'}")
    wait_for((tmp_path / "held").exists, 60, "the job's hold")
    for other in (JobIdentity(f"{job}0", 0, 1, 0), JobIdentity("local-7", 0, 1, 0)):
        with pytest.raises(ConfigError, match=rf"in use by job {job} on .*scancel {job}"):
            with held(tmp_path / "run", other, patience_s=0):
                pass
    slurm_cluster.run("scancel", job)
    with held(tmp_path / "run", JobIdentity(f"{job}0", 0, 1, 0), patience_s=60):
        assert slurm_cluster.job(job)["JobState"] == "CANCELLED"
