"""Sampling for long2short against an engine at the edge: a run that broke off goes on with the chunks that are missing."""

import asyncio
import signal
import subprocess
import sys
import time

import pytest
from rollout.fake_engine import TOKEN, FakeEngine, expected

from k15.config.compose import compose_as
from k15.config.engines import elsewhere
from k15.config.hf import fingerprint
from k15.config.schema import TinyModelConfig
from k15.config.shortest import ShortestConfig, check_shortest
from k15.data.arithmetic import ALPHABET
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer, write_char_tokenizer
from k15.errors import ConfigError, EngineError
from k15.log.journal import Journal
from k15.long2short.answers import Answered
from k15.runs.answers import chunk_key, sample
from k15.runs.shortest import preflight, write
from k15.types import Prompt

SETTINGS = ["samples=2", "seed=3", "rollout.max_response_tokens=30", "model.max_context_tokens=100", "rollout.max_retries=0",
            "rollout.repetition.enabled=false", "reward.audit_fraction=0"]  # fmt: skip


def test_a_run_that_broke_off_asks_for_the_rest_only(tmp_path):
    cfg = compose_as(ShortestConfig, "shortest", SETTINGS)
    write_char_tokenizer(tmp_path, ALPHABET + "abcdefghijklmnopqrstuvwxyz")
    tokenizer = load_tokenizer(tmp_path)
    texts = {}
    for i in range(9):
        tokens, _, finish = expected(tokenizer.encode_prompt(f"{i}+1="), 30)
        texts[f"{i}+1="] = (tokenizer.decode(tokens), len(tokens), finish == "stop")
    prompts = [Prompt(str(i), p, texts[p][0] if i % 2 else "nothing", "math") for i, p in enumerate(texts)]
    chunks = [prompts[i : i + 3] for i in range(0, 9, 3)]
    weights = fingerprint(tmp_path)
    todo = [(chunk_key(cfg, weights, chunk), chunk) for chunk in chunks]
    assert chunk_key(cfg, "others", chunks[0]) != todo[0][0]

    async def break_after(engine: FakeEngine, requests: int) -> None:
        while len(engine.requests) < requests:
            await asyncio.sleep(0.001)
        engine.faults = ["500"] * 100

    async def attempt(broken_from: int | None) -> list[dict]:
        engine = await FakeEngine(step_s=0.01).start()
        breaking = asyncio.create_task(break_after(engine, broken_from)) if broken_from is not None else None
        journal = Journal(tmp_path / "answers.sqlite")
        try:
            missing = [(key, chunk) for key, chunk in todo if journal.get(key) is None]
            await sample(cfg, [engine.url], TOKEN, journal, missing, tokenizer)
        finally:
            if breaking is not None:
                await breaking
            journal.close()
            await engine.kill()
        return engine.requests

    with pytest.raises(EngineError):
        asyncio.run(attempt(broken_from=6))  # the second chunk breaks off
    asked = asyncio.run(attempt(broken_from=None))
    assert {tuple(r["token_ids"]) for r in asked} == {tuple(tokenizer.encode_prompt(p.text)) for p in prompts[3:]}
    assert asyncio.run(attempt(broken_from=None)) == []
    journal = Journal(tmp_path / "answers.sqlite")
    groups = [Answered.from_json(row) for key, _ in todo for row in journal.get(key)]
    journal.close()
    for group, prompt in zip(groups, prompts, strict=True):
        assert group.prompt == prompt.text and len(group.answers) == 2
        assert {(a.text, a.length, a.whole) for a in group.answers} == {texts[prompt.text]}
    assert "9 prompts, 18 answers" in write(tmp_path, groups, cfg.ratio)


def tiny(folder) -> list[str]:
    write_tiny_model(folder, TinyModelConfig(), 192)
    (folder / "model.safetensors").write_bytes(b"")
    return [f"model.path={folder}", "model.chat=false", "model.max_context_tokens=192", "rollout.max_response_tokens=96"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reward.judge.url=http://x/v1", "reward.judge.model=m"], "reward.judge.url is 'http://x/v1', but k15 shortest"),
        (["reward.classic.path=export"], "reward.classic.path is 'export'"),
        (["sandbox.url=http://127.0.0.1:9"], "token_file are both needed"),
        (["rollout.silence_timeout_s=0"], "rollout.silence_timeout_s is 0"),
        (["rollout.gpu_memory_utilization=0"], "rollout.gpu_memory_utilization is 0"),
        (["rollout.top_p=0"], "rollout.top_p is 0, which leaves no token"),
        (["rollout.repetition.min_period=9", "rollout.repetition.max_period=4"], "needed: 1 <= min_period <= max_period"),
        (["rollout.repetition.min_repeats=1"], "min_repeats >= 2"),
        (["cluster.gpus_per_node=2", "rollout.engines_per_node=4"], "= 4 GPUs is over cluster.gpus_per_node=2"),
        (["cluster.gpus_per_node=-1"], "cluster.gpus_per_node is -1"),
        (["rollout.tensor_parallel=3"], "rollout.tensor_parallel=3 must divide"),
        (
            ["cluster.device=cpu", "model.dtype=float32", "rollout.kv_cache_bytes=393215"],
            "cannot hold one sequence .* takes 393216 bytes",
        ),
        (["rollout.max_response_tokens=192"], "leaves no room for a prompt"),
        (["cluster.signal_before_s=7200"], "Give at most 3599"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_an_engine_starts(tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        preflight(compose_as(ShortestConfig, "shortest", [*tiny(tmp_path), *words]), nodes=1)


def test_rules_of_cpu_engines_are_for_those_that_run_on_one(tmp_path, monkeypatch):
    """A plain `sbatch --gres=gpu:8` leaves gpus_per_node null: what is not known where it is submitted is left to the job."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # no GPU here
    words = [*tiny(tmp_path), "rollout.kv_cache_bytes=1"]

    def refused(*more: str) -> bool:
        try:
            check_shortest(compose_as(ShortestConfig, "shortest", [*words, *more]))
        except ConfigError as error:
            assert "rollout.kv_cache_bytes=1 cannot hold" in str(error)
            return True
        return False

    assert refused() and refused("cluster.gpus_per_node=0") and refused("cluster.device=cpu", "cluster.gpus_per_node=8")
    assert not refused("cluster.gpus_per_node=8") and not refused("cluster.device=cuda")
    with elsewhere():
        assert not refused() and refused("cluster.gpus_per_node=0") and refused("cluster.device=cpu")
    assert refused()


def test_the_signal_before_the_time_limit_ends_it_at_once_to_be_requeued(tmp_path):
    run = tmp_path / "run"
    argv = [
        sys.executable,
        "-P",
        "-m",
        "k15",
        "shortest",
        *tiny(tmp_path / "model"),
        f"run_dir={run}",
        "limit=4",
        "cluster=local",
    ]
    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not (run / "engine-0.log").is_file():
            time.sleep(0.1)
        time.sleep(0.5)  # past the engine's fork, whose hooks swallow exits: that end takes signalled.LONGEST_S
        process.send_signal(signal.SIGUSR1)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 85 and "signalled" in said, said
    children = subprocess.run(["pgrep", "-f", str(tmp_path / "model")], capture_output=True, text=True).stdout
    assert not children, "an engine goes on"
