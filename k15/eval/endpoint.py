"""Answers from an OpenAI-compatible endpoint: k15's own vLLM servers (token ids in), or one that runs elsewhere (text in)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from k15.errors import EngineError
from k15.reward.judge import patiently
from k15.rollout.client import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every answer of a task is sampled. `max_tokens` bounds an answer; `stop` texts end it and are left out."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`tokens`: sampled, the end-of-sequence token included; `finish`: stop, length where `max_tokens` cut it, or an
    endpoint's own word (content_filter), which is judged like any other answer."""

    text: str
    tokens: int
    finish: str


class Endpoint:
    """Spreads requests over `urls` (each ends in /v1), the one with the fewest in flight first.

    `api`: completions (a prompt of token ids or text) or chat (text, as one user message). Every method raises EngineError
    when an endpoint refuses or answers nonsense, EngineUnavailable when it stays silent for `tries` tries.
    """

    def __init__(
        self, session: aiohttp.ClientSession, urls: Sequence[str], model: str, *, key: str | None, api: str = "completions",
        timeout_s: float = 3600.0, tries: int = 4,
    ) -> None:  # fmt: skip
        self._session, self._model, self._api, self._tries = session, model, api, tries
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._in_flight = dict.fromkeys((u.rstrip("/") for u in urls), 0)

    async def answer(self, prompt: Sequence[int] | str, sampling: Sampling, seed: int) -> Answer:
        """One answer. The same seed gives the same answer as far as the endpoint's arithmetic does."""
        body: dict[str, object] = {
            "model": self._model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "seed": seed, "n": 1,
        }  # fmt: skip
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._api == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
        return await patiently(lambda: self._once(body), self._tries)

    async def _once(self, body: dict[str, object]) -> Answer:
        url = min(self._in_flight, key=lambda u: self._in_flight[u])
        self._in_flight[url] += 1
        try:
            return self._parsed(url, await self._post(url, body))
        finally:
            self._in_flight[url] -= 1

    async def _post(self, url: str, body: dict[str, object]) -> bytes:
        address = url + ("/chat/completions" if self._api == "chat" else "/completions")
        try:
            async with self._session.post(address, json=body, headers=self._headers, timeout=self._timeout) as response:
                status, raw = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineUnavailable(f"{address}: {type(error).__name__}: {error}") from error
        if status != 200:
            if status in (401, 403):
                raise EngineError(f"{address}: the key of engine.key_env is refused: {raw[:300].decode(errors='replace')}")
            kind = EngineUnavailable if status in (408, 429) or status >= 500 else EngineError
            raise kind(f"{address}: status {status}: {raw[:300].decode(errors='replace')}")
        return raw

    def _parsed(self, url: str, raw: bytes) -> Answer:
        try:
            body = json.loads(raw)
            choice = body["choices"][0]
            text = choice["message"]["content"] if self._api == "chat" else choice["text"]
            finish, tokens = str(choice["finish_reason"]), int(body["usage"]["completion_tokens"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EngineError(f"{url} answered without a text and its usage ({error!r}): {raw[:200]!r}") from error
        return Answer(str(text if text is not None else ""), tokens, finish)
