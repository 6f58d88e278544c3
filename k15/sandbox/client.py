"""The sandbox service's client, blocking and asyncio. Torch-free; the only part of this room that rewards may import.

Requests are tried again, with the same id, after a lost connection, 429 and 503 (as late as `Retry-After` says): the service
re-serves what it has done, so a request is never judged twice differently. Any other refusal is a ConfigError or DataError.

Two bounds end the trying. `patience_s` measures silence: time without a word from a working service; being put off by a busy one,
or a request that it is still working on, is a word. `queue_patience_s` bounds it all: a queue that never moves has an end.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import requests
from requests.adapters import HTTPAdapter
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from k15.errors import ConfigError, DataError, SandboxError
from k15.sandbox.checker import Checker
from k15.sandbox.dmoj import DmojSubmission, dmoj_json
from k15.sandbox.job import Job, Outcome
from k15.sandbox.languages import language
from k15.sandbox.wire import (
    Case,
    CaseResult,
    CompileResult,
    JudgeResult,
    Submission,
    job_json,
    judge_from,
    outcome_from,
    submission_from,
    submission_json,
)  # fmt: skip

__all__ = [
    "AsyncSandboxClient", "Case", "CaseResult", "Checker", "CompileResult", "DmojSubmission", "JudgeResult", "SandboxClient",
    "Submission", "language", "submission_from",
]  # fmt: skip
_LONGEST_WAIT_S = 30.0
_HEALTH_S = 10.0


class _Again(SandboxError):
    """Not now. `after_s`: the service's own word on when, None for none. `heard`: it works, and is only busy."""

    def __init__(self, message: str, after_s: float | None = None, heard: bool = False) -> None:
        super().__init__(message)
        self.after_s, self.heard = after_s, heard


class _Patience:
    """When to give up one request: tenacity's `stop`, with the last word of the service remembered."""

    def __init__(self, silence_s: float, all_s: float) -> None:
        self._silence_s, self._all_s = silence_s, all_s
        self._first = self._heard = time.monotonic()

    def __call__(self, state: RetryCallState) -> bool:
        now, error = time.monotonic(), state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, _Again) and error.heard:
            self._heard = now
        return now - self._heard >= self._silence_s or now - self._first >= self._all_s


@dataclass(frozen=True, slots=True)
class Access:
    """Where the service is and how long to try (see the module). `timeout_s`: of one try, before its health is asked for."""

    url: str
    token: str
    timeout_s: float = 300.0
    patience_s: float = 600.0
    queue_patience_s: float = 7200.0

    @classmethod
    def of(cls, url: str | None, token_file: str | None, **more: float) -> "Access":
        """Raises ConfigError where either is missing or the file cannot be read."""
        if not url or not token_file:
            raise ConfigError(
                "The sandbox's url and token_file are both needed. Start a service with `k15 sandbox serve --token-file FILE` "
                "and give sandbox.url=http://127.0.0.1:PORT sandbox.token_file=FILE."
            )
        try:
            token = Path(token_file).read_text().strip()
        except OSError as error:
            raise ConfigError(f"The sandbox's token file {token_file} cannot be read: {error.strerror}.") from error
        return cls(url.rstrip("/"), token, **more)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}

    def retrying(self) -> dict[str, Any]:
        return {
            "stop": _Patience(self.patience_s, self.queue_patience_s), "wait": _wait, "reraise": True,
            "retry": retry_if_exception_type(_Again),
        }  # fmt: skip


_backoff = wait_random_exponential(0.2, 10.0)


def _wait(state: RetryCallState) -> float:
    """At least what the service asked for, plus a random part, so that clients do not come back together."""
    error = state.outcome.exception() if state.outcome is not None else None
    after_s = error.after_s if isinstance(error, _Again) and error.after_s is not None else 0.0
    return min(_LONGEST_WAIT_S, after_s) + _backoff(state)


def _body(kind: str, status: int, after: str | None, text: str) -> dict[str, Any]:
    """The answer's JSON. Raises _Again, ConfigError, DataError or SandboxError."""
    try:
        body = json.loads(text)
    except ValueError:
        body = {"error": text[:300]}
    if status == 200:
        return body
    message = f"The sandbox refused /{kind} with status {status}: {body.get('error', body)}"
    if status in (429, 502, 503, 504):
        heard = status == 429 or body.get("busy") is True  # a 503 of a sandbox that fails is no sign of work
        raise _Again(message, float(after) if after is not None and after.isdigit() else None, heard)
    if status in (400, 401, 403, 409, 413):
        raise ConfigError(message)
    raise DataError(message) if status == 422 else SandboxError(message)


def _asked(submission: Submission | DmojSubmission) -> dict[str, Any]:
    return dmoj_json(submission) if isinstance(submission, DmojSubmission) else submission_json(submission)


