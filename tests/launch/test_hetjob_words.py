"""`cluster.rollout_nodes`: the script that it makes, and what is refused before anything is submitted."""

import re
from pathlib import Path

import pytest

from k15.cli import check_points
from k15.config.check import check
from k15.config.compose import compose_run
from k15.errors import ClusterError, ConfigError
from k15.launch.hetjob import check_slurm
from k15.launch.sbatch import render

NODES = "cluster.rollout_nodes=2"
CONFIG = "SchedulerType           = {scheduler}\nSLURM_VERSION           = {version}\n"


def test_the_second_part_has_its_own_nodes_and_the_first_the_log_and_the_signal() -> None:
    words = [NODES, "cluster.nodes=3", "cluster.gpus_per_node=8", "cluster.rollout_gpus_per_node=4", "cluster.partition=big",
             "cluster.rollout_partition=small", "cluster.time_min=90"]  # fmt: skip
    text = render(compose_run(words).cluster, ["k15"], job_name="j", log_dir=Path("/logs"))
    first, second = (dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", part, re.M)) for part in text.split("#SBATCH hetjob\n"))
    assert (first["nodes"], first["gres"], first["partition"]) == ("3", "gpu:8", "big")
    assert (second["nodes"], second["gres"], second["partition"]) == ("2", "gpu:4", "small")
    assert first["time"] == second["time"] == "90" and {"output", "signal"} <= first.keys() - second.keys()
    assert "hetjob" not in render(compose_run([]).cluster, ["k15"], job_name="j", log_dir=Path("/logs")).split("\n\n")[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster.rollout_nodes=-1"], "rollout_nodes is -1.*at least 0"),
        (["cluster.rollout_partition=small"], "without cluster.rollout_nodes"),
        ([NODES, "cluster.rollout_gpus_per_node=1", "cluster.gpus_per_node=8", "rollout.engines_per_node=2"], "need 2 GPUs"),
        ([NODES, "cluster.rollout_gpus_per_node=4"], "the nodes that train have no GPU"),
        ([NODES, "weights.transport=mpi"], "MPI"),
    ],
)
def test_settings_that_cannot_be(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(compose_run(words))


@pytest.mark.parametrize(
    ("command", "words", "multirun", "submitted", "said"),
    [
        ("sft", ["experiment=sft_tiny"], False, True, "no rollouts"),
        ("rl", ["seed=0,1"], True, True, "job array.*k15 scale"),
        ("rl", [], False, False, "this machine has no other nodes.*k15 launch rl"),
    ],
)
def test_where_no_nodes_would_come(
    command: str, words: list[str], multirun: bool, submitted: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_HET_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=said):
        check_points(command, [NODES, *words], multirun=multirun, submitted=submitted)


@pytest.mark.parametrize(
    ("scheduler", "version", "said"),
    [
        ("sched/builtin", "24.05.3", "sched/builtin.*k15 scale"),
        ("sched/backfill", "19.05.1", "19.05"),
        ("sched/backfill", "25.05.0", None),
    ],
)
def test_a_slurm_that_cannot(scheduler: str, version: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(CONFIG.format(scheduler=scheduler, version=version))
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\ncat {tmp_path}/config\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if said is None:
        check_slurm()
        return
    with pytest.raises(ClusterError, match=said):
        check_slurm()
