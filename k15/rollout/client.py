"""One vLLM engine over HTTP: token ids in, token ids and behaviour log-probs out.

Generation goes through /inference/v1/generate (`--enable-scale-out`): exact token ids both ways, no detokenisation,
and every sampling parameter is the request's own, so that no generation_config.json can add a top-k or a penalty.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import aiohttp

from k15.config.schema import RepetitionConfig
from k15.errors import EngineError
from k15.rollout.server import SERVED_NAME

EngineFinish = Literal["stop", "length", "repetition", "abort"]
_FINISHES = ("stop", "length", "repetition", "abort")


class EngineUnavailable(EngineError):
    """The engine did not answer: connection error, broken answer, timeout or status 5xx. Another try may succeed."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one request sampled. `tokens` includes the end-of-sequence token when it was sampled (finish "stop");
    `logprobs[t]` (natural log) is of the distribution sampled, see `server.LOGPROBS_MODE`."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: EngineFinish


def engine_session() -> aiohttp.ClientSession:
    """A session for many concurrent requests. aiohttp's default of 100 connections would starve the engines; idle
    connections are dropped long before the server would, since a POST on a closing connection is not retried."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0))


class EngineClient:
    """Speaks to the engine at `base_url` with the job's bearer token. Every method raises EngineUnavailable when the
    engine does not answer within `timeout_s` (a request's whole time), EngineError when it refuses or answers nonsense.
    """

    def __init__(self, base_url: str, token: str, session: aiohttp.ClientSession, timeout_s: float = 300.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = session
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"EngineClient({self.base_url})"

    async def generate(
        self,
        prompt_tokens: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        repetition: RepetitionConfig | None = None,
        request_id: str | None = None,
    ) -> Generation:
        """Samples at most `max_tokens` tokens after `prompt_tokens`. An aborted request returns what it has."""
        sampling = {
            "max_tokens": max_tokens,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
            "logprobs": 0,  # the sampled token's only
            "detokenize": False,
        }
        if repetition is not None and repetition.enabled:
            sampling["repetition_detection"] = {
                "max_pattern_size": repetition.max_period,
                "min_pattern_size": repetition.min_period,
                "min_count": repetition.min_repeats,
            }
        body: dict[str, object] = {"token_ids": list(prompt_tokens), "model": SERVED_NAME, "sampling_params": sampling}
        if request_id is not None:
            body["request_id"] = request_id
        answer = await self._call("POST", "/inference/v1/generate", body)
        return self._parse(answer, max_tokens)

    def _parse(self, answer: Mapping, max_tokens: int) -> Generation:
        try:
            (choice,) = answer["choices"]
            tokens, finish = tuple(choice["token_ids"]), choice["finish_reason"]
            content = choice["logprobs"]["content"] if tokens else []
            ids, logprobs = tuple(c["token_id"] for c in content), tuple(float(c["logprob"]) for c in content)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.base_url} answered without tokens and log-probs ({error!r})") from error
        if ids != tokens:
            raise EngineError(f"{self.base_url}: {len(ids)} log-probs do not belong to the {len(tokens)} tokens")
        if len(tokens) > max_tokens or finish not in _FINISHES or (not tokens and finish != "abort"):
            raise EngineError(f"{self.base_url}: {len(tokens)} tokens of at most {max_tokens}, finish {finish!r}")
        # vLLM writes -9999 for minus infinity: a token that the distribution cannot sample.
        if bad := [p for p in logprobs if not (math.isfinite(p) and -9000.0 < p < 1e-3)]:
            raise EngineError(f"{self.base_url}: {bad[0]} is not the log-prob of a sampled token (weights not loaded?)")
        return Generation(tokens, logprobs, finish)

    async def prompt_logprobs(self, tokens: Sequence[int]) -> list[float]:
        """log p(tokens[t] | tokens[:t]) for t = 1..len-1, at temperature 1: len(tokens) - 1 floats. For the canary.

        vLLM samples one token besides, so len(tokens) must be below the engine's context length.
        """
        sampling = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        body = {"token_ids": list(tokens), "model": SERVED_NAME, "sampling_params": sampling}
        answer = await self._call("POST", "/inference/v1/generate", body)
        rows = answer.get("prompt_logprobs") or []
        if len(rows) != len(tokens):
            raise EngineError(f"{self.base_url}: {len(rows)} prompt log-probs for {len(tokens)} tokens")
        return [float(row[str(token)]["logprob"]) for row, token in zip(rows[1:], tokens[1:], strict=True)]

    async def abort_all(self) -> int:
        """Ends every request now; each returns its partial tokens with finish "abort". Returns how many there were."""
        return int((await self._call("POST", "/abort_requests", {}))["aborted"])

    async def sleep(self) -> None:
        """Moves the weights to host memory and drops the KV cache (vLLM's sleep level 1; CUDA only)."""
        await self._call("POST", "/sleep?level=1", {})

    async def wake(self) -> None:
        """Undoes `sleep`."""
        await self._call("POST", "/wake_up", {})

    async def health(self, timeout_s: float = 5.0) -> None:
        """Returns when the engine is alive, else raises EngineUnavailable."""
        await self._call("GET", "/health", timeout_s=timeout_s)

    async def _call(self, method: str, path: str, body: object = None, timeout_s: float | None = None) -> dict:
        total = timeout_s if timeout_s is not None else self._timeout_s
        where = f"engine {self.base_url}{path}"
        try:
            async with self._session.request(
                method,
                self.base_url + path,
                json=body,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=total),
            ) as response:
                raw = await response.read()
                status = response.status
        except TimeoutError as error:
            raise EngineUnavailable(f"{where}: no answer in {total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"{where}: {type(error).__name__}: {error}") from error
        if status >= 500:
            raise EngineUnavailable(f"{where}: status {status}: {raw[:300].decode(errors='replace')}")
        if status != 200:
            raise EngineError(f"{where}: status {status}: {raw[:300].decode(errors='replace')}")
        try:
            return json.loads(raw) if raw else {}
        except ValueError as error:
            raise EngineError(f"{where}: the answer is not JSON: {raw[:100]!r}") from error
