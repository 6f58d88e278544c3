"""OpenAI-compatible endpoints on this machine, for the stages of curation that ask a model."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Thread

from aiohttp import web


def said(text: str, finish: str = "stop") -> web.Response:
    """A chat completion."""
    return web.json_response({"choices": [{"message": {"content": text}, "finish_reason": finish}]})


class Oracle:
    """Solves even sums, guesses sums below 4, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail_after: int | None = None
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            return web.json_response({"error": "out of memory"}, status=400)
        body = await request.json()
        text = body["messages"][0]["content"]
        self.asked.append(text)
        a, b = (int(n) for n in text.split("?")[0].removeprefix("What is ").split(" + "))
        knows = a + b < 4 if "without any reasoning" in text else (a + b) % 2 == 0 or random.Random(body["seed"]).random() < 0.5
        return said(f"\\boxed{{{a + b if knows else -1}}}", "length")


@contextmanager
def served(answer: Callable[[web.Request], Awaitable[web.Response]]) -> Iterator[str]:
    """The url of an endpoint that answers chat completions with `answer`."""
    loop, ready = asyncio.new_event_loop(), []

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.append(runner)

    loop.run_until_complete(start())
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{ready[0].addresses[0][1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(ready[0].cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
