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
    """`faults` are used up one a request: "500", "cut", "hang". `step_s` is the time of a token."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.step_s = step_s
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
            answer = await self._sample(body)
            if fault == "cut":
                response = web.StreamResponse(headers={"Content-Length": "99999"})
                await response.prepare(request)
                await response.write(json.dumps(answer)[:40].encode())
                request.transport.abort()
                return response
            return web.json_response(answer)
        finally:
            self.running -= 1

    async def _sample(self, body: dict) -> dict:
        aborted = self._aborted
        prompt, limit = body["token_ids"], body["sampling_params"]["max_tokens"]
        tokens: list[int] = []
        content: list[dict] = []
        finish = "length"
        while len(tokens) < limit:
            if self.step_s:
                await asyncio.sleep(self.step_s)
            if aborted.is_set():
                finish = "abort"
                break
            token, p = next_token([*prompt, *tokens])
            tokens.append(token)
            content.append({"token_id": token, "logprob": p})
            if token == EOS:
                finish = "stop"
                break
        return {"choices": [{"token_ids": tokens, "finish_reason": finish, "logprobs": {"content": content}}]}
