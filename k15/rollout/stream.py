"""The answer of an engine while it arrives: server-sent events of a few tokens each, checked and joined.

    data: {"choices": [{"token_ids": [...], "logprobs": {...}, "finish_reason": null}]}
    data: {"choices": [{..., "finish_reason": "stop", "weight_versions": [{"version": "7", "start": 0, "end": 40}]}]}
    data: [DONE]

An answer of any other type than text/event-stream is one such event.
"""

import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp

from k15.errors import EngineError

EngineFinish = Literal["stop", "length", "repetition", "abort"]
_FINISHES = ("stop", "length", "repetition", "abort")

STREAM_TOKENS = 32
"""Tokens an event, the first apart, which comes alone: what a crash can take from a request is one less."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one request sampled. `tokens` includes the end-of-sequence token when it was sampled (finish "stop");
    `logprobs[t]` (natural log) is of the distribution sampled, see `server.LOGPROBS_MODE`."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: EngineFinish


class EngineUnavailable(EngineError):
    """The engine did not answer: connection error, broken answer, timeout or status 5xx. Another try may succeed.

    `partial`: the tokens that had arrived, as if they had been aborted.
    """

    def __init__(self, message: str, partial: Generation | None = None) -> None:
        super().__init__(message)
        self.partial = partial


class EngineStale(EngineUnavailable):
    """The engine answers, but with other weights than it must hold: load them again before it is asked again."""


class EngineFrozen(EngineUnavailable):
    """The engine has sent nothing for any of its requests for so long that it is taken for frozen: only a restart helps."""


class Answer:
    """One answer of at most `max_tokens` tokens from the engine `where`, all of weight version `expected` (None: any)."""

    def __init__(self, where: str, max_tokens: int, expected: int | None) -> None:
        self._where, self._max_tokens, self._expected = where, max_tokens, expected
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._finish: EngineFinish | None = None

    def add(self, event: Mapping) -> None:
        """One event. Raises EngineError for nonsense, EngineUnavailable for an engine's error, EngineStale."""
        if "error" in event:
            raise EngineUnavailable(f"{self._where} broke off: {str(event['error'])[:300]}", self.partial())
        try:
            (choice,) = event["choices"]
            tokens, finish = list(choice["token_ids"]), choice["finish_reason"]
            content = choice["logprobs"]["content"] if tokens else []
            ids, logprobs = [c["token_id"] for c in content], [float(c["logprob"]) for c in content]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self._where} answered without tokens and log-probs ({error!r})") from error
        if ids != tokens:
            raise EngineError(f"{self._where}: {len(ids)} log-probs do not belong to the {len(tokens)} tokens")
        # vLLM writes -9999 for minus infinity: a token that the distribution cannot sample.
        if bad := [p for p in logprobs if not (math.isfinite(p) and -9000.0 < p < 1e-3)]:
            raise EngineError(f"{self._where}: {bad[0]} is not the log-prob of a sampled token (weights not loaded?)")
        self._tokens += tokens
        self._logprobs += logprobs
        n = len(self._tokens)
        if self._finish is not None or n > self._max_tokens or (finish is None and n == self._max_tokens):
            raise EngineError(f"{self._where} went on after its end: {n} tokens of at most {self._max_tokens}")
        if finish is not None:
            if finish not in _FINISHES or (n == 0 and finish != "abort"):
                raise EngineError(f"{self._where}: {n} tokens of at most {self._max_tokens}, finish {finish!r}")
            self._check_version(choice.get("weight_versions"))
            self._finish = finish

    def _check_version(self, spans: list[Mapping] | None) -> None:
        if self._expected is None or not self._tokens:
            return
        found = [span["version"] for span in spans if span["end"] > span["start"]] if spans is not None else []
        if found != [str(self._expected)]:
            raise EngineStale(f"{self._where} sampled with weights {', '.join(found)}, not {self._expected}")

    def whole(self) -> Generation:
        """Raises EngineUnavailable unless the last event has come."""
        if self._finish is None:
            raise EngineUnavailable(f"{self._where} ended its answer early", self.partial())
        return Generation(tuple(self._tokens), tuple(self._logprobs), self._finish)

    def partial(self) -> Generation | None:
        """What has arrived and is worth keeping."""
        finish = self._finish if self._finish is not None else "abort"
        return Generation(tuple(self._tokens), tuple(self._logprobs), finish) if self._tokens else None


async def events(response: aiohttp.ClientResponse, where: str) -> AsyncIterator[Mapping]:
    """The events of an answer, until it ends. Raises EngineError for what is not JSON."""
    if response.content_type != "text/event-stream":
        yield _parse(await response.read(), where)
        return
    rest = b""
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            text = line.removeprefix(b"data:").strip()
            if text and text != b"[DONE]" and line.startswith(b"data:"):
                yield _parse(text, where)


def _parse(text: bytes, where: str) -> Mapping:
    try:
        return json.loads(text)
    except ValueError as error:
        raise EngineError(f"{where}: the answer is not JSON: {text[:100]!r}") from error
