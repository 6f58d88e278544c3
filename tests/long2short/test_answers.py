"""Sampling for long2short against an engine at the edge: what is asked again, what is not, and what is made of the answers."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from contextlib import closing
from dataclasses import replace

import pytest
from rollout.fake_engine import TOKEN, FakeEngine, expected

from k15.config.compose import compose_as, to_yaml
from k15.config.engines import elsewhere
from k15.config.hf import fingerprint
from k15.config.long_cot import LongCotConfig
from k15.config.schema import TinyModelConfig
from k15.config.shortest import ShortestConfig, check_shortest
from k15.data.arithmetic import ALPHABET
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer, write_char_tokenizer
from k15.errors import ConfigError, EngineError
from k15.log.journal import Journal
from k15.long2short.answers import Answer, Answered
from k15.runs import long_cot, shortest
from k15.runs.answers import answer_all, prompt_key, sample
from k15.runs.shortest import preflight
from k15.types import Prompt

SETTINGS = ["samples=2", "seed=3", "chunk_prompts=3", "rollout.max_response_tokens=30", "model.max_context_tokens=100",
            "rollout.max_retries=0", "rollout.repetition.enabled=false", "reward.audit_fraction=0"]  # fmt: skip


def test_a_run_that_broke_off_asks_for_the_rest_only(tmp_path):
    cfg = compose_as(ShortestConfig, "shortest", SETTINGS)
    write_char_tokenizer(tmp_path, ALPHABET + "abcdefghijklmnopqrstuvwxyz")
    tokenizer = load_tokenizer(tmp_path)
    texts = {}
    for i in range(9):
        tokens, _, finish = expected(tokenizer.encode_prompt(f"{i}+1="), 30)
        texts[f"{i}+1="] = (tokenizer.decode(tokens), len(tokens), finish == "stop")
    prompts = [Prompt(str(i), p, texts[p][0] if i % 2 else "nothing", "math") for i, p in enumerate(texts)]
    weights = fingerprint(tmp_path)
    todo = [(prompt_key(cfg, weights, prompt), prompt) for prompt in prompts]

    async def break_after(engine: FakeEngine, requests: int) -> None:
        while len(engine.requests) < requests:
            await asyncio.sleep(0.001)
        engine.faults = ["500"] * 100

    async def attempt(broken_from: int | None) -> list[dict]:
        engine = await FakeEngine(step_s=0.01).start()
        breaking = asyncio.create_task(break_after(engine, broken_from)) if broken_from is not None else None
        journal = Journal(tmp_path / "answers.sqlite")
        try:
            missing = [(key, prompt) for key, prompt in todo if key not in journal]
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
    groups = [Answered.from_json(journal.get(key)) for key, _ in todo]
    journal.close()
    for group, prompt in zip(groups, prompts, strict=True):
        assert group.prompt == prompt.text and len(group.answers) == 2
        assert {(a.text, a.length, a.whole) for a in group.answers} == {texts[prompt.text]}
    assert "9 prompts, 18 answers" in shortest.write(tmp_path, groups, cfg.ratio)


def test_answers_depend_on_their_prompt_alone(tmp_path):
    """Not on its place, the chunk or what else is asked: more rows, or another order, cost nothing that was there before."""
    write_char_tokenizer(tmp_path, ALPHABET)
    tokenizer = load_tokenizer(tmp_path)
    prompts = [Prompt(f"p{i}", f"{i}+1=", str(i + 1)) for i in range(7)]

    def asked(journal: str, prompts: list[Prompt], *words: str) -> set[tuple]:
        cfg = compose_as(ShortestConfig, "shortest", [*SETTINGS, *words])

        async def ask() -> list[dict]:
            engine = await FakeEngine().start()
            try:
                with closing(Journal(tmp_path / journal)) as done:
                    todo = [(prompt_key(cfg, "weights", p), p) for p in prompts]
                    await sample(cfg, [engine.url], TOKEN, done, [(k, p) for k, p in todo if k not in done], tokenizer)
            finally:
                await engine.kill()
            return engine.requests

        return {(tokenizer.decode(r["token_ids"]), r["sampling_params"]["seed"]) for r in asyncio.run(ask())}

    first = asked("a.sqlite", prompts)
    assert len(first) == 14 and len({seed for _, seed in first}) == 14, "each answer has a seed of its own"
    more = [Prompt("new", "8+1=", "9"), *reversed(prompts), Prompt("last", "9+1=", "10")]
    other = ["chunk_prompts=4", "limit=100", "reward.workers=2", "reward.memory_gb=1", "reward.audit_fraction=0.5",
             "reward.length.weight=1", "rollout.max_concurrent=2"]  # fmt: skip
    second = asked("b.sqlite", more, *other)
    assert len(second) == 18 and first < second
    assert asked("a.sqlite", more, *other) == second - first

    cfg = compose_as(ShortestConfig, "shortest", SETTINGS)
    key = prompt_key(cfg, "weights", prompts[0])
    changed = [replace(prompts[0], **{field: "x"}) for field in ("id", "text", "answer", "domain")]
    keys = {key, prompt_key(cfg, "others", prompts[0]), *(prompt_key(cfg, "weights", p) for p in changed)}
    settings = ["seed=4", "samples=3", "suffix=x", "model.chat=false", "rollout.temperature=0.5", "rollout.top_p=0.5",
                "rollout.max_response_tokens=29", "rollout.repetition.enabled=true", "reward.timeout_s=9",
                "reward.template='#ANSWER'"]  # fmt: skip
    keys |= {prompt_key(compose_as(ShortestConfig, "shortest", [*SETTINGS, w]), "weights", prompts[0]) for w in settings}
    assert len(keys) == 6 + len(settings), "what an answer or its verdict depends on is asked anew"


def test_a_model_with_another_chat_template_is_asked_anew(tmp_path):
    """The template is a file of its own, as transformers 5 writes it."""
    write_char_tokenizer(tmp_path, ALPHABET)
    (tmp_path / "model.safetensors").write_text("weights")
    before = fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("no part of the model")
    assert fingerprint(tmp_path) == before
    for template in ("{{ messages[0]['content'] }}", "{{ messages[0]['content'] }}<think>"):
        (tmp_path / "chat_template.jinja").write_text(template)
        assert load_tokenizer(tmp_path, chat=True).encode_prompt("1") and fingerprint(tmp_path) != before
        before = fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ([], None),
        (["limit=9", "samples=9", "ratio=2", "chunk_prompts=1", "rollout.max_concurrent=2"], None),
        (["model.path={other}"], "model.path"),
        (["data=jsonl", "data.path=rows.jsonl"], "data.kind, data.path"),
        (["rollout.temperature=0.5", "seed=4"], "seed, rollout.temperature"),
        (["touch"], "model.path={model}, whose files have changed"),
    ],
)
def test_answers_of_another_model_are_not_replaced(tmp_path, words, refused):
    run, folders = tmp_path / "run", {name: tmp_path / name for name in ("model", "other")}
    first = compose_as(ShortestConfig, "shortest", [*tiny(folders["model"]), f"run_dir={run}"])
    tiny(folders["other"])
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(first))
    (run / "model.txt").write_text(fingerprint(folders["model"]))
    with closing(Journal(run / "answers.sqlite")):
        pass
    words = [w.format(**folders) for w in words]
    if words == ["touch"]:
        words = []
        os.utime(folders["model"] / "model.safetensors", (1, 1))
    cfg = compose_as(ShortestConfig, "shortest", [*tiny_words(folders["model"]), f"run_dir={run}", "dry_run=true", *words])

    def again() -> int:
        return answer_all(cfg, [], lambda folder, groups: "")

    assert again() == 0, "nothing is there that could be lost"
    with closing(Journal(run / "answers.sqlite")) as journal:
        journal.put("key", {})
    if refused is None:
        assert again() == 0
        return
    with pytest.raises(ConfigError) as error:
        again()
    assert f"{run} holds answers with other settings ({refused.format(**folders)})" in str(error.value)


N = 120  # prompts of four answers of 20 kB


def test_more_answers_than_memory_holds_are_written_in_one_pass(tmp_path):
    """All is there already, so no engine starts; 10 MB of answers are never in memory together."""
    model = tmp_path / "model"
    model.mkdir()
    words = [f"model.path={model}", f"run_dir={tmp_path / 'run'}", "samples=4"]
    cfg = compose_as(ShortestConfig, "shortest", words)
    prompts = [Prompt(str(i), f"{i}+1=", str(i + 1)) for i in range(N)]

    def group(i: int) -> Answered:
        said = ["My plan. Wait, check it. " + "a" * 20_000, "a" * 20_000, "b" * 20_000, "c" * 20_000]
        lengths = (10 + i % 3, 20, 30, 40)
        return Answered(f"{i}+1=", tuple(Answer(t, n, i % 4 > 0 and j < 2) for j, (t, n) in enumerate(zip(said, lengths))))

    with closing(Journal(tmp_path / "run" / "answers.sqlite")) as journal:
        done = [(prompt_key(cfg, fingerprint(model), p), group(int(p.id)).to_json()) for p in prompts]
        journal.put_all(done)
        with pytest.raises(sqlite3.IntegrityError):
            journal.put_all([("new", 1), done[0]])
        assert "new" not in journal and len(journal) == N, "all of them or none"
        del done
    found, before = {}, signal.getsignal(signal.SIGUSR1)
    chains = compose_as(LongCotConfig, "long_cot", [*words, "suffix=''"])
    tracemalloc.start()
    try:
        assert answer_all(cfg, prompts, lambda folder, groups: shortest.write(folder, groups, cfg.ratio)) == 0
        found["shortest"] = json.loads((tmp_path / "run" / "summary.json").read_bytes())
        assert answer_all(chains, prompts, lambda folder, groups: long_cot.write(folder, groups, chains)) == 0
        found["long_cot"] = json.loads((tmp_path / "run" / "summary.json").read_bytes())
        assert tracemalloc.get_traced_memory()[1] < 3e6, "bytes at the most"
    finally:
        tracemalloc.stop()
        signal.signal(signal.SIGUSR1, before)
    first = [10 + i % 3 for i in range(N)]
    right = [first[i] for i in range(N) if i % 4]
    assert found["shortest"] == {
        "prompts": N, "answers": 4 * N, "accuracy": 3 / 8, "length_mean": (sum(first) + 90 * N) / (4 * N), "shortest": 3 * N // 4,
        "pairs": 9 * N // 4, "shortest_length_mean": sum(right) / len(right), "pairs_of_two_right_answers": 3 * N // 4,
    }  # fmt: skip
    assert found["long_cot"] == {
        "prompts": N, "answers": 4 * N, "right": 3 * N // 2, "selected": 3 * N // 4, "length_mean": sum(right) / len(right),
        "traits_of_right_answers": {"planning": 0.5, "evaluation": 0.5, "reflection": 0.5, "exploration": 0.0},
        "traits_of_selected": {"planning": 1.0, "evaluation": 1.0, "reflection": 1.0, "exploration": 0.0},
    }  # fmt: skip
    names = ("shortest.jsonl", "pairs.jsonl", "long_cot.jsonl")
    old = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in old.items()}
    assert [len(rows[name]) for name in names] == [3 * N // 4, 9 * N // 4, 3 * N // 4]
    assert all(r["chosen"].startswith("My plan") and len(r["rejected"]) == 20_000 for r in rows["pairs.jsonl"])
    assert [r["prompt"] for r in rows["shortest.jsonl"]] == [f"{i}+1=" for i in range(N) if i % 4]

    def broken():
        yield group(1)
        raise OSError("the disk is gone")

    for made in (lambda: shortest.write(tmp_path / "run", broken(), 1.5),
                 lambda: long_cot.write(tmp_path / "run", broken(), chains)):  # fmt: skip
        with pytest.raises(OSError, match="the disk is gone"):
            made()
    assert {name: (tmp_path / "run" / name).read_bytes() for name in names} == old
    assert not [p for p in (tmp_path / "run").iterdir() if p.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("text", "right", "said"),
    [
        ("It is 5.", True, "min_traits=2, but no right answer shows more than 0; with min_traits=0 the same words select some"),
        ("Wait, 5.", True, "min_traits=2, but no right answer shows more than 1; with min_traits=1 the same words select some"),
        ("Wait, check: 5.", False, "no answer is right and ended by itself"),
        ("Wait, check: 5.", True, "1 selected (planning 0 %, evaluation 100 %"),
    ],
)
def test_a_selection_of_nothing_says_what_left_it_empty(tmp_path, text, right, said):
    cfg = compose_as(LongCotConfig, "long_cot", [])
    assert said in long_cot.write(tmp_path, [Answered("2+3=", (Answer(text, 5, right),))], cfg)


def tiny(folder) -> list[str]:
    write_tiny_model(folder, TinyModelConfig(), 192)
    (folder / "model.safetensors").write_bytes(b"")
    return tiny_words(folder)


def tiny_words(folder) -> list[str]:
    return [f"model.path={folder}", "model.chat=false", "model.max_context_tokens=192", "rollout.max_response_tokens=96"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reward.judge.url=http://x/v1", "reward.judge.model=m"], "reward.judge.url is 'http://x/v1', but k15 shortest"),
        (["reward.classic.path=export"], "reward.classic.path is 'export'"),
        (["reward.custom=os.path:basename"], "reward.custom is 'os.path:basename', but k15 shortest .* adds nothing"),
        (["data.path=train.jsonl"], "data.path=train.jsonl is not read by data.kind=arithmetic. Give data=jsonl"),
        (["data=jsonl", "data.path=none.jsonl"], "data.path is 'none.jsonl', which is no file"),
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


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGUSR1, 85, "signalled: what came so far is kept"),
        (signal.SIGINT, 130, "what was answered is kept in {run}: the same words go on from there"),
    ],
)
def test_the_signal_before_the_time_limit_and_ctrl_c_end_it_at_once_and_say_how_it_goes_on(tmp_path, number, code, words):
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
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code and words.format(run=run) in said and "Traceback" not in said, said
    children = subprocess.run(["pgrep", "-f", str(tmp_path / "model")], capture_output=True, text=True).stdout
    assert not children, "an engine goes on"


@pytest.mark.parametrize(("kind", "name"), [(ShortestConfig, "shortest"), (LongCotConfig, "long_cot")])
def test_every_prompt_of_the_file_is_asked_unless_some_are_to_be_held_out(tmp_path, kind, name):
    rows = [json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(40)]
    words = [*tiny(tmp_path), "data=jsonl", f"data.path={tmp_path / 'rows.jsonl'}", "suffix=''"]

    def asked(count: int, *more: str) -> int:
        (tmp_path / "rows.jsonl").write_text("".join(rows[:count]))
        return len({"shortest": shortest, "long_cot": long_cot}[name].preflight(compose_as(kind, name, [*words, *more]), nodes=1))

    assert asked(40) == 40 and asked(1) == 1
    assert 20 <= asked(40, "data.eval_fraction=0.2") < 40
    with pytest.raises(ConfigError, match="data.eval_fraction is nan"):
        asked(40, "data.eval_fraction=nan")
