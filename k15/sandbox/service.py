"""The sandbox's HTTP service. Every route but /health wants `Authorization: Bearer <token>`.

    POST /judge     {"id"?, submission}       -> 200 verdicts     wire.Submission; with "kind": "dmoj" dmoj.DmojSubmission
    POST /run       {"id"?, job}              -> 200 outcome      job.Job
    POST /session   {"image"?, ...}           -> 201 {"session"}; /session/<id>/execute, /interrupt; DELETE closes it
    GET  /results/<id>                        -> 200, 202 (not yet), 404
    GET  /health, /metrics

`?wait=0` with an id answers 202 once the request is on disk. 400 and 422: the request is wrong; 409: the id was used for
something else; 413: too large; 429 and 503: come again after `Retry-After` seconds, with the same id (`"busy": true`: nothing is
wrong but the time).
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from k15.errors import ConfigError, DataError, K15Error, SandboxError, unknown_name
from k15.log import get_logger
from k15.sandbox import dmoj
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.images.store import Images
from k15.sandbox.job import Backend
from k15.sandbox.journal import Journal
from k15.sandbox.judge import Judge
from k15.sandbox.languages import LANGUAGES, language
from k15.sandbox.metrics import Metrics
from k15.sandbox.queue import FAILED, Answer, Busy, Conflict, Queue
from k15.sandbox.session import Sessions
from k15.sandbox.wire import JudgeResult, job_from, judge_json, outcome_json, submission_from

log = get_logger("sandbox")
MIN_TOKEN_CHARS = 16
PURGE_EVERY_S = 60.0
KINDS = ("tests", "dmoj")  # of a /judge request
_ID = re.compile(r"[A-Za-z0-9._:-]{1,200}")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """`state_dir` is on a local disk. Raises ConfigError for a weak token or an address that means every interface."""

    token: str
    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 2
    queue_size: int = 256
    max_request_bytes: int = 16 << 20
    keep_s: float = 3600.0
    grace_s: float = 20.0
    sessions: int = 8
    session_idle_s: float = 600.0

    def __post_init__(self) -> None:
        if len(self.token) < MIN_TOKEN_CHARS:
            raise ConfigError(
                f"The sandbox's token has {len(self.token)} characters; at least {MIN_TOKEN_CHARS} are needed. Make one with "
                "`openssl rand -hex 24` and give its file with --token-file."
            )
        try:
            unbound = ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            unbound = not self.host
        if unbound:
            raise ConfigError(
                f"host is {self.host!r}, which means every interface. Give 127.0.0.1 or the address of the job's interface."
            )
        for name, value in (
            ("workers", self.workers),
            ("queue_size", self.queue_size),
            ("max_request_bytes", self.max_request_bytes),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")


class Service:
    """`images`: what requests may choose from. `start()`, then `close()`; the backend stays the caller's."""

    def __init__(self, settings: ServiceSettings, backend: Backend, images: Images) -> None:
        self._settings, self._backend, self._images = settings, backend, frozenset(images.names())
        self._store, self._tracing, self._tracing_lock = images, None, threading.Lock()
        self._ready: dict[int, Any] = {}  # requests as records, from their arrival until a worker takes them
        self._sessions = Sessions(images, settings.sessions, settings.session_idle_s)
        self.metrics = Metrics()
        self._judge = Judge(backend)
        self._runner: web.AppRunner | None = None
        self._purging: asyncio.Task | None = None

    async def start(self) -> str:
        """Run again what a crash left unfinished, then listen; returns the URL."""
        s = self._settings
        self._journal = Journal(s.state_dir / "journal.sqlite", s.keep_s)
        self._queue = Queue(self._execute, self._journal, s.workers, s.queue_size, self.metrics)
        self.metrics.gauge("waiting", "requests that wait or run", lambda: len(self._queue))
        self.metrics.gauge("busy", "workers at work", lambda: self._queue.busy)
        self.metrics.gauge("sessions", "open sessions", lambda: len(self._sessions))
        recovered = await self._queue.recover()
        if recovered:
            log.info("running %d requests again that were accepted before the restart", recovered)
        self._purging = asyncio.create_task(self._purge())
        self._runner = web.AppRunner(self._app(), access_log=None)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, s.host, s.port, backlog=1024)
            await site.start()
        except OSError as error:
            await self.close()
            raise SandboxError(f"The sandbox cannot listen on {s.host}:{s.port}: {error.strerror}.") from error
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return f"http://{f'[{s.host}]' if ':' in s.host else s.host}:{port}"

    async def close(self) -> None:
        """Answer what is being done, then stop; what was accepted and waits is done after the next start."""
        if self._purging is not None:
            self._purging.cancel()
        await self._queue.close(self._settings.grace_s)
        await self._sessions.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(self._journal.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=self._settings.max_request_bytes, middlewares=[self._answered])
        app.add_routes([
            web.post("/judge", self._post), web.post("/run", self._post), web.get("/results/{id}", self._result),
            web.get("/health", self._health), web.get("/metrics", self._text), web.post("/session", self._open_session),
            web.post("/session/{session}/execute", self._cell), web.post("/session/{session}/interrupt", self._interrupt),
            web.delete("/session/{session}", self._end_session),
        ])  # fmt: skip
        return app

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may ask, and every error as JSON."""
        route = request.match_info.route.resource.canonical if request.match_info.route.resource else "unknown"
        try:
            if request.path != "/health":
                self._authorise(request)
            response = await handler(request)
        except web.HTTPException as error:
            response = web.json_response({"error": error.reason}, status=error.status)
        except Busy as error:
            status = 503 if self._queue.stopping or self._journal.failing is not None else 429
            said = {"error": str(error), "busy": True}  # unlike a sandbox that failed, which is a 503 as well
            response = web.json_response(said, status=status, headers={"Retry-After": str(error.retry_after_s)})
        except K15Error as error:
            status = 409 if isinstance(error, Conflict) else FAILED if isinstance(error, SandboxError) else 400
            status = 422 if isinstance(error, DataError) else status
            headers = {"Retry-After": "1"} if status == FAILED else None
            response = web.json_response({"error": str(error)}, status=status, headers=headers)
        self.metrics.answers.labels(route, response.status).inc()
        return response

    def _authorise(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self._settings.token}".encode()):
            raise web.HTTPUnauthorized(reason="the bearer token is missing or wrong")

    async def _post(self, request: web.Request) -> web.Response:
        kind = request.path.strip("/")
        body = await _object(request)
        if kind == "judge":
            asked = body.pop("kind", "tests")
            if asked not in KINDS:
                raise unknown_name("kind", str(asked), KINDS)
            kind = "dmoj" if asked == "dmoj" else kind
        id_ = body.pop("id", None)
        if id_ is not None and not (isinstance(id_, str) and _ID.fullmatch(id_)):
            raise ConfigError("`id` must be 1 to 200 letters, digits and . _ : - characters.")
        self._ready[id(body)] = self._parsed(kind, body)
        try:
            return _response(await self._queue.submit(kind, body, id_, request.query.get("wait", "1") != "0"))
        finally:
            self._ready.pop(id(body), None)

    async def _result(self, request: web.Request) -> web.Response:
        return _response(await self._queue.result(request.match_info["id"]))

    async def _health(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({
            "status": "stopping" if self._queue.stopping else "ok", "backend": self._backend.name, "images": sorted(self._images),
            "languages": [n for n, lang in LANGUAGES.items() if lang.image in self._images], "workers": self._settings.workers,
            "waiting": len(self._queue), "queue_size": self._settings.queue_size,
            "journal": self._journal.failing if self._journal.failing is not None else "ok",
        })  # fmt: skip

    async def _text(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=self.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def _parsed(self, kind: str, body: dict[str, Any]) -> Any:
        """The request as a record. Raises ConfigError, also for an image that is not here."""
        if kind == "run":
            job = job_from(body)
            self._check_image(job.image)
            return job
        if kind == "dmoj":
            self._check_image(dmoj.IMAGE)
            return dmoj.dmoj_from(body)
        submission = submission_from(body)
        self._check_image(submission.image if submission.image is not None else language(submission.language).image)
        return submission

    def _check_image(self, image: str) -> None:
        if image not in self._images:
            raise ConfigError(
                f"The image {image!r} is not here. Images: {', '.join(sorted(self._images))}. "
                f"Build it with `k15 sandbox build {image}` and start the service again."
            )

    def _execute(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """In a worker thread. A request that nobody waits for (any more), or of before a restart, is parsed again."""
        submission = self._ready.pop(id(body), None)
        if submission is None:
            submission = self._parsed(kind, body)
        if kind == "run":
            with self.metrics.seconds.labels(kind, "").time():
                return outcome_json(self._judge.run(submission))
        name = language(submission.language).name
        with self.metrics.seconds.labels(kind, name).time():
            result = self._graded(submission) if kind == "dmoj" else self._judge.judge(submission)
        self.metrics.verdicts.labels(name, result.verdict).inc()
        return judge_json(result)

    def _graded(self, submission: dmoj.DmojSubmission) -> JudgeResult:
        """By the DMOJ judge, whose backend is made for the first that asks for it."""
        with self._tracing_lock:
            if self._tracing is None:
                self._tracing = Bubblewrap(self._store, tracing=True)
        return dmoj.judge_dmoj(self._tracing, submission)

    async def _open_session(self, request: web.Request) -> web.Response:
        body = await _object(request)
        self._check_image(str(body.get("image", "jupyter")))
        return web.json_response(await self._sessions.open(body), status=201)

    async def _cell(self, request: web.Request) -> web.Response:
        return web.json_response(await self._sessions.execute(request.match_info["session"], await _object(request)))

    async def _interrupt(self, request: web.Request) -> web.Response:
        await self._sessions.interrupt(request.match_info["session"])
        return web.json_response({})

    async def _end_session(self, request: web.Request) -> web.Response:
        await self._sessions.end(request.match_info["session"])
        return web.json_response({})

    async def _purge(self) -> None:
        while True:
            await asyncio.sleep(min(PURGE_EVERY_S, max(0.1, self._settings.keep_s)))
            with contextlib.suppress(SandboxError):  # the journal itself has said so; the next time may be better
                await self._journal.purge()


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The request is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ConfigError("The request must be a JSON object.")
    return body


def _response(answer: Answer) -> web.Response:
    headers = {"Retry-After": "1"} if answer.status == FAILED else None
    return web.json_response(answer.body, status=answer.status, headers=headers)
