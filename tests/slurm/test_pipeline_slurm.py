"""`k15 launch pipeline` as jobs: a stage that fails stops the chain, says so, and a second call goes on from there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

from k15.config.compose import compose_run
from k15.config.words import quoted
from k15.errors import ConfigError
from k15.launch.pipeline import stages

CHAIN = """\
stages:
  - {name: one, command: curate, settings: ["sources=[rows.jsonl]", store=first]}
  - {name: two, command: curate, settings: ["sources=[later.jsonl]", "store={one}/store"]}
  - {name: three, command: curate, settings: ["sources=[rows.jsonl]", "store={two}/store"]}
"""
ROW = json.dumps({"prompt": "How many primes are below 10?", "answer": "4"}) + "\n"


@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_a_failed_stage_stops_the_chain_and_a_second_call_goes_on(slurm_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "later.jsonl").write_text('{"prompt": "no answer"}\n')

    def k15(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "k15", *words], env=slurm_cluster.env, cwd=tmp_path, text=True,
                              capture_output=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs() -> dict[str, str]:
        names = ("one", "two", "three")
        return {name: json.loads((tmp_path / "chain" / name / "job.json").read_text())["job_id"] for name in names}

    words = ["launch", "pipeline", "chain.yaml", "run_dir=chain", "all.cluster.time_min=5"]
    scripts = k15(*words, "--dry-run")
    assert scripts.count("#!/bin/bash") == 3 and "--dependency=afterok:JOB_OF_two" in scripts
    assert not (tmp_path / "chain").exists()

    k15(*words, "one.cluster.setup=[sleep 60]")
    killed, log = jobs()["one"], tmp_path / "chain" / "pipeline.log"
    slurm_cluster.wait_job(killed, "RUNNING", timeout=60)
    slurm_cluster.run("scancel", killed)
    ended = f"k15: stage one (job {killed}) did not end well: CANCELLED (exit 0:15); the chain stops: two, three not started\n"
    wait_for(lambda: log.exists() and log.read_text() == ended, 90, "the chain's last job")

    k15(*words)
    first = jobs()
    assert slurm_cluster.wait_job(first["one"], timeout=90)["JobState"] == "COMPLETED"
    assert slurm_cluster.wait_job(first["two"], timeout=90)["JobState"] == "FAILED"
    assert slurm_cluster.wait_job(first["three"], timeout=60)["JobState"] == "CANCELLED"
    assert log.read_text() == (
        f"{ended}k15: stage two (job {first['two']}) failed with exit code 2; the chain stops: three not started\n"
    )
    assert "state      not started: stage two before it: FAILED (exit 2:0)" in k15("status", "chain/three")
    assert "state      finished" in k15("status", "chain/one")

    (tmp_path / "later.jsonl").write_text(ROW)
    k15(*words)
    second = jobs()
    assert second["one"] == first["one"] and second["two"] != first["two"]
    wait_for(lambda: (tmp_path / "chain" / "three" / "point.json").exists(), 120, "the end of the chain")
    slurm_cluster.wait_job(second["three"], "COMPLETED", timeout=60)
    assert (tmp_path / "chain" / "two" / "store" / "v1").is_dir()
    assert "every stage has succeeded" in k15(*words) and jobs() == second


WRONG = {
    "stages: []": "no list `stages`",
    "stages: [{name: a}]": "must have name and command",
    "stages: [{name: a, command: train}]": "'train', which is not known. Allowed: .*curate",
    "stages: [{name: all, command: rl}]": "the name of stage 1 is 'all'",
    "stages: [{name: a, command: rl}, {name: a, command: rl}]": "the name of stage 2 is 'a'",
    'stages: [{name: a, command: rl, settings: ["model.path={b}/hf"]}, {name: b, command: rl}]': "'b', which is not known",
    "stages: [{name: a, command: rl, settings: [algo.tua=1]}]": "stage a: algo.tua",
    "stages: [{name: a, command: rl, settings: [run_dir=x]}]": "run_dir=x cannot be set",
    "stages: [{name: a, command: rl, settings: [cluster=local]}]": "a chain needs Slurm",
    "stages: [{name: a, command: rl, settings: [{tau: 1}]}]": "must be texts",
    "stages: {": "cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_before_anything_is_submitted(text: str, tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]):
        stages([str(tmp_path / "chain.yaml")])


def test_braces_of_a_template_are_no_stage(tmp_path: Path) -> None:
    typed = "reward.template=\\boxed{ANSWER}"
    (tmp_path / "chain.yaml").write_text(f"stages: [{{name: a, command: rl, settings: ['{typed}']}}]")
    (stage,) = stages([str(tmp_path / "chain.yaml")])
    assert compose_run(quoted(stage.settings)).reward.template == "\\boxed{ANSWER}"


def test_the_default_chain_and_words_for_its_stages() -> None:
    chain = stages(["rl.algo.tau=0.2", "all.seed=3", "run_dir=here"])
    assert [(s.name, s.open) for s in chain] == [("sft", True), ("rl", False), ("long2short", False), ("eval", False)]
    assert "algo.tau=0.2" in chain[1].settings and "algo.tau=0.2" not in chain[2].settings
    assert all("seed=3" in s.settings for s in chain)
    assert f"model.path={Path('here/sft').absolute()}/hf" in chain[1].settings
    for words, message in ((["rx.algo.tau=1"], "'rx'"), (["--fast"], "not --fast"), (["a.yaml", "b.yaml"], "takes one file")):
        with pytest.raises(ConfigError, match=message):
            stages(words)
