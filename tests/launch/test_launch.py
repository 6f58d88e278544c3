"""launch without Slurm: doctor against programs on a PATH, status of run folders, errors."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k15.config.schema import ClusterConfig, RunConfig
from k15.errors import ConfigError, DataError
from k15.launch import cli
from k15.launch.status import main as status_main
from k15.launch.status import status
from k15.launch.submit import submit

PROGRAMS = {
    "nvidia-smi": "echo 'NVIDIA H200, 143771 MiB, 570.1'; echo 'NVIDIA H200, 143771 MiB, 570.1'",
    "sinfo": '[ "$1" = --version ] && echo slurm 24.05.1 || echo "16 gpu* gpu:8"',
    "etcd": "echo etcd Version: 3.5.0; echo more",
    "crun": "exit 1",
}


def _doctor(path: Path) -> tuple[dict[str, str], int, float]:
    """Lines by name, exit code and seconds of `k15 doctor` with nothing but `path` to find programs in."""
    code = (
        "import sys; from k15.launch.doctor import main; code = main([]);"
        "assert not {'torch', 'vllm', 'transformers', 'megatron'} & set(sys.modules); sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": str(path)}, capture_output=True, text=True)
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
    assert code == 0 and seconds < 10


def test_doctor_names_what_is_missing_and_fails_for_what_is_required(tmp_path: Path) -> None:
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    lines, code, _ = _doctor(tmp_path)
    assert "no controller answers" in lines["Slurm"]
    if not Path(sys.prefix, "bin", "etcd").is_file():
        assert lines["etcd"].startswith("MISSING") and code == 1


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
        assert (one.job, one.iteration, one.iterations, one.state) == ("4711", 2, 30, "not in the queue")
        assert one.metrics["accuracy"] == 0.2
    assert status_main([]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "job", "state", "iteration", "accuracy", "log"]
    assert row.split()[-3:-1] == ["2/30", "0.2"]
    with pytest.raises(DataError, match="neither a run folder"):
        status("4712")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a command"),
        (["lr"], "'lr', which is not known. Allowed: rl"),
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