def _identified(request: Mapping[str, Any], id: str | None) -> str:
    return json.dumps({**request, "id": id if id is not None else uuid.uuid4().hex})


class SandboxClient:
    """Blocking; safe to use from many threads (at most `connections` at once are kept open)."""

    def __init__(self, access: Access, connections: int = 16) -> None:
        self._access, self._connections = access, connections
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy of the environment is not for the job's own service
        self._http.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=connections))
        self._http.headers.update(access.headers)

    def judge(self, submission: Submission | DmojSubmission, id: str | None = None) -> JudgeResult:
        """The verdict. Raises SandboxError where patience ended, ConfigError or DataError for a wrong request."""
        return judge_from(self._post("judge", _identified(_asked(submission), id)))

    def judge_all(self, submissions: Sequence[Submission]) -> list[JudgeResult | Exception]:
        """Verdicts in order, several at a time; what was raised takes its verdict's place."""
        with ThreadPoolExecutor(self._connections) as pool:
            return list(pool.map(self._judge_or_error, submissions))

    def run(self, job: Job, id: str | None = None) -> Outcome:
        """What became of the job."""
        return outcome_from(self._post("run", _identified(job_json(job), id)))

    def health(self) -> dict[str, Any]:
        with _reachable():
            return self._http.get(f"{self._access.url}/health", timeout=self._access.timeout_s).json()

    def check(self) -> None:
        """Raises ConfigError where the service refuses the token, which /health does not ask for."""
        with _reachable():
            answer = self._http.get(f"{self._access.url}/metrics", timeout=self._access.timeout_s)
        if answer.status_code != requests.codes.ok:
            _body("metrics", answer.status_code, None, answer.text)

    def _judge_or_error(self, submission: Submission) -> JudgeResult | Exception:
        try:
            return self.judge(submission)
        except (SandboxError, ConfigError, DataError) as error:
            return error

    def _post(self, kind: str, body: str) -> dict[str, Any]:
        with _given_up(self._access):
            return Retrying(**self._access.retrying())(self._try, kind, body)

    def _try(self, kind: str, body: str) -> dict[str, Any]:
        try:
            with _reachable():
                answer = self._http.post(f"{self._access.url}/{kind}", data=body.encode(), timeout=self._access.timeout_s)
        except _Again as error:
            if isinstance(error.__cause__, requests.Timeout):
                with _reachable():
                    error.heard = self._http.get(f"{self._access.url}/health", timeout=_HEALTH_S).ok
            raise
        return _body(kind, answer.status_code, answer.headers.get("Retry-After"), answer.text)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "SandboxClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSandboxClient:
    """The same for asyncio; `async with` it."""

    def __init__(self, access: Access, connections: int = 64) -> None:
        self._access, self._connections = access, connections

    async def __aenter__(self) -> "AsyncSandboxClient":
        self._http = aiohttp.ClientSession(
            headers=self._access.headers, connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=self._access.timeout_s, sock_connect=10.0),
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def judge(self, submission: Submission | DmojSubmission, id: str | None = None) -> JudgeResult:
        """As SandboxClient.judge."""
        return judge_from(await self._post("judge", _identified(_asked(submission), id)))

    async def run(self, job: Job, id: str | None = None) -> Outcome:
        """As SandboxClient.run."""
        return outcome_from(await self._post("run", _identified(job_json(job), id)))

    async def _post(self, kind: str, body: str) -> dict[str, Any]:
        with _given_up(self._access):
            return await AsyncRetrying(**self._access.retrying())(self._try, kind, body)

    async def _try(self, kind: str, body: str) -> dict[str, Any]:
        try:
            with _reachable():
                async with self._http.post(f"{self._access.url}/{kind}", data=body.encode()) as answer:
                    return _body(kind, answer.status, answer.headers.get("Retry-After"), await answer.text())
        except _Again as error:
            if isinstance(error.__cause__, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=_HEALTH_S)
                with _reachable():
                    async with self._http.get(f"{self._access.url}/health", timeout=timeout) as answer:
                        error.heard = answer.ok
            raise


@contextmanager
def _reachable() -> Iterator[None]:
    """A lost connection or a time-out as _Again."""
    try:
        yield
    except (requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
        raise _Again(f"The sandbox service cannot be reached: {error}") from error


@contextmanager
def _given_up(access: Access) -> Iterator[None]:
    """The last failure with the bound that ended the trying."""
    try:
        yield
    except _Again as error:
        busy = f"It was busy for queue_patience_s={access.queue_patience_s:g}; give it more workers, or the request more time."
        silent = f"No word of a working service for patience_s={access.patience_s:g}."
        raise SandboxError(f"{error} {busy if error.heard else silent}") from error
