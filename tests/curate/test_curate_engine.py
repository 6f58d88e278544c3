"""The stages that ask a model, where the model or a prompt is not as it should be; and code, which is asked for its tag only."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracle import Oracle, said, served
from raw import row, settings, stages, write

from k15.curate import ask as asking
from k15.curate.ask import Asked, Checker
from k15.data.tokenizer import write_char_tokenizer
from k15.errors import DataError, EngineError
from k15.log.journal import Journal
from k15.reward import judge
from k15.reward.judge import PromptTooLong
from k15.runs.curate import preflight, run

TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens, which exceeds this "
    "limit even without any output tokens. Please reduce the length of the input prompt."
)


@pytest.mark.parametrize("status, says", [(400, TOO_LONG), (413, "Request Entity Too Large")])
def test_a_prompt_that_the_endpoint_refuses_leaves_and_code_is_not_asked(status: int, says: str, tmp_path: Path):
    oracle = Oracle()

    async def answer(request: web.Request) -> web.Response:
        if "very long" in (await request.json())["messages"][0]["content"]:
            return web.json_response({"error": {"message": says}}, status=status)
        return await oracle.answer(request)

    rows = [{"prompt": "What is 5 + 5?", "answer": "10", "difficulty": 0.9},
            {"prompt": "What is a very long sum?", "answer": "3"},
            {"prompt": "Add two numbers.", "answer": {"tests": [["1 2", "3"]]}, "difficulty": 0.25}]  # fmt: skip
    source = write(tmp_path / "s.jsonl", rows)
    asks = {"engine__model": "m", "hack__enabled": "true", "difficulty__enabled": "true"}
    with served(answer) as url:
        assert run(settings(tmp_path, sources=f"[{source}]", engine__url=url, **asks)) == 0
    assert oracle.asked and all(text.startswith("What is 5 + 5?") for text in oracle.asked)
    found = stages(tmp_path / "store" / "v1")["room to guess"]
    assert found["reasons"] == {"no room": 1} and found["examples"][0]["where"] == f"{source}:2"
    lines = [json.loads(line) for line in (tmp_path / "store" / "v1" / "prompts.jsonl").read_text().splitlines()]
    assert [(r["domain"], r["difficulty"], r.get("pass_rate")) for r in lines] == [("math", 0, 1), ("code", 0.25, None)]


@pytest.mark.parametrize("name", ["slow", "wrong"])
def test_an_engine_that_fails_is_called_an_engine_and_its_setting_is_named(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(judge, "FIRST_WAIT_S", 0.01)

    async def answer(request: web.Request) -> web.Response:
        if name == "wrong":
            return web.json_response({"error": "Unsupported parameter: 'max_tokens'"}, status=400)
        await asyncio.sleep(1)
        return said("too late")

    source = write(tmp_path / "s.jsonl", [{"prompt": "What is 5 + 5?", "answer": "10"}])
    with served(answer) as url, pytest.raises(EngineError) as error:
        run(settings(tmp_path, sources=f"[{source}]", engine__url=url, engine__model="m", hack__enabled="true",
                     engine__request_timeout_s="0.2"))  # fmt: skip
    assert f"the engine at {url}" in str(error.value)
    assert ("raise engine.request_timeout_s=0.2" if name == "slow" else "status 400") in str(error.value)


@hypothesis_settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=20), st.sets(st.sampled_from("abcdefgh")), st.integers(1, 5))
def test_batches_give_what_one_text_at_a_time_would(texts: list[str], refused: set[str], batch: int):
    asked: list[str] = []
    sizes: list[int] = []

    async def ask(text: str, seed: int, temperature: float, max_tokens: int) -> str:
        asked.append(text)
        if text in refused:
            raise PromptTooLong("no")
        return f"{text}{seed}"

    def reduce(at, answers):
        sizes.append(len({texts[i] for i in at}))
        assert all(said[0].startswith(texts[i]) and len(said) == 2 for i, said in zip(at, answers, strict=True))
        return [(i, *said) for i, said in zip(at, answers)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "BATCH", batch)
        journal = Journal(Path(":memory:"))
        found = asyncio.run(asking.reduced(texts, Asked("x", 2, 1.0, 8), ask, journal, reduce, seed=1, model="m", concurrency=3,
                                           shown=lambda: None))  # fmt: skip
        journal.close()
    assert [isinstance(f, PromptTooLong) for f in found] == [t in refused for t in texts]
    assert all(f[0] == i and f[1] != f[2] for i, f in enumerate(found) if not isinstance(f, PromptTooLong))
    assert len({f[1:] for f in found if not isinstance(f, PromptTooLong)}) == len(set(texts) - refused)
    assert max(sizes, default=0) <= batch and all(asked.count(t) == 2 for t in set(texts) - refused)


def test_a_verdict_is_that_of_rls_reward():
    checker = Checker()
    rows = [row("Expand $(x+1)^2$.", "x^2+2x+1"), row("What is one half?", "0.5")]
    answers = [["\\boxed{(x+1)^2}", "\\boxed{1+2x+x^2}", "no idea"], ["\\boxed{\\frac12}"]]
    assert checker.right(rows, answers) == [[False, True, False], [True]] and checker.failed == 0


def test_a_base_model_is_asked_without_a_chat_template(tmp_path: Path):
    folder = tmp_path / "base"
    write_char_tokenizer(folder, "0123456789+= ?")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in told.items() if k != "chat_template"}))
    asks = {"sources": f"[{write(tmp_path / 's.jsonl', [{'prompt': '1+1?', 'answer': '2'}])}]", "hack__enabled": "true"}
    with pytest.raises(DataError, match="set engine.chat=false"):
        preflight(settings(tmp_path, engine__path=str(folder), **asks), nodes=1)
    preflight(settings(tmp_path, engine__path=str(folder), engine__chat="false", **asks), nodes=1)


def test_ctrl_c_says_what_is_kept_and_shows_no_traceback(tmp_path: Path):
    asked, ended = [], threading.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request)
        while len(asked) > 1 and not ended.is_set() and request is not asked[0]:
            await asyncio.sleep(0.02)
        return said("\\boxed{3}")

    source = write(tmp_path / "s.jsonl", [{"prompt": f"What is {i} + {i}?", "answer": 2 * i} for i in range(20, 25)])
    with served(answer) as url:
        words = [f"sources=[{source}]", f"store={tmp_path}/store", f"run_dir={tmp_path}/run", f"engine.url={url}",
                 "engine.model=m", "hack.enabled=true", "hack.guesses=1", "engine.concurrency=4"]  # fmt: skip
        running = subprocess.Popen([sys.executable, "-m", "k15", "curate", *words], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(asked) < 5 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        said_last = running.communicate(timeout=60)[1]
        ended.set()
    assert running.returncode == 130 and "Traceback" not in said_last, said_last
    assert f"kept in {tmp_path}/run" in said_last and said_last.splitlines()[-1] == "k15 curate: interrupted"
    assert len(Journal(tmp_path / "run" / "answers.sqlite")) == 1
