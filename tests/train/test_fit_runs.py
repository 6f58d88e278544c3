"""`k15 sft` and `k15 dpo` as a user runs them: a signal saves, the same words go on where it was, and the export is loadable."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k15.config.compose import compose_as
from k15.config.hf import exported_iteration
from k15.config.schema import DataConfig
from k15.config.sft import SftConfig
from k15.data.store import load_datasets
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.log import read_metrics
from k15.runs.fit import SftTask

pytestmark = [pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(900)]
SFT = ["experiment=sft_tiny", "data.arithmetic=1500", "stages.first.batch_tokens=1200", "stages.second.batch_tokens=2400",
       "eval.every=20", "save.every=1000", "model.tiny.num_layers=2",
       "parallel.ranks_per_node=2", "log.tensorboard=false"]  # fmt: skip


def start(folder: Path, *words: str) -> subprocess.Popen:
    argv = [sys.executable, "-P", "-m", "k15", *words, "cluster=local", f"run_dir={folder}"]
    out = (folder.parent / f"{folder.name}.log").open("ab")
    return subprocess.Popen(argv, stdout=out, stderr=out, cwd=folder.parent)


def log_of(folder: Path) -> str:
    return (folder.parent / f"{folder.name}.log").read_text()[-4000:]


def finish(process: subprocess.Popen, folder: Path, code: int = 0) -> None:
    assert process.wait(timeout=600) == code, log_of(folder)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """The run folder of a supervised run on two ranks that was interrupted once and then finished."""
    run = tmp_path_factory.mktemp("fit") / "sft"
    process, metrics = start(run, "sft", *SFT), run / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and len(metrics.read_text().splitlines()) > 5):
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    finish(process, run, 85)
    assert not (run / "hf").exists()
    assert 5 <= read_metrics(metrics)[-1]["iteration"] < 40
    finish(start(run, "sft", *SFT), run)
    return run


def test_a_run_that_was_interrupted_trains_on_what_an_uninterrupted_one_would(tuned, tmp_path):
    cfg = compose_as(SftConfig, "sft", SFT)
    tokenizer = load_tokenizer(write_tiny_model(tmp_path, cfg.model.tiny, cfg.model.max_context_tokens))
    task = SftTask(cfg, tokenizer)
    rows = read_metrics(tuned / "metrics.jsonl")
    assert [r["iteration"] for r in rows] == list(range(len(task.schedule) + 1))
    for row, number in zip(rows[1:], range(len(task.schedule)), strict=True):
        step = task.schedule[number]
        assert (row["stage"], row["epoch"], row["lr"]) == (step.stage, step.epoch + 1, pytest.approx(step.lr))
        assert row["train_tokens"] == sum(len(s.tokens) for s in task.batch(step))
    assert {r["stage"] for r in rows[1:]} == {"stages.first", "stages.second"}
    evals = [r["eval_loss"] for r in rows if "eval_loss" in r]
    assert len(evals) >= 3 and evals[-1] < 0.6 * evals[0]
    assert (tuned / "hf" / "model.safetensors").is_file() and exported_iteration(tuned / "hf") == len(task.schedule)
    again = start(tuned, "sft", *SFT)
    finish(again, tuned)
    assert "is finished" in log_of(tuned) and len(read_metrics(tuned / "metrics.jsonl")) == len(rows)


def test_preferences_are_learned_from_pairs(tuned, tmp_path):
    """Short answers over long ones: pairs of the tuned model's own kind, its weights as start and reference."""
    train, _ = load_datasets(DataConfig(train_size=200, eval_size=10), 0)
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p.text, "chosen": f"#{p.answer}", "rejected": f"1+1=2,1+1=2#{p.answer}"} for p in train[:150]]
    pairs.write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = tmp_path / "dpo"
    words = ["dpo", f"model.path={tuned / 'hf'}", "model.dtype=float32", "model.chat=false", "model.max_context_tokens=192",
             f"data.paths=[{pairs}]", "data.eval_fraction=0.2", "stage.context_tokens=1024", "stage.batch_tokens=800",
             "stage.lr=1e-3", "stage.final_lr=1e-4", "log.tensorboard=false",
             "parallel.ranks_per_node=2", "parallel.tensor=2"]  # fmt: skip
    finish(start(run, *words), run)
    metrics = read_metrics(run / "metrics.jsonl")
    first, last = metrics[0], metrics[-1]
    assert first["eval_loss"] == pytest.approx(0.6931, abs=1e-3)  # at the reference nothing is preferred yet
    assert metrics[1]["loss"] == pytest.approx(0.6931, abs=1e-3)  # tensor-parallel ranks count once
    assert last["eval_loss"] < 0.4 and last["eval_preferred"] > 0.9 and last["eval_margin"] > 0.5
    assert len(list(run.glob("reference-*.npy"))) == 1 and (run / "hf" / "config.json").is_file()
