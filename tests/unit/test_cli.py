"""The words after `k15`: what is a setting, what is for Hydra, and one line for each wrong word."""

import errno
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from k15.cli import main
from k15.config.compose import compose_as, compose_run, to_yaml
from k15.config.curate import CurateConfig
from k15.config.sft import SftConfig
from k15.errors import TRACE, ConfigError, system_error
from k15.launch.local import adopt
from k15.runs import curate
from k15.runs.entry import enter
from k15.runs.sft import run

HINTS = {
    "experiment=arithmetik": ["experiment=arithmetik", "Did you mean 'arithmetic'?"],
    "model=qwen": ["model=qwen", "Allowed: hf, tiny"],
    "iterations=2": ["Did you mean 'algo.iterations'?"],
    "tempereture=2": ["Did you mean 'rollout.temperature'?"],
    "algo.temperature=2": ["Did you mean 'rollout.temperature'?"],
    "length.weight=1": ["Did you mean 'reward.length.weight'?"],
    "experiment=arithmetic alog.tau=1": ["alog.tau: the key is 'alog'", "Did you mean 'algo.tau'?"],
    "experiment=arithmetic samplers.n=4": ["samplers.n: the key is 'samplers'"],
    "experiment=arithmetic algo={tua:1}": ["Key 'tua'"],
    "kind=slurm": ["'data.kind'", "'cluster.kind'"],
    "+algo.foo=1": ["algo.foo", "Allowed: baseline"],
    "+foo=1": ["foo", "Allowed: algo"],
    "algo.tau=0.03,0.1": ["algo.tau=0.03,0.1: a list of values needs --multirun"],
    "rl.yaml": ["'rl.yaml'", "name=value"],
    "cluster=slurm": ["k15 launch rl", "sbatch slurm/rl.sbatch"],
    "-m algo.tau=0.1": ["several values"],
    "-m": ["several values"],
    "-m algo.tau=0.1,0.2 job": ["'job'", "name=value"],
    "-m experiment=x,arithmetic": ["experiment=x", "Allowed: arithmetic"],
    "algo.iterations=ten": ["algo.iterations is 'ten'", "a whole number", "algo.iterations=30"],
    "dry_run=maybe": ["dry_run is 'maybe'", "true or false"],
    "algo.iterations=null": ["algo.iterations is null", "algo.iterations=30"],
    "algo.tua=1 --cfg job": ["algo.tua", "Did you mean 'tau'?"],
    "algo.lr=fast --cfg job": ["algo.lr is 'fast'", "a number"],
    "reward.template=boxed{ANSWER}": ["the shell has taken the backslash", "'reward.template=\\boxed{ANSWER}'"],
    "run_dir=": ["run_dir is ''", "names no folder"],
    "run_dir=${oc.env:HOME}/x name=a/b": ["name is 'a/b'", "Allowed"],
    "name=": ["name is ''", "Allowed"],
    "data.train_size=1000000000000": ["data.train_size is 1000000000000", "at most 1000000"],
    "cluster.device=cuda cluster=local": ["cluster.device is cuda", "shows no GPU"],
    "algo.kernels=triton": ["algo.kernels is triton", "auto or torch"],
    "-m hydra/launcher=submitit_slurm hydra.launcher.nodes=two algo.tau=0.1,0.2": [
        "hydra.launcher.nodes is 'two'",
        "whole number",
    ],
    "-m parallel.tensor=2 algo.tau=0.1,0.2 cluster.nodes=2": ["1 nodes"],  # Hydra's own launcher runs the points here
    "-m parallel.tensor=2 algo.tau=0.1,0.2 hydra/launcher=submitit_slurm hydra.launcher.nodes=3": ["3 nodes"],
    "-m parallel.tensor=2 algo.tau=0.1,0.2 hydra/launcher=slurm cluster.nodes=3": ["3 nodes"],
    "-m algo.tau=0.1,0.2 hydra/launcher=slurm hydra.launcher.array_parallelism=0": ["array_parallelism is '0'", "at least 1"],
    "-m cluster.nodes=1,2 hydra/launcher=slurm": ["cluster.*", "one job array"],
    "-m algo.tau=0.1,0.2 run_dir=here": ["run_dir is here", "hydra.sweep.dir"],
    "-m algo.tau=0.03,0.1 --cfg job": ["Only one of", "--multirun, --cfg"],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no Slurm, and nothing that says that this is a job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["k15"])
    for name in [n for n in os.environ if n.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("words", HINTS)
def test_each_wrong_word_is_one_line(words: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["rl", *words.split()]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1, said
    assert all(hint in said.err for hint in HINTS[words]), said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["launch", "rl", "foo"], ["launch", "rl", "--fast"], ["doctor", "foo"], ["status", "--all"]])
