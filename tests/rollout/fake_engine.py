"""A small honest engine: a real HTTP server that speaks vLLM's few routes and samples from a known function.

The next token depends on the whole context only, so that any interruption, retry or routing must give one answer,
which `expected` computes. Faults are real ones: status 500, a connection cut in mid-body, silence, a dead socket.
"""

import asyncio
import hashlib
import json

from aiohttp import web

EOS, VOCAB, TOKEN = 1, 50, "x" * 32


def next_token(context: list[int]) -> tuple[int, float]:
    digest = hashlib.blake2b(json.dumps(context).encode(), digest_size=8).digest()
    return (EOS if digest[0] < 12 else 2 + digest[1] % (VOCAB - 2)), -digest[2] / 100 - 0.01


def expected(prompt: list[int], limit: int) -> tuple[list[int], list[float], str]:
    """The uninterrupted response of at most `limit` tokens."""
    tokens, logprobs = [], []
    while len(tokens) < limit:
        token, p = next_token([*prompt, *tokens])
        tokens.append(token)
        logprobs.append(p)
        if token == EOS:
            return tokens, logprobs, "stop"
    return tokens, logprobs, "length"


class FakeEngine:
    """`faults` are used up one a request: "500", "hang", "cut" (the connection, in mid-answer), "broken" (an engine core
    that dies in mid-answer). `step_s` is the time of a token; `version` the label of the weights."""

    def __init__(self, step_s: float = 0.0, version: str = "default") -> None:
        self.step_s, self.version = step_s, version
        self.sent: dict[str, int] = {}  # request id -> tokens that went out
        self.faults: list[str] = []
        self.requests: list[dict] = []
        self.running = self.peak = 0
        self.url = ""
        self._aborted = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> "FakeEngine":
        app = web.Application()
        app.router.add_post("/inference/v1/generate", self._generate)
        app.router.add_post("/abort_requests", self._abort)
        app.router.add_get("/health", self._health)
        app.router.add_get("/weight_info", self._weight_info)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    async def kill(self) -> None:
        """Closes the socket and every connection; `start` brings it back on the same port."""
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _abort(self, request: web.Request) -> web.Response:
        running = self.running
        self._aborted.set()
        self._aborted = asyncio.Event()
        return web.json_response({"status": "aborted", "aborted": running})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        body = await request.json()
        self.requests.append(body)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            fault = self.faults.pop(0) if self.faults else None
            if fault == "500":
                return web.json_response({"error": "engine core died"}, status=500)
            if fault == "hang":
                await asyncio.sleep(3600)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await self._stream(body, response, fault, request)
            return response
        finally:
            self.running -= 1

    async def _weight_info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.version})

    async def _stream(self, body: dict, response: web.StreamResponse, fault: str | None, request: web.Request) -> None:
        """The first token alone, then one event every `stream_interval` tokens, the end with the rest."""
        interval = body["sampling_params"]["stream_interval"]
        due: list[tuple[int, float]] = []
        events = n = 0
        async for token, p, finish in self._sample(body):
            if token is not None:
                due.append((token, p))
                n += 1
            if finish is None and n > 1 and len(due) < interval:
                continue
            spans = [{"version": self.version, "start": 0, "end": n}] if finish is not None else None
            choice = {
                "token_ids": [t for t, _ in due],
                "finish_reason": finish,
                "logprobs": {"content": [{"token_id": t, "logprob": p} for t, p in due]},
                "weight_versions": spans,
            }
            events += 1
            if fault is not None and (events == 3 or finish is not None):
                if fault == "broken":
                    await response.write(b'data: {"error": {"message": "EngineCore died"}}\n\n')
                    return
                await asyncio.sleep(0.05)  # what went out has arrived
                request.transport.abort()
                return
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            self.sent[body["request_id"]] = n
            due = []
        await response.write(b"data: [DONE]\n\n")

    async def _sample(self, body: dict):
        """(token, log-prob, finish or None), one by one; an abort comes without a token."""
        aborted = self._aborted
        prompt, limit = body["token_ids"], body["sampling_params"]["max_tokens"]
        tokens: list[int] = []
        while len(tokens) < limit:
            if self.step_s:
                await asyncio.sleep(self.step_s)
            if aborted.is_set():
                yield None, 0.0, "abort"
                return
            token, p = next_token([*prompt, *tokens])
            tokens.append(token)
            yield token, p, "stop" if token == EOS else "length" if len(tokens) == limit else None
            if token == EOS:
                return
