"""What fine-tuning refuses before and while it starts: examples that are too long, a reference that is no number."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from k15.config.compose import compose_as
from k15.config.dpo import DpoConfig
from k15.config.schema import TinyModelConfig
from k15.config.sft import SftConfig
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.errors import DataError, TrainerError
from k15.log import read_metrics
from k15.runs.fit import DpoTask, SftTask
from k15.runs.fit_command import finished
from k15.runs.fit_controller import Fit, resumable
from k15.runs.head import Head, Interrupted
from k15.runs.state import Checkpoints, FitState
from k15.runs.trainer_client import TrainerClient
from k15.types import Sample


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
    calls = []

    def answer(samples: list[Sample]) -> list[float]:
        calls.append(len(samples))
        return [value] * len(samples)

    with rank_0(sequence_logprobs=answer) as trainer:
        return asyncio.run(task.begin(trainer, folder, lambda: len(calls) >= stop_after)), len(calls)


@contextmanager
def rank_0(**commands: Callable[..., object]) -> Iterator[TrainerClient]:
    """A client whose rank 0, at the other end of its connection, answers `commands`."""
    ours, theirs = Pipe()

    def serve() -> None:
        while (found := theirs.recv())[0] in commands:
            theirs.send(("result", commands[found[0]](**found[1])))

    async def alive() -> None:
        return None

    thread = Thread(target=serve)
    thread.start()
    try:
        yield TrainerClient(ours, alive)
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


def test_a_run_killed_while_the_reference_is_computed_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("k15.runs.fit.KEEP_EVERY_S", 0.0)
    calls = 0

    def killed() -> bool:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return False

    with rank_0(sequence_logprobs=lambda samples: [-3.0] * len(samples)) as trainer, pytest.raises(KeyboardInterrupt):
        asyncio.run(dpo(tmp_path).begin(trainer, tmp_path, killed))
    kept = np.load(next(tmp_path.glob("reference-*")))
    assert 0 < np.isfinite(kept).sum() < len(kept)
    task = dpo(tmp_path)
    assert begun(task, tmp_path, -4.0)[0] and set(task.reference) == {-3.0, -4.0}


def test_what_a_resumed_run_cannot_go_on_from_is_known_without_ranks(tmp_path):
    """Settings of `eval` may change; the examples, and the reference that was kept, may not."""
    task, run = dpo(tmp_path), tmp_path / "run"
    checkpoints = Checkpoints(run, 2, FitState)
    assert resumable(checkpoints, task, run) is None
    state = FitState(iteration=1, iterations=len(task.schedule), data=task.fingerprint)

    async def nothing(folder: str) -> None:
        return None

    folder = asyncio.run(checkpoints.write(state, nothing))
    with pytest.raises(TrainerError, match="reference-.* is missing"):
        resumable(checkpoints, task, run)
    assert begun(task, run, -3.0)[0]
    smaller = dpo(tmp_path, "eval.size=1")
    assert resumable(checkpoints, smaller, run) == (folder, state)
    assert len(smaller.validation) == 2 < len(task.validation)
    with pytest.raises(DataError, match="not those that .*-iteration-00001 was trained on"):
        resumable(checkpoints, dpo(tmp_path, "data.eval_fraction=0.6"), run)


@pytest.mark.parametrize("own_files", [False, True])
def test_held_out_pairs_are_scored_once_and_judged_by_their_own_reference(tmp_path, own_files):
    """Every log-prob of the reference is that of its own response, wherever the pair is held out; a larger eval.size asks for
    the pairs that it adds, and no other."""
    more = [f"data.eval_paths=[{tmp_path / 'out.jsonl'}]"] if own_files else []
    pairs = [{"prompt": f"{i}*2=", "chosen": f"#{2 * i}", "rejected": f"#{i}0000"} for i in range(7)]
    written(tmp_path / "out.jsonl", pairs)
    task = dpo(tmp_path, "eval.size=3", "stage.batch_tokens=50", *more)
    asked, judged, parts = [], [], []
    used = 2 * (len(task.kept) + 3)

    def scores(samples: list[Sample]) -> list[float]:
        asked.extend(s.tokens for s in samples)
        return [-float(sum(s.tokens)) for s in samples]

    def loss(samples: list[Sample], reference: list[float], preference: dict[str, float]) -> dict[str, float]:
        parts.append(len(samples))
        judged.extend((sum(s.tokens), -r) for s, r in zip(samples, reference, strict=True))
        return {"loss": preference["beta"] * sum(reference) / len(reference)}

    def mean(task: DpoTask) -> float:
        return pytest.approx(-task.cfg.loss.beta * sum(sum(s.tokens) for s in task.validation) / len(task.validation))

    with rank_0(sequence_logprobs=scores, preference_loss=loss) as trainer:
        assert asyncio.run(task.begin(trainer, tmp_path, lambda: False))
        assert asyncio.run(task.evaluate(trainer)) == {"eval_loss": mean(task), "eval_n": 3} and 2 <= len(parts) <= 3
        assert len(asked) == used and (used == 46 or not own_files)
        larger = dpo(tmp_path, "eval.size=5", *more)
        larger.check_resumable(tmp_path)
        assert task.has_begun(tmp_path) and not larger.has_begun(tmp_path)
        assert asyncio.run(larger.begin(trainer, tmp_path, lambda: False)) and larger.has_begun(tmp_path)
        assert asyncio.run(larger.evaluate(trainer)) == {"eval_loss": mean(larger), "eval_n": 5}
    assert len(asked) == len(set(asked)) == used + 4
    assert len(judged) == 16 and all(own == given for own, given in judged)


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


def sft(folder: Path, rows: list[dict], *words: str) -> SftTask:
    if not (folder / "model").is_dir():
        write_tiny_model(folder / "model", TinyModelConfig(), 192)
    path = written(folder / "train.jsonl", rows)
    settings = [f"model.path={folder / 'model'}", "model.max_context_tokens=100", "model.chat=false", f"data.paths=[{path}]"]
    return SftTask(compose_as(SftConfig, "sft", [*settings, *words]), load_tokenizer(folder / "model"))


def test_examples_over_the_models_own_context_are_skipped_too(tmp_path, caplog):
    rows = [{"prompt": "1+1=", "response": "#2" if i % 5 else "1" * 60} for i in range(10)]
    words = ["data.eval_fraction=0.0", "model.max_context_tokens=50"]
    with pytest.raises(DataError, match="example has 66 tokens"):
        sft(tmp_path, rows, *words)
    task = sft(tmp_path, rows, *words, "data.on_long=skip")
    seen = [s for i in range(len(task.schedule)) for s in task.batch(task.schedule[i])]
    assert len(seen) == 2 * 8 and max(len(s.tokens) for s in seen) <= 50
    assert "stages.second: 2 of 10 examples are longer than its context or model.max_context_tokens" in caplog.text
    with pytest.raises(DataError, match="no example fits model.max_context_tokens=50"):
        sft(tmp_path, [rows[0]], *words, "data.on_long=skip")


def test_a_file_of_which_nothing_would_be_seen_is_named(tmp_path, caplog):
    rows = [{"prompt": f"{i}+1=", "response": "#1"} for i in range(20)]
    other = written(tmp_path / "other.jsonl", rows)
    words = ["data.eval_fraction=0", f"data.paths=[{tmp_path / 'train.jsonl'},{other}]"]
    with pytest.raises(DataError, match=r"data.weights has 0.01 for .*other.jsonl.* its 20 training .* at least 0.05, or 0"):
        sft(tmp_path, rows, *words, "data.weights=[1,0.01]")
    assert len(sft(tmp_path, rows, *words, "data.weights=[1,0.05]").schedule)
    assert len(sft(tmp_path, rows, *words, "data.weights=[1,0]").schedule)
    kept = sft(tmp_path, rows, "data.eval_fraction=0.3").kept
    written(tmp_path / "other.jsonl", [row for i, row in enumerate(rows) if i not in kept])
    sft(tmp_path, rows, *words, "data.eval_fraction=0.3")
    assert f"{other}: all its examples are held out" in caplog.text


def test_validation_is_of_all_files_and_a_larger_one_adds(tmp_path):
    """Whatever the order of the files, whose first has 4 of 5 examples."""
    pick = {name: [{"prompt": f"{i}+{c}=", "response": "#1"} for i in range(n)] for name, c, n in (("a", 1, 400), ("b", 2, 100))}
    paths = {name: written(tmp_path / f"{name}.jsonl", rows) for name, rows in pick.items()}

    def validation(order: str, size: int) -> list[tuple[int, ...]]:
        files = ",".join(str(paths[name]) for name in order)
        task = sft(tmp_path, pick["a"], f"data.eval_paths=[{files}]", f"eval.size={size}")
        return [s.tokens for s in task.validation]

    small, large = validation("ab", 50), validation("ba", 100)
    tokenizer = load_tokenizer(tmp_path / "model")
    assert large[:50] == small and len(set(large)) == 100
    assert 10 <= sum("+2=" in tokenizer.decode(tokens) for tokens in large) <= 30
    assert len(validation("ab", 1000)) == 500


def test_an_evaluation_that_a_stop_prevented_is_made_up_for(tmp_path):
    """Before any training, in the middle, where step 2 is due, in the course of step 4's and after the last step."""
    words = ["data.eval_fraction=0.3", "stages.first.batch_tokens=40", "stages.second.epochs=0", "eval.every=2", "save.every=100",
             "save.export_hf=false", "log.tensorboard=false"]  # fmt: skip
    run, steps, losses = tmp_path / "run", [], []
    rows = [{"prompt": f"{i}+1=", "response": f"#{i + 1}"} for i in range(30)]
    stop_after: set[int] = set()
    stop_in: set[int] = set()

    def step(samples: list[Sample], **_: object) -> dict[str, float]:
        steps.append(len(samples))
        if len(steps) in stop_after:
            stop.set()
        return {"loss": float(len(steps)), "tokens": 1.0}

    def loss(samples: list[Sample]) -> dict[str, float]:
        """The mean over the tokens that count."""
        losses.append(len(steps))
        if len(steps) in stop_in:
            loop.call_soon_threadsafe(stop.set)
        return {"loss": counted(samples, sum) / counted(samples, len), "tokens": float(counted(samples, len))}

    def counted(samples: list[Sample], of: Callable[[tuple[int, ...]], int]) -> int:
        return sum(of(s.tokens[s.prompt_len :]) for s in samples)

    async def controlled(trainer: TrainerClient) -> None:
        nonlocal loop
        loop, task, checkpoints = asyncio.get_running_loop(), sft(tmp_path, rows, *words), Checkpoints(run, 2, FitState)
        head = Head(None, None, None, [], None, "cpu", stop)  # type: ignore[arg-type]
        await Fit(task.cfg, task, trainer, head, run, checkpoints).run(resumable(checkpoints, task, run))

    def go() -> None:
        quiet = {name: lambda **_: None for name in ("init", "load", "save")}
        with rank_0(sft_step=step, sft_loss=loss, **quiet) as trainer:
            asyncio.run(controlled(trainer))

    task, loop = sft(tmp_path, rows, *words), None
    total = len(task.schedule)
    assert total > 4 and task.validation
    stop_after |= {2, total}
    for at in (0, 2, 4, total):
        stop, stop_in = asyncio.Event(), {at} & {0, 4}
        with pytest.raises(Interrupted):
            go()
        assert len(steps) == at and losses.count(at) == (at in stop_in), "no more of the validation than was asked for"
        if at:
            last = read_metrics(run / "metrics.jsonl")[-1]
            assert last["iteration"] == at and "eval_loss" not in last
        assert not finished(run, task.cfg)
    stop, stop_in = asyncio.Event(), set()
    go()
    found = read_metrics(run / "metrics.jsonl")
    due = sorted({0, total, *range(2, total, 2)})
    assert [r["iteration"] for r in found] == list(range(total + 1)) and finished(run, task.cfg)
    parts = losses.count(total)
    assert parts > 1 and losses == sorted(due * parts + [0, 4]), "in parts"
    expected = counted(task.validation, sum) / counted(task.validation, len)
    assert {r["iteration"]: r["eval_loss"] for r in found if "eval_loss" in r} == dict.fromkeys(due, pytest.approx(expected))
    assert [r["loss"] for r in found[1:]] == list(range(1, total + 1)), "the step's own numbers stay"
