"""`cluster.rollout_nodes`: the script that it makes, and what is refused before anything is submitted."""

import re
from pathlib import Path

import pytest

from k15.cli import check_points
from k15.config.check import check
from k15.config.compose import compose_run
from k15.errors import ClusterError, ConfigError
from k15.launch.hetjob import check_slurm
from k15.launch.pipeline import stages, submit
from k15.launch.sbatch import render

NODES = "cluster.rollout_nodes=2"
CHAIN = """\
stages:
  - {name: rl, command: rl}
  - {name: eval, command: eval, settings: ["model.path={rl}/hf", tasks=arithmetic]}
"""
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


def test_nodes_for_rollout_in_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for a stage without rollouts, also one that no more can be known of yet, and by a Slurm that cannot."""
    (tmp_path / "chain.yaml").write_text(CHAIN)
    _answers(tmp_path, "sched/builtin", "24.05.3")
    for name in ("sinfo", "sbatch"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/{name}-called\necho 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = [f"{tmp_path}/chain.yaml", f"run_dir={tmp_path}/chain", "all.cluster.kind=slurm"]
    with pytest.raises(ConfigError, match="stage eval: cluster.rollout_nodes=2.*no rollouts"):
        stages([*words, f"eval.{NODES}"])
    with pytest.raises(ClusterError, match="sched/builtin"):
        submit(stages([*words, f"rl.{NODES}"]))
    assert not (tmp_path / "sbatch-called").exists() and not (tmp_path / "chain").exists()


@pytest.mark.parametrize(
    ("scheduler", "version", "said"),
    [
        ("sched/builtin", "24.05.3", "sched/builtin.*k15 scale"),
        ("sched/backfill", "19.05.1", "19.05"),
        ("sched/backfill", "25.05.0", None),
    ],
)
def test_a_slurm_that_cannot(scheduler: str, version: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(tmp_path, scheduler, version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if said is None:
        check_slurm()
        return
    with pytest.raises(ClusterError, match=said):
        check_slurm()


def _answers(folder: Path, scheduler: str, version: str) -> None:
    """A scontrol in `folder` that shows this configuration."""
    (folder / "config").write_text(CONFIG.format(scheduler=scheduler, version=version))
    (folder / "scontrol").write_text(f"#!/bin/sh\ncat {folder}/config\n")
    (folder / "scontrol").chmod(0o755)
