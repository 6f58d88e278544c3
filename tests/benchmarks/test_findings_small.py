"""The report's findings from one command, at their small size: real runs of `k15 rl`, tables and figures, and going on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
NAMES = ("accuracy_and_length", "accuracy_by_length", "harder_longer")


def findings(out: Path) -> str:
    words = [sys.executable, "-P", "-m", "benchmarks", "findings", *NAMES, "--small", "--seeds", "0,1", "--out", str(out)]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_one_command_makes_tables_and_figures_and_runs_nothing_twice(tmp_path: Path) -> None:
    said = findings(tmp_path)
    runs = {f"{arm}-{seed}" for arm in ("model", "base") for seed in (0, 1)}
    assert {p.stem for p in (tmp_path / "runs").glob("*.done")} == runs
    for name in NAMES:
        stem = tmp_path / f"findings-{name}"
        assert (stem.with_suffix(".png")).stat().st_size > 10_000 and "Rule: " in stem.with_suffix(".md").read_text()
        result = json.loads(stem.with_suffix(".json").read_text())
        assert result["small"] and set(result["run_seconds"]) == runs
    curves = json.loads((tmp_path / "findings-accuracy_and_length.json").read_text())["curves"]["base"]
    assert [[p["iteration"] for p in seed] for seed in curves] == [[0, 2, 4]] * 2
    assert all(p["length"] > 0 and p["samples"] == 32 * p["iteration"] for seed in curves for p in seed)
    assert curves[0] != curves[1] and "decide nothing" in said
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*.done")}
    findings(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*.done")} == before
