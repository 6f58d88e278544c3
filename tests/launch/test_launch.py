"""launch without Slurm: doctor against programs on a PATH, status of run folders, errors."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k15.config.compose import from_yaml
from k15.config.schema import ClusterConfig, RunConfig
from k15.errors import ClusterError, ConfigError, DataError
from k15.launch import cli
from k15.launch.status import all_runs, of_run, status
from k15.launch.status import main as status_main
from k15.launch.submit import submit

PROGRAMS = {
    "nvidia-smi": "echo 'NVIDIA H200, 143771 MiB, 570.1'; echo 'NVIDIA H200, 143771 MiB, 570.1'",
    "sinfo": '[ "$1" = --version ] && echo slurm 24.05.1 || echo "16 gpu* gpu:8"',
    "etcd": "echo etcd Version: 3.5.0; echo more",
    "crun": "exit 1",
}


def _doctor(path: Path, **variables: str) -> tuple[dict[str, str], int, float]:
    """Lines by name, exit code and seconds of `k15 doctor` with nothing but `path` to find programs in."""
    code = (
        "import sys; from k15.launch.doctor import main; code = main([]);"
        "assert not {'torch', 'vllm', 'transformers', 'megatron'} & set(sys.modules); sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": str(path)} | variables, capture_output=True, text=True)
    assert done.stderr == ""
    lines = {line[8:].split("  ")[0].strip(): line for line in done.stdout.splitlines() if not line.startswith("        ")}
    return lines, done.returncode, time.monotonic() - start


def test_doctor_reports_what_the_programs_say(tmp_path: Path) -> None:
    for name, body in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    lines, code, seconds = _doctor(tmp_path)
    assert lines["GPUs"].startswith("ok") and "2 x NVIDIA H200, 143771 MiB" in lines["GPUs"]
    assert lines["Slurm"].startswith("ok") and "slurm 24.05.1: gpu* 16 nodes gpu:8" in lines["Slurm"]
    assert lines["etcd"].endswith("etcd Version: 3.5.0")
    assert lines["sandbox: crun"].startswith("-  ")  # it is there, but does not run
    assert lines["torch"].startswith("ok")
    assert "algo.kernels=auto takes" in lines["loss kernels"]
    assert lines["repetition check"].endswith("k15's, in the engine's scheduler")
    assert code == 0 and seconds < 10


def test_doctor_names_what_is_missing_and_fails_for_what_is_required(tmp_path: Path) -> None:
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    lines, code, _ = _doctor(tmp_path)
    assert "no controller answers" in lines["Slurm"]
    if not Path(sys.prefix, "bin", "etcd").is_file():
        assert lines["etcd"].startswith("MISSING") and code == 1


@pytest.mark.parametrize(
    ("body", "mark", "detail"),
    [
        ("def flash_attn_varlen_func(): ...", "ok", "flash-attn 9.9"),
        ("raise ImportError('so: undefined symbol: _Zx')", "-", "but does not import: ImportError: so: undefined symbol: _Zx"),
        ("", "-", "but does not import: ImportError: cannot import name 'flash_attn_varlen_func'"),
    ],
    ids=["imports", "another torch", "another release"],
)
def test_doctor_imports_what_was_built_for_one_torch(tmp_path: Path, body: str, mark: str, detail: str) -> None:
    """Packages that are installed are not ok for that alone; flash-attn-3 is nothing that the trainer uses."""
    for name, code in (("flash_attn", body), ("flash_attn_interface", ""), ("transformer_engine", "pytorch = None")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    for name, release in (("flash-attn", "9.9"), ("flash-attn-3", "3.0"), ("transformer-engine", "2.9")):
        info = tmp_path / f"{name.replace('-', '_')}-{release}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    lines, _, _ = _doctor(tmp_path, PYTHONPATH=str(tmp_path))
    assert lines["flash-attn"].startswith(mark) and detail in lines["flash-attn"]
    assert "flash-attn-3" not in lines["flash-attn"]
    assert lines["Transformer Engine"].startswith("- ") and "transformer-engine 2.9 is installed" in lines["Transformer Engine"]
    assert "No module named 'transformer_engine.pytorch'" in lines["Transformer Engine"]


def test_status_finds_runs_by_folder_name_and_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    run = tmp_path / "runs" / "mine-4711"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: mine\nalgo: {iterations: 30}\n")
    rows = [{"iteration": i, "accuracy": i / 10, "tokens_per_s": 1234.5} for i in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"iteration": 3, "accu')
    for target in ("4711", "mine-4711", run):
        one = status(target)
        assert (one.job, one.iteration, one.iterations, one.state) == ("4711", 2, 30, "ended early")
        assert one.metrics["accuracy"] == 0.2
    assert status_main([]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "job", "state", "iteration", "accuracy", "log"]
    assert row.split()[-3:-1] == ["2/30", "0.2"]
    with pytest.raises(DataError, match="neither a run folder"):
        status("4712")


def _point(folder: Path, iteration: int, rendezvous: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("algo: {iterations: 3}\n")
    (folder / "metrics.jsonl").write_text(json.dumps({"iteration": iteration}) + "\n")
    if rendezvous is not None:
        (folder / rendezvous).write_text("{}")
    return folder


def test_status_says_how_a_run_outside_the_queue_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "k15"])
    try:
        _point(tmp_path / "runs" / "done-7", 3)
        _point(tmp_path / "runs" / "here-7", 2, f".job-local-{sleeper.pid}-0.json")
        _point(tmp_path / "runs" / "killed", 2, ".job-local-999999999-0.json")
        _point(tmp_path / "runs" / "apart", 2, ".job-12-0.json")
        _point(tmp_path / "multirun" / "today" / "0", 2)
        states = {one.run.name: (one.job, one.state) for one in map(of_run, all_runs())}
    finally:
        sleeper.kill()
        sleeper.wait()
    assert states == {
        "done-7": ("7", "finished"),
        "here-7": (None, f"running here (process {sleeper.pid})"),
        "killed": (None, "ended early"),
        "apart": ("12", "no Slurm answers; not ended in order"),
        "0": (None, "ended early"),
    }


@pytest.mark.parametrize(
    ("show", "finished", "state"),
    [
        ("echo JobId=9 JobState=RUNNING RunTime=0:01 NodeList=n1", True, "RUNNING 0:01 n1"),
        ("echo JobId=9 JobState=TIMEOUT ExitCode=0:0", False, "TIMEOUT"),
        ("echo JobId=9 JobState=COMPLETED ExitCode=0:0", True, "finished"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False, "ended early"),
    ],
)
def test_status_prefers_the_queue(show: str, finished: bool, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{show}\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert of_run(_point(tmp_path / "run-9", 3 if finished else 2)).state == state


def test_status_lives_with_folders_of_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "reward_model-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("kind: classic\n")
    assert of_run(folder).iteration is None and folder.name in [run.name for run in all_runs()]
    with pytest.raises(ConfigError, match="not one of this command"):
        from_yaml("kind: classic\n")


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"checkpoints/00001-iteration-00227/controller.json": '{"iteration": 227, "iterations": 227}', "hf/config.json": "{}"},
         "finished"),
        ({"checkpoints/00001-iteration-00227/controller.json": '{"iteration": 227, "iterations": 227}'}, "ended early"),
        ({"checkpoints/00001-iteration-00100/controller.json": '{"iteration": 100, "iterations": 227}', "hf/config.json": "{}"},
         "ended early"),
        ({"summary.json": "{}"}, "finished"),
        ({"spot_check.json": "{}"}, "finished"),
        ({"answers.sqlite": ""}, "ended early"),
    ],
)  # fmt: skip
def test_status_knows_the_end_of_commands_without_iterations(
    files: dict[str, str], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    config = tmp_path / "config.yaml"
    config.write_text("stages: {}\nsave: {export_hf: true}\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = of_run(tmp_path)
    assert (found.state, found.iterations) == (state, 227 if "checkpoints" in "".join(files) else None)
    if "summary.json" in files:  # more is asked for, and it began again
        os.utime(config, ns=(config.stat().st_mtime_ns, (tmp_path / "summary.json").stat().st_mtime_ns + 1))
        assert of_run(tmp_path).state == "ended early"


def test_status_names_a_log_that_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    run = _point(Path("runs/mine-9"), 2)
    assert of_run(run).log is None
    better = ["runs/mine-9/logs/engine.log", "runs/mine-9/logs/launch/9_0_log.out", "runs/slurm/k15-rl-9.out"]
    for path in map(Path, better):  # each wins over those before it
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert of_run(run).log == path
    point = _point(Path("multirun/now/0"), 1, ".job-12_0-0.json")
    log = Path("multirun/now/.submitit/12_0/12_0_0_log.out")
    log.parent.mkdir(parents=True)
    log.touch()
    assert of_run(point).log == log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a command"),
        (["lr"], "'lr', which is not known. Allowed: .*rl"),
        (["rl", "--fast"], "not --fast"),
        (["rl", "cluster.nodez=2"], "nodes"),
    ],
)
def test_launch_refuses_before_it_submits(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cli.main(words)


def test_several_nodes_need_slurm() -> None:
    with pytest.raises(ConfigError, match="slurm/local/up"):
        submit(RunConfig(cluster=ClusterConfig(kind="local", nodes=2)), "rl", [])


def test_templates_have_their_names_in_launch(capsys) -> None:
    """A job template that is a command with an experiment, and the sandbox, which is none of the commands with settings."""
    assert cli.named(["pretrain", "a=1"]) == ["sft", "experiment=pretrain", "a=1"]
    assert cli.named(["long2short", "experiment=mine"]) == ["rl", "experiment=mine"]
    assert cli.named(["rl", "a=1"]) == ["rl", "a=1"]
    assert cli.main(["sandbox", "cluster.cpus_per_task=3", "--workers=2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --cpus-per-task=3\n" in said and '"${K15_WORDS[@]}" --workers=2\n' in said
    assert cli.main(["sandbox", "--image", "mine=/images/mine", "--dry-run"]) == 0
    for words, message in (
        (["cluster.nodes=2"], "served on one node"), (["name=x"], "those are cluster"), (["--host=1.2.3.4"], "not to be given"),
        (["cluster.kind=local"], "on Slurm only"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, ClusterError), match=message):
            cli.main(["sandbox", *words])
