"""The service's bounded queue: what may come in, what is running, and what has been promised.

    submit -> known id? join or re-serve -> room? -> [journal] -> worker thread -> journal -> answer

With a request id a result is on disk before it is told, and a submission that nobody waits for is on disk before it is
accepted. Without an id nothing is promised beyond the connection, and nothing is written.
While the journal cannot be written, requests with an id are refused (come again), an answer that was promised waits until it can
be, and all else goes on.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from k15.errors import ConfigError, DataError, SandboxError
from k15.log import get_logger
from k15.sandbox.journal import Journal
from k15.sandbox.metrics import Metrics

log = get_logger("sandbox")
MAX_RETRY_AFTER_S = 60
FAILED = 503  # the sandbox failed: no verdict, worth another try
JOURNAL_PAUSE_S = 2.0  # between tries to write an answer that was promised


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and its JSON body."""

    status: int
    body: dict[str, Any]


class Busy(SandboxError):
    """The queue is full, the service is stopping, or its journal fails; `retry_after_s` says when to come again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(ConfigError):
    """The id was used for another request."""


class Queue:
    """`execute(kind, body)` runs in one of `workers` threads; at most `capacity` requests wait or run."""

    def __init__(
        self, execute: Callable[[str, dict[str, Any]], dict[str, Any]], journal: Journal, workers: int, capacity: int,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._execute, self._journal, self._metrics = execute, journal, metrics
        self._workers, self._capacity = workers, capacity
        self._pool = ThreadPoolExecutor(workers, "sandbox")
        self._open: dict[str, tuple[str, asyncio.Task[Answer]]] = {}
        self._anonymous: set[asyncio.Task[Answer]] = set()
        self._promised: set[str] = set()
        self._mean_s = 0.1
        self.busy = 0
        self.stopping = False

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._open) + len(self._anonymous)

    async def recover(self) -> int:
        """Run again what was accepted and not finished before a restart; returns how many."""
        entries = await self._journal.unfinished()
        for e in entries:
            assert e.body is not None, "an unfinished entry has its request"
            self._promised.add(e.id)
            self._open[e.id] = e.digest, self._task(e.kind, e.body, e.id, e.digest)
        self._metrics.recovered.inc(len(entries))
        return len(entries)

    async def submit(self, kind: str, body: dict[str, Any], id: str | None, wait: bool) -> Answer:
        """The answer; 202 at once where `wait` is False. Raises Busy, or Conflict where the id means something else."""
        if id is None:
            if not wait:
                raise ConfigError("Without waiting for the result, a request needs an id by which to ask for it.")
            self._admit()
            task = self._task(kind, body, None, "")
            self._anonymous.add(task)
            task.add_done_callback(self._anonymous.discard)
            return await asyncio.shield(task)
        digest = hashlib.sha256(json.dumps([kind, body], sort_keys=True).encode()).hexdigest()
        held = None if id in self._open else await self._journal.find(id)
        if id not in self._open:  # another connection may have brought it meanwhile
            if held is not None and held.status is not None:
                _same(id, held.digest, digest)
                if held.status != FAILED:
                    return Answer(held.status, held.result if held.result is not None else {})
            self._admit()
            await self._writable()
        if id not in self._open:
            self._open[id] = digest, self._task(kind, body, id, digest)
        held_digest, task = self._open[id]
        _same(id, held_digest, digest)
        if wait:
            return await asyncio.shield(task)
        already = id in self._promised
        self._promised.add(id)
        try:
            await self._journal.accept(id, digest, kind, body)
        except SandboxError as error:
            if not already:
                self._promised.discard(id)
            raise Busy(f"Nothing was accepted: {error}.", 5) from error
        if id not in self._open:  # it ended while the promise was written down
            self._promised.discard(id)
            held = await self._journal.find(id)
            if held is not None and held.status is None and id not in self._open:  # the sandbox had failed: the promise stands
                self._promised.add(id)
                self._open[id] = digest, self._task(kind, body, id, digest)
        return _pending(id)

    async def result(self, id: str) -> Answer:
        """What has become of a request: its answer, 202 while it is open, 404 where it is unknown."""
        if id in self._open:
            return _pending(id)
        held = await self._journal.find(id)
        if id in self._open:
            return _pending(id)
        if held is None or held.status is None:
            return Answer(404, {"error": f"No request {id!r} is known; results are kept for a limited time."})
        return Answer(held.status, held.result if held.result is not None else {})

    async def close(self, grace_s: float) -> None:
        """Take nothing more, wait for what runs at most `grace_s` seconds; what was accepted and waits stays on disk."""
        self.stopping = True
        tasks = {task for _, task in self._open.values()} | self._anonymous
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for task in tasks:
            task.cancel()

    def _admit(self) -> None:
        if self.stopping:
            raise Busy("The service is stopping.", 5)
        if len(self) >= self._capacity:
            wait_s = math.ceil(len(self) * self._mean_s / self._workers)
            raise Busy(f"The queue is full: {len(self)} requests.", min(max(1, wait_s), MAX_RETRY_AFTER_S))

    def _task(self, kind: str, body: dict[str, Any], id: str | None, digest: str) -> asyncio.Task[Answer]:
        task = asyncio.create_task(self._run(kind, body, id, digest))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to whoever waits, who may be nobody
        return task

    async def _writable(self) -> None:
        """Raises Busy where the journal cannot be written: work whose answer could not be kept is not begun."""
        if self._journal.failing is not None:
            try:
                await self._journal.probe()
            except SandboxError as error:
                raise Busy(f"Nothing is accepted now: {error}.", 5) from error

    async def _keep(self, id: str, digest: str, kind: str, answer: Answer) -> None:
        """Write the answer down; one that was promised is tried until it is written or the service stops. Raises Busy."""
        while True:
            try:
                return await self._journal.finish(id, digest, kind, answer.status, answer.body)
            except SandboxError as error:
                if id not in self._promised or self.stopping:
                    raise Busy(f"The request was done, and its answer cannot be kept: {error}.", 5) from error
            await asyncio.sleep(JOURNAL_PAUSE_S)

    async def _run(self, kind: str, body: dict[str, Any], id: str | None, digest: str) -> Answer:
        """Wait for a worker, do it, write the answer down; then it may be told."""
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, kind, body)
            # A promise that is made while the answer is being written finds it there, and leaves it.
            if id is not None and (answer.status != FAILED or id in self._promised):
                await self._keep(id, digest, kind, answer)
            return answer
        finally:
            if id is not None:
                self._open.pop(id, None)
                self._promised.discard(id)

    def _answer(self, kind: str, body: dict[str, Any]) -> Answer:
        """In a worker thread."""
        start = time.monotonic()
        self.busy += 1
        try:
            return Answer(200, self._execute(kind, body))
        except (ConfigError, DataError) as error:  # wrong in itself: trying again would not help
            return Answer(422, {"error": str(error)})
        except (SandboxError, OSError) as error:  # OSError: no process, memory or disk to be had
            self._metrics.failures.labels(kind).inc()
            log.error("%s", error)
            return Answer(FAILED, {"error": str(error)})
        except Exception as error:  # a bug of ours: it is told as one, and the other requests go on
            self._metrics.failures.labels(kind).inc()
            log.exception("a /%s request met a bug", kind)
            return Answer(500, {"error": f"bug in the sandbox: {type(error).__name__}: {error}"})
        finally:
            self.busy -= 1
            self._mean_s += 0.05 * (time.monotonic() - start - self._mean_s)


def _pending(id: str) -> Answer:
    return Answer(202, {"id": id, "state": "pending"})


def _same(id: str, held: str, digest: str) -> None:
    if held != digest:
        raise Conflict(f"The id {id!r} was used for another request. Give every request an id of its own.")