def test_plain_commands_refuse_words_that_they_do_not_know(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    assert words[-1] in capsys.readouterr().err


@pytest.mark.parametrize("words", [["launch"], ["launch", "rl"], ["status"], ["doctor"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_a_usage_text(words: list[str], flag: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*words, flag]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"usage: k15 {words[0]}") and not said.err


@pytest.mark.parametrize("template", ["\\boxed{ANSWER}", "#ANSWER", "<answer>ANSWER</answer>", "it's ANSWER", "'#ANSWER'"])
def test_a_template_needs_no_quotes_but_the_shell_s(template: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["rl", f"reward.template={template}", "--cfg", "job"]) == 0
    assert OmegaConf.create(capsys.readouterr().out).reward.template == template.strip("'")


def test_a_run_folder_with_other_settings_is_refused_where_the_job_is_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "00005-iteration-00005").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(compose_run([])))
    words = ["launch", "rl", f"run_dir={run}", "cluster=local", "--dry-run"]
    assert main([*words, "algo.tau=0.3"]) == 2
    assert "algo.tau" in capsys.readouterr().err
    assert main([*words, "algo.iterations=99"]) == 0, "more iterations are the same run, longer"


def test_a_finished_fine_tuning_with_other_settings_is_refused_not_called_done(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["experiment=sft_tiny", f"run_dir={tmp_path / 'run'}", "cluster=local", "cluster.device=cpu"]
    done = tmp_path / "run" / "checkpoints" / "00000-iteration-00005"
    done.mkdir(parents=True)
    (done / "controller.json").write_text('{"iteration": 5, "iterations": 5}')
    (tmp_path / "run" / "hf").mkdir()
    (tmp_path / "run" / "hf" / "config.json").write_text("{}")
    cfg = compose_as(SftConfig, "sft", words)
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(cfg))
    for command in (["sft"], ["launch", "sft"]):  # where it runs, and where it is submitted
        assert main([*command, *words, "data.arithmetic=99"]) == 2
        assert "other settings (data.arithmetic)" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        run(compose_as(SftConfig, "sft", [*words, "seed=1"]))
    assert run(cfg) == 0 and "is finished" in capsys.readouterr().out


def test_triton_without_a_gpu_is_refused_in_fine_tuning_too(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["sft", "experiment=sft_tiny", "cluster=local", "fit.kernels=triton"]) == 2
    assert "fit.kernels is triton" in capsys.readouterr().err


def test_the_script_of_a_dry_run_logs_to_a_folder_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in (tmp_path, tmp_path / "runs" / "slurm"):
        folder.mkdir(parents=True, exist_ok=True)
        assert main(["launch", "rl", "--dry-run"]) == 0
        assert f"--output={folder}/%x-%j.out" in capsys.readouterr().out.replace("'", "")
    assert main(["launch", "rl", "cluster=local", "cluster.nodes=3", "--dry-run"]) == 2
    assert "this machine only" in capsys.readouterr().err


def test_flags_that_ask_are_answered_by_hydra(capsys: pytest.CaptureFixture) -> None:
    assert main(["rl", "algo.tau=-3", "--cfg", "job"]) == 0
    assert "tau: -3" in capsys.readouterr().out


def test_slurm_settings_are_checked_outside_a_job_with_dry_run(capsys: pytest.CaptureFixture) -> None:
    assert main(["rl", "cluster=slurm", "dry_run=true"]) == 0
    assert "kind: slurm" in capsys.readouterr().out


SINFO = '#!/bin/sh\n[ "$SLURM_CONF" = "{answers}" ]\n'


@pytest.mark.parametrize("case", ["found", "set already", "another answers", "none answers", "link", "no sinfo"])
def test_a_cluster_in_a_box_is_used_only_if_it_alone_answers(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    conf = tmp_path / "box" / "slurm.conf"
    conf.parent.mkdir()
    conf.write_text("")
    if case == "link":
        conf.rename(tmp_path / "other.conf")
        conf.symlink_to(tmp_path / "other.conf")
    monkeypatch.setenv("K15_LOCAL_SLURM_DIR", str(conf.parent))
    if case == "set already":
        monkeypatch.setenv("SLURM_CONF", "/mine")
    if case != "no sinfo":
        program = tmp_path / "sinfo"
        program.write_text(SINFO.format(answers={"another answers": "", "none answers": "never"}.get(case, conf)))
        program.chmod(0o755)
    environment = dict(os.environ)
    monkeypatch.setattr(os, "environ", environment)  # adopt() writes to it
    before = environment.get("SLURM_CONF")
    assert adopt() == (conf if case == "found" else None)
    assert environment.get("SLURM_CONF") == (str(conf) if case == "found" else before)
    assert capsys.readouterr().err.count(f"export SLURM_CONF={conf}") == (case == "found")


def test_an_error_of_the_system_is_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where words are checked, and within Hydra's main."""
    words = [f"sources=[{'a' * 300}]", f"run_dir={tmp_path}"]
    config = OmegaConf.structured(compose_as(CurateConfig, "curate", words))
    assert main(["curate", *words]) == 1
    with pytest.raises(SystemExit, match="1"):
        enter("curate", config, curate.run)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("k15 curate: aaa" in line and "File name too long." in line for line in lines), lines
    monkeypatch.setenv(TRACE, "1")
    with pytest.raises(OSError, match="too long"):
        main(["curate", *words])
    with pytest.raises(OSError, match="too long"):
        enter("curate", config, curate.run)


def test_an_error_of_the_system_names_path_reason_and_remedy() -> None:
    assert "out/x: No space left on device. Make room" in str(
        system_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/x"))
    )
    assert system_error(TimeoutError("not of a file")) is None
