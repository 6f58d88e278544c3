"""The model's part: what it is asked, what of its answer is taken, and the way there over HTTP."""

import asyncio
import threading

import pytest
from aiohttp import web

from k15.data.tokenizer import load_tokenizer, write_char_tokenizer
from k15.errors import EngineError
from k15.testgen.author import EngineAuthor, generator_in, prompt
from k15.testgen.problems import Problem
from k15.testgen.settings import TestgenSettings

GOOD = "from cyaron import *\n\n\ndef generate(case, cases, io):\n    io.input_writeln(randint(1, 9))\n"
PROBLEM = Problem("double", "Print {n} twice.", ())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("There is no code here.", "no fenced block"),
        ("```python\ndef generate(case, cases, io:\n```", "does not parse"),
        ("```python\ndef make(case, cases, io):\n    pass\n```", "no function `generate`"),
        ("```python\nclass A:\n    def generate(self):\n        pass\n```", "no function `generate`"),
        ("```python\nx = '\0'\n```", "does not parse"),
        (f"```python\n{GOOD}", "no fenced block"),
    ],
)
def test_an_answer_without_a_generator_says_why(answer, said):
    generator, why = generator_in(answer)
    assert generator is None and said in why


def test_the_last_block_is_the_generator():
    answer = f"First a try:\n```python\nbad(\n```\nBetter:\n```Python\n{GOOD}```\nDone."
    assert generator_in(answer) == (GOOD, "")


def test_the_model_is_asked_with_the_statement_and_the_usage_of_cyaron():
    text = prompt(PROBLEM)
    assert "Print {n} twice." in text and "generate(case, cases, io)" in text and "input_writeln" in text
    assert "{statement}" not in text


class Engine:
    """A server that speaks vLLM's /inference/v1/generate: it answers every prompt with one text."""

    def __init__(self, encoder, text: str) -> None:
        self._tokens, self.asked, self._ready = encoder.encode_response(text), [], threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        assert self._ready.wait(20)

    async def _serve(self) -> None:
        app = web.Application()
        app.add_routes([web.post("/inference/v1/generate", self._generate)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await asyncio.sleep(600)

    async def _generate(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer secret":
            return web.Response(status=401)
        body = await request.json()
        self.asked.append(body)
        tokens = self._tokens[: body["sampling_params"]["max_tokens"]]
        content = [{"token_id": t, "logprob": -0.1} for t in tokens]
        finish = "stop" if len(tokens) == len(self._tokens) else "length"
        return web.json_response({"choices": [{"token_ids": tokens, "finish_reason": finish, "logprobs": {"content": content}}]})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_char_tokenizer(folder, "".join(map(chr, range(32, 127))) + "\n")
    return load_tokenizer(folder)


def test_a_generator_comes_over_http_with_a_seed_of_its_own_for_each_attempt(encoder):
    engine = Engine(encoder, f"```python\n{GOOD}```\n")
    settings = TestgenSettings(temperature=0.5, max_tokens=500)
    author = EngineAuthor([engine.url], "secret", encoder, settings, "tiny")
    assert author.write(PROBLEM, 0) == (GOOD, "") and author.write(PROBLEM, 1) == (GOOD, "") and author.write(PROBLEM, 0)[0]
    asked = [b["sampling_params"] for b in engine.asked]
    assert encoder.decode(engine.asked[0]["token_ids"]) == prompt(PROBLEM)
    assert asked[0]["seed"] == asked[2]["seed"] != asked[1]["seed"] and asked[0]["temperature"] == 0.5
    cut = EngineAuthor([engine.url], "secret", encoder, TestgenSettings(max_tokens=40), "tiny")
    assert cut.write(PROBLEM, 0)[1] == "the model's answer has no fenced block"
    assert cut.identity != author.identity
    short = EngineAuthor([engine.url], "secret", encoder, TestgenSettings(context_tokens=3000), "tiny")
    assert "too long for the model" in short.write(PROBLEM, 0)[1] and len(engine.asked) == 4
    with pytest.raises(EngineError):
        EngineAuthor([engine.url], "wrong", encoder, settings, "tiny").write(PROBLEM, 0)
