"""`k15 eval engine.url=...` against a local OpenAI-compatible server: its key, its limits, a stop in the middle, and the rest."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from knowing import write_data

from k15 import cli
from k15.config.eval import EvaluationConfig
from k15.eval.responses import Responses
from k15.eval.results import read_results
from k15.eval.tasks import file_name
from k15.runs.eval_engine import Subject, sample
from k15.runs.eval_plan import plans

KEY = "a-key-for-tests"


def k15(words: list[str]) -> int:
    """The exit code."""
    try:
        return cli.main(words)
    except SystemExit as end:
        return int(end.code)


class Server:
    """Answers chat requests with the right number; fails the first request, and holds requests back beyond `let`."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.let = 10
        self.held = threading.Event()
        self.port = 0

    async def chat(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": "key"}, status=401)
        body = await request.json()
        self.asked.append(body)
        if len(self.asked) == 1:
            return web.Response(status=503)  # once: asked again
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        while len(self.asked) > self.let:
            self.held.set()
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.005)
        self.at_once -= 1
        text = f"Let me see. \\boxed{{{body['seed']}}}"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 7}})

    async def completions(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        choice = {"text": "    return 1", "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 3}})

    async def serve(self, ready: threading.Event) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await asyncio.Event().wait()


@pytest.fixture
def server() -> Iterator[Server]:
    server, ready = Server(), threading.Event()
    threading.Thread(target=lambda: asyncio.run(server.serve(ready)), daemon=True).start()
    assert ready.wait(10)
    yield server


def test_a_stopped_evaluation_goes_on_where_it_was(server: Server, tmp_path: Path, monkeypatch, capsys) -> None:
    write_data(tmp_path / "data")
    monkeypatch.setenv("THE_KEY", KEY)
    words = [
        f"run_dir={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}", "tasks=gsm8k", f"engine.url=http://127.0.0.1:{server.port}/v1",
        "engine.model=other", "engine.key_env=THE_KEY", "engine.concurrency=3", "sampling.samples=4", "sampling.temperature=0.7",
    ]  # fmt: skip
    first = subprocess.Popen([sys.executable, "-P", "-m", "k15", "eval", *words], env=dict(os.environ), stderr=subprocess.PIPE)
    assert server.held.wait(120)
    while server.at_once < 3 and first.poll() is None:  # as many as engine.concurrency, never more
        time.sleep(0.02)
    time.sleep(0.2)
    first.send_signal(signal.SIGUSR1)  # Slurm's, before the time limit
    assert first.wait(60) == 85, first.stderr.read()
    assert f"the same words with run_dir={tmp_path / 'run'} go on" in first.stderr.read().decode()
    path = tmp_path / "run" / "responses" / "gsm8k.jsonl"
    kept = path.read_text()
    assert 5 <= kept.count("\n") <= 9 and server.most_at_once == 3

    server.let = 10**6
    assert k15(["eval", *words, "sampling.top_p=0.5"]) == 2
    assert "top_p was 1.0, now 0.5" in capsys.readouterr().err
    asked = len(server.asked)
    assert k15(["eval", *words]) == 0
    assert len(server.asked) - asked == 16 * 4 - kept.count("\n") and path.read_text().startswith(kept)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({(r["id"], r["index"]) for r in rows}) == 64 and len({r["text"] for r in rows}) == 64  # a seed an answer
    body = server.asked[-1]
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("other", 0.7, 1.0, 4096)
    (found,) = [r for r in read_results(tmp_path / "run")["results"] if r["metric"] == "maj@4"]
    assert found["samples"] == 4 and found["chat"] is True and found["mean_tokens"] == 7.0 and "other at http" in found["model"]
    asked = len(server.asked)
    assert k15(["eval", *words]) == 0 and len(server.asked) == asked
    assert "nothing to do" in capsys.readouterr().out


def test_ctrl_c_ends_with_how_to_go_on(server: Server, tmp_path: Path, monkeypatch) -> None:
    write_data(tmp_path / "data")
    monkeypatch.setenv("THE_KEY", KEY)
    words = [
        f"run_dir={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}", "tasks=gsm8k", f"engine.url=http://127.0.0.1:{server.port}/v1",
        "engine.model=other", "engine.key_env=THE_KEY", "engine.concurrency=3", "sampling.samples=4", "sampling.temperature=0.7",
    ]  # fmt: skip
    run = subprocess.Popen([sys.executable, "-P", "-m", "k15", "eval", *words], env=dict(os.environ), stderr=subprocess.PIPE)
    assert server.held.wait(120)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 130 and f"the same words with run_dir={tmp_path / 'run'} go on from there" in said, said
    assert "Traceback" not in said, said


def test_base_models_are_stopped_where_their_program_ends(server: Server, tmp_path: Path) -> None:
    """Each problem's own stop texts, of which an endpoint gets four; none to a chat model, whose fence may hold one."""
    folder = tmp_path / "humaneval"
    folder.mkdir()
    python = {
        "task_id": "HumanEval/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "test": "def check(f):\n    assert f() == 1",
    }
    java = {"task_id": "HumanEval/0", "prompt": "class A {\n    int one() {\n", "tests": "}\n", "stop_tokens": ["\n    }\n"]}
    for name, row in (("reference_python", python), ("java", java)):
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    cfg = EvaluationConfig(tasks=["humaneval_mul_base:python", "humaneval_mul_base:java"], data_dir=str(tmp_path))
    cfg.engine.url, cfg.engine.model, cfg.engine.api = f"http://127.0.0.1:{server.port}/v1", "m", "completions"
    subject, found = Subject.of(cfg), plans(cfg)
    with ExitStack() as stack:
        stores = [stack.enter_context(Responses(tmp_path / "out", file_name(p.spec), p.asked)) for p in found]
        missing = [
            (p.spec, p.asked, 1, p.sampling(cfg, subject), p.stops(subject), store)
            for p, store in zip(found, stores, strict=True)
        ]
        sample(cfg, subject, [cfg.engine.url], None, missing)
    stops = {body["prompt"]: body["stop"] for body in server.asked}
    assert stops == {"def one():\n": ["\ndef ", "\nclass ", "\nif ", "\nprint"], java["prompt"]: java["stop_tokens"]}
    assert {body["max_tokens"] for body in server.asked} == {1024}
    assert len(found[0].stops(subject)["python/HumanEval/0"]) == 5 and found[0].stops(replace(subject, chat=True)) == {}


def test_a_refusal_ends_the_run_and_says_why(server: Server, tmp_path: Path, monkeypatch, capsys) -> None:
    write_data(tmp_path / "data")
    monkeypatch.setenv("WRONG", "not-it")
    words = [
        f"run_dir={tmp_path / 'run'}",
        f"data_dir={tmp_path / 'data'}",
        "tasks=gsm8k",
        "engine.model=m",
        "engine.key_env=WRONG",
    ]
    assert k15(["eval", *words, f"engine.url=http://127.0.0.1:{server.port}/v1"]) == 2
    assert "the key of engine.key_env is refused" in capsys.readouterr().err


def test_two_evaluations_have_a_folder_each(server: Server, tmp_path: Path, monkeypatch, capsys) -> None:
    """Started in one second they once shared one, and each counted the other's answers as its own."""
    write_data(tmp_path / "data")
    monkeypatch.setenv("THE_KEY", KEY)
    words = [
        f"data_dir={tmp_path / 'data'}", "tasks=gsm8k", "limit=4", f"engine.url=http://127.0.0.1:{server.port}/v1",
        "engine.model=other", "engine.key_env=THE_KEY", "engine.concurrency=3", "sampling.samples=4", "sampling.temperature=0.7",
    ]  # fmt: skip
    command = [sys.executable, "-P", "-m", "k15", "eval", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(found := list(tmp_path.glob("runs/*/responses"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == 2
    monkeypatch.chdir(tmp_path)
    held = found[0].parent
    assert server.held.wait(60)
    for more in ([], ["sampling.temperature=0.1"]):
        assert k15(["eval", *words, *more, f"run_dir={held}"]) == 2
        assert f"{held} is in use by process" in capsys.readouterr().err
    server.let = 10**6
    assert [p.wait(120) for p in both] == [0, 0]
    for folder in found:
        assert (folder / "gsm8k.jsonl").read_text().count("\n") == 16
    assert k15(["eval", *words, f"run_dir={held}"]) == 0 and "nothing to do" in capsys.readouterr().out
