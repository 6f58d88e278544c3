"""What fine-tuning refuses before and while it starts: examples that are too long, a reference that is no number."""

import asyncio
import json
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import pytest

from k15.config.compose import compose_as
from k15.config.dpo import DpoConfig
from k15.config.schema import TinyModelConfig
from k15.config.sft import SftConfig
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.errors import DataError, TrainerError
from k15.runs.fit import DpoTask, SftTask
from k15.runs.trainer_client import TrainerClient


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dpo(folder: Path, *words: str) -> DpoTask:
    """20 pairs, some held out; a rejected response is about twice as long as a chosen one."""
    model = folder / "model"
    if not model.is_dir():
        write_tiny_model(model, TinyModelConfig(), 192)
        (model / "model.safetensors").write_bytes(b"")
    pairs = [{"prompt": f"{i}+1=", "chosen": f"#{i % 10}00", "rejected": f"1+1=2,#{i % 10}0"} for i in range(20)]
    path = written(folder / "pairs.jsonl", pairs)
    settings = [f"model.path={model}", "model.max_context_tokens=100", "model.chat=false", f"data.paths=[{path}]",
                "data.eval_fraction=0.3", "stage.batch_tokens=100"]  # fmt: skip
    return DpoTask(compose_as(DpoConfig, "dpo", [*settings, *words]), load_tokenizer(model))


def begun(task: DpoTask, folder: Path, value: float, stop_after: int = 99) -> tuple[bool, int]:
    """(what `begin` returns, calls of the trainer) with a rank 0 whose every log-prob is `value`."""
    ours, theirs = Pipe()
    calls = []

    def rank() -> None:
        while (found := theirs.recv())[0] == "sequence_logprobs":
            calls.append(len(found[1]["samples"]))
            theirs.send(("result", [value] * calls[-1]))

    async def alive() -> None:
        return None

    thread = Thread(target=rank)
    thread.start()
    try:
        begin = task.begin(TrainerClient(ours, alive), folder, False, lambda: len(calls) >= stop_after)
        return asyncio.run(begin), len(calls)
    finally:
        ours.send(("stop", {}))
        thread.join()


def test_a_reference_that_is_no_number_ends_the_run_and_a_stop_does_not(tmp_path):
    for value in (float("nan"), float("-inf")):
        with pytest.raises(TrainerError, match=rf"chosen response of pair 1 \(data.paths, from 1\) is {value}.*float32"):
            begun(dpo(tmp_path), tmp_path, value)
    assert not list(tmp_path.glob("reference-*"))
    assert begun(dpo(tmp_path), tmp_path, -3.0, stop_after=2) == (False, 2)
    done, calls = begun(dpo(tmp_path), tmp_path, -4.0)
    assert done and calls > 1
    task = dpo(tmp_path)
    assert begun(task, tmp_path, -5.0) == (True, 0) and set(task.reference) == {-3.0, -4.0}  # what was kept is used
    (tmp_path / "model" / "model.safetensors").write_bytes(b"trained on")
    assert begun(dpo(tmp_path), tmp_path, -5.0)[1] > 1, "other weights, another reference"


def test_the_two_of_a_pair_count_together(tmp_path):
    task = dpo(tmp_path)
    tokens = task.examples.lengths.reshape(-1, 2).sum(axis=1)
    most = int(tokens.max())
    assert max(task.examples.lengths) < most < 2 * max(task.examples.lengths)
    assert len(dpo(tmp_path, f"stage.context_tokens={most}").schedule) > 1
    with pytest.raises(DataError, match=rf"pairs \(both responses together\) are longer .* the longest has {most}\. "):
        dpo(tmp_path, f"stage.context_tokens={most - 1}")


def test_held_out_examples_are_checked_for_length_too(tmp_path):
    model = write_tiny_model(tmp_path, TinyModelConfig(), 192)
    long = {"prompt": "1+1=", "response": "1" * 60}
    train = written(tmp_path / "train.jsonl", [{"prompt": "1+1=", "response": "#2"}] * 9)
    out = written(tmp_path / "out.jsonl", [long, {"prompt": "2+1=", "response": "#3"}, long])
    words = [f"model.path={model}", "model.max_context_tokens=100", "model.chat=false", f"data.paths=[{train}]",
             f"data.eval_paths=[{out}]", "stages.first.context_tokens=30", "stages.second.context_tokens=40"]  # fmt: skip

    def task(*more: str) -> SftTask:
        return SftTask(compose_as(SftConfig, "sft", [*words, *more]), load_tokenizer(model))

    with pytest.raises(DataError, match="2 of 3 held-out examples are longer .* 40 tokens"):
        task()
    kept = task("data.on_long=skip").validation
    assert [load_tokenizer(model).decode(s.tokens[s.prompt_len : -1]) for s in kept] == ["#3"]
    with pytest.raises(DataError, match="a held-out example has 66 tokens"):
        task("model.max_context_tokens=50", "stages.second.context_tokens=1000")
    assert len(task("stages.second.context_tokens=1000").validation) == 3
