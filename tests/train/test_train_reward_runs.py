"""`k15 reward_model` end to end, with real ranks and a real server: what it writes can be loaded and judged again."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from k15.cli import main
from k15.config.schema import ClassicConfig, RewardConfig
from k15.data.tokenizer import load_tokenizer
from k15.errors import ConfigError, EngineError
from k15.eval.spot_check import read_checks
from k15.reward.asked import REFUSALS
from k15.reward.classic import input_text, load_calibration
from k15.reward.math import score
from k15.reward.router import Rewards, check_rewards
from k15.runs.classic import served_classic
from k15.types import Group, Prompt, Rollout, Segment

SMALL = ["fit.batch_size=16", "data.train_size=200", "data.eval_size=40", "data.calibration_size=60", "model.tiny.num_layers=2",
         "model.tiny.hidden_size=64", "model.tiny.intermediate_size=96"]  # fmt: skip


def k15(*words: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-P", "-m", "k15", "reward_model", *words], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.megatron
def test_a_classic_model_over_two_ranks_scores_as_transformers_does_on_its_export(tmp_path):
    from transformers import AutoModelForSequenceClassification

    run = tmp_path / "run"
    words = ["kind=classic", f"run_dir={run}", "fit.steps=12", *SMALL, "parallel.ranks_per_node=2", "parallel.tensor=2",
             "parallel.sequence_parallel=true"]  # fmt: skip
    k15(*words, cwd=tmp_path)
    k15(*words, cwd=tmp_path)  # finished: nothing is done again
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 12
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 12 and all(0 < x < 5 for x in losses)
    calibration, template = load_calibration(run / "export")
    assert (calibration.slope, template) != (1.0, "plain") and not (run / "segments").exists()
    model, info = AutoModelForSequenceClassification.from_pretrained(run / "export", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and model.score.weight.shape == (1, 64)
    tokenizer, checks = load_tokenizer(run / "export"), read_checks(run / "checks.jsonl")
    assert len(checks) == 40
    for check in checks[::8]:
        tokens = torch.tensor([tokenizer.encode_prompt(input_text(check.triple, template))])
        with torch.no_grad():
            theirs = calibration.probability(float(model(tokens).logits))
        assert check.probability == pytest.approx(theirs, abs=1e-5) and check.verdict == (theirs > 0.5)
    assert "Classic" in (run / "spot_check.md").read_text()
    asyncio.run(in_a_run(run / "export", checks, tmp_path))


async def in_a_run(export: Path, checks: list, tmp_path: Path) -> None:
    """The same head as a run's reward: asked where the rule refused, as certain as in the spot check; killed, it comes back."""
    verdicts = [score(c.triple.response, c.triple.reference, "#ANSWER") for c in checks]
    refused = [c for c, v in zip(checks, verdicts, strict=True)
               if not v.correct and v.extracted is not None and v.reason not in REFUSALS]  # fmt: skip
    p = [c.probability for c in refused]
    assert len(refused) > 5 and min(p) < max(p)
    threshold = sorted(p)[len(p) // 2] - 1e-4
    cfg = RewardConfig(template="#ANSWER", classic=ClassicConfig(path=str(export), threshold=threshold))
    async with served_classic(cfg, tmp_path, asyncio.Event()) as probabilities:
        with Rewards(cfg, probabilities=probabilities) as rewards:
            for check in refused:
                t = check.triple
                group = Group(
                    Prompt("p", t.question, t.reference), (Rollout("p", 0, 0, (1,), (Segment((1,), (0.0,), 0, "stop"),)),)
                )
                (found,) = rewards.score_group(group, [t.response], 0)
                assert found.correct == (check.probability > threshold) and found.reason.startswith(
                    f"classic: {check.probability:.3f}"
                )
                assert not rewards.score_group(group, [t.response], 0, audit=False)[0].correct, "evaluation is by rule"
            metrics = rewards.take_metrics()
            assert metrics["reward_classic_n"] == len(refused) > metrics["reward_classic_accepted"] > 0
            process = probabilities.__self__
            process._process.kill()
            assert rewards.score_group(group, [t.response], 0) == [found], "started again, asked again"
            process._restarts = 0
            process._process.kill()
            with pytest.raises(EngineError, match="classic.log"):
                rewards.score_group(group, [t.response], 0)
    with pytest.raises(ConfigError, match="no Classic reward model"):
        check_rewards(RewardConfig(classic=ClassicConfig(path=str(tmp_path))))


@pytest.mark.megatron
def test_a_signal_saves_and_the_same_words_go_on_as_if_there_had_been_none(tmp_path):
    words = ["kind=classic", "fit.steps=24", *SMALL]
    k15(*words, "run_dir=whole", cwd=tmp_path)
    argv = [sys.executable, "-P", "-m", "k15", "reward_model", *words, "run_dir=stopped"]
    process, seen = subprocess.Popen(argv, cwd=tmp_path), tmp_path / "stopped" / "model" / "config.json"
    while not seen.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)  # long before the first step, which is then the last
    assert process.wait(120) == 85
    assert [f.name for f in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-0000001"]
    k15(*words, "run_dir=stopped", cwd=tmp_path)
    one, two = (tmp_path / name for name in ("whole", "stopped"))
    assert (one / "export" / "model.safetensors").read_bytes() == (two / "export" / "model.safetensors").read_bytes()
    losses = [[json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert losses[0] == losses[1] and not (two / "checkpoints").exists()
    assert main(["reward_model", *words, f"run_dir={two}", "fit.lr=1"]) == 2, "other settings are another model"


@pytest.mark.megatron
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_judge_that_has_learned_nothing_accepts_nothing(tmp_path):
    """Through a real vLLM server: babble is no verdict, retries are spent, and what has no verdict is refused."""
    run = tmp_path / "run"
    heads = ("model.tiny.num_heads=2", "model.tiny.num_kv_heads=1")  # vLLM's attention on CPUs has no heads of size 16
    k15("kind=cot", f"run_dir={run}", "fit.steps=2", *SMALL, *heads, "judge.votes=2", "judge.retries=1", "judge.temperature=1.0",
        "judge.max_tokens=12", cwd=tmp_path)  # fmt: skip
    checks = read_checks(run / "checks.jsonl")
    assert len(checks) == 40 and not any(c.verdict for c in checks)
    assert all(c.note.startswith("0 for, 0 against, 2 failed") for c in checks)
    found = json.loads((run / "spot_check.json").read_text())["methods"]["cot"]
    assert found["confusion"]["refused_wrong"] == sum(not c.triple.correct for c in checks)
