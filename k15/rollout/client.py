"""One vLLM engine over HTTP: token ids in, token ids and behaviour log-probs out.

Generation goes through /inference/v1/generate (`--enable-scale-out`): exact token ids both ways, no detokenisation,
and every sampling parameter is the request's own, so that no generation_config.json can add a top-k or a penalty.
Answers are streamed (`k15.rollout.stream`), so that an engine that dies takes only its last tokens with it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from k15.config.schema import RepetitionConfig
from k15.errors import EngineError
from k15.rollout.server import SERVED_NAME
from k15.rollout.stream import STREAM_TOKENS, Answer, EngineFrozen, EngineStale, EngineUnavailable, Generation, events

__all__ = ["EngineClient", "EngineFrozen", "EngineStale", "EngineUnavailable", "Generation", "engine_session"]
# A host that is silent for so long (unplugged, crashed) is given up; a link that is down for 10 s is not.
_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_COUNT = 15, 5, 6
_SILENCE_S = _KEEPALIVE_IDLE_S + _KEEPALIVE_EVERY_S * _KEEPALIVE_COUNT


def engine_session() -> aiohttp.ClientSession:
    """A session for many concurrent requests. aiohttp's default of 100 connections would starve the engines; idle
    connections are dropped long before the server would, since a POST on a closing connection is not retried."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0, socket_factory=_socket)
    return aiohttp.ClientSession(connector=connector)


def _socket(address: tuple) -> socket.socket:
    """A socket that notices a dead host, also while it waits for an answer that takes hours."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _SILENCE_S)
    return made


class EngineClient:
    """Speaks to the engine at `base_url` with the job's bearer token. Every method raises EngineUnavailable when the
    engine does not answer within `timeout_s` (a request's whole time), EngineError when it refuses or answers nonsense.

    Answers are streams: while requests are out and none of them brings anything for `silence_s`, the engine is frozen, and all
    raise EngineFrozen. `/health` would not tell: it is answered by another process than the one that computes.

    `expect(version)`: from then on `generate` takes tokens of that weight version only, and raises EngineStale else.
    """

    def __init__(
        self, base_url: str, token: str, session: aiohttp.ClientSession, timeout_s: float = 300.0, silence_s: float = 300.0
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._session = session
        self._timeout_s, self._silence_s = timeout_s, silence_s
        self._heard = 0.0  # when anything came last, by the loop's clock
        self._out: set[asyncio.Timeout] = set()  # of the requests that are out
        self._looking: asyncio.TimerHandle | None = None
        self._expected: int | None = None
        self._proven = False  # this server has shown that it holds the expected version
        self._proving = asyncio.Lock()

    def point_to(self, base_url: str) -> None:
        """Another server takes the place of this one."""
        self.base_url, self._proven = base_url.rstrip("/"), False

    @property
    def expected(self) -> int | None:
        """The weight version that is demanded of every answer."""
        return self._expected

    def expect(self, version: int | None) -> None:
        """Demand a weight version of every answer; None: take any."""
        self._expected, self._proven = version, False

    async def version(self, timeout_s: float = 60.0) -> int | None:
        """The weight version that the engine says it holds (`k15.weights.engine` labels it); None before the first."""
        label = (await self._call("GET", "/weight_info", timeout_s=timeout_s))["weight_version"]
        return int(label) if label.isdigit() else None

    async def _prove(self) -> None:
        """Once a server and version: a stream names its version only at its end, and one that breaks off never does."""
        async with self._proving:
            if self._expected is None or self._proven:
                return
            found = await self.version()
            if found != self._expected:
                raise EngineStale(f"engine {self.base_url} holds weights {found}, not {self._expected}")
            self._proven = True

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
        """Samples at most `max_tokens` tokens after `prompt_tokens`. An aborted request returns what it has; the error of
        one that broke off has what had arrived as `partial`."""
        sampling = {
            "max_tokens": max_tokens,
            "stream_interval": STREAM_TOKENS,
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
        body: dict[str, object] = {
            "token_ids": list(prompt_tokens), "model": SERVED_NAME, "sampling_params": sampling, "stream": True,
        }  # fmt: skip
        if request_id is not None:
            body["request_id"] = request_id
        await self._prove()
        return await self._stream("/inference/v1/generate", body, Answer(self.base_url, max_tokens, self._expected))

    async def _stream(self, path: str, body: object, answer: Answer) -> Generation:
        where, limit = f"engine {self.base_url}{path}", aiohttp.ClientTimeout(total=self._timeout_s)
        watched = asyncio.timeout(None)
        try:
            async with (
                watched,
                self._listening(watched),
                self._session.post(self.base_url + path, json=body, headers=self._headers, timeout=limit) as response,
            ):
                if response.status != 200:
                    raise _refusal(where, response.status, await response.read())
                async for event in events(response, where):
                    self._heard = asyncio.get_running_loop().time()
                    answer.add(event)
        except TimeoutError as error:
            if watched.expired():
                raise EngineFrozen(f"{where}: nothing for any request in {self._silence_s:g} s", answer.partial()) from error
            raise EngineUnavailable(f"{where}: no whole answer in {self._timeout_s:g} s", answer.partial()) from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"{where}: {type(error).__name__}: {error}", answer.partial()) from error
        return answer.whole()

    @asynccontextmanager
    async def _listening(self, watched: asyncio.Timeout) -> AsyncIterator[None]:
        """`watched` expires once the engine has been silent for too long."""
        if not self._out:
            self._heard = asyncio.get_running_loop().time()
        self._out.add(watched)
        if self._looking is None:
            self._look()
        try:
            yield
        finally:
            self._out.discard(watched)

    def _look(self) -> None:
        """At times, for as long as requests are out."""
        loop, step = asyncio.get_running_loop(), self._silence_s / 8
        now = loop.time()
        if self._looking is not None:
            self._heard += now - self._looking.when()  # while this process stood still, nothing could be heard
        if now - self._heard > self._silence_s:
            for watched in self._out:
                watched.reschedule(now)
            self._out.clear()  # an expired one cannot be set again
        self._looking = loop.call_at(now + step, self._look) if self._out else None

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

    async def abort_all(self, timeout_s: float = 5.0) -> int:
        """Ends every request now; each returns its partial tokens with finish "abort". Returns how many there were.

        The limit is short: who aborts has seconds left, and an engine that hangs must not keep them from the others.
        """
        return int((await self._call("POST", "/abort_requests", {}, timeout_s=timeout_s))["aborted"])

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
        if status != 200:
            raise _refusal(where, status, raw)
        try:
            return json.loads(raw) if raw else {}
        except ValueError as error:
            raise EngineError(f"{where}: the answer is not JSON: {raw[:100]!r}") from error


def _refusal(where: str, status: int, raw: bytes) -> EngineError:
    kind = EngineUnavailable if status >= 500 else EngineError
    return kind(f"{where}: status {status}: {raw[:300].decode(errors='replace')}")
