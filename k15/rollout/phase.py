"""One rollout phase: every job gets one segment, all engines are kept full, engines may fail and come back.

    pending ──(least loaded engine with a free slot)──▶ request ──▶ result
       ▲                                                  │ engine failed: what had arrived is a segment of its own
       └──────────────────────────────────────────────────┘   recovery: the callback's, or wait for /health

No token that has arrived is sampled again: the request that takes over goes on behind it, on whichever engine is free.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

from k15.errors import EngineError
from k15.rollout.client import EngineClient, EngineUnavailable, Generation
from k15.rollout.metrics import PhaseMetrics
from k15.rollout.plan import Plan
from k15.rollout.repetition import first_repetition
from k15.rollout.seeds import derive_seed, segment_seed
from k15.rollout.staleness import check_lengths, spent
from k15.types import Finish, Rollout, Segment

log = logging.getLogger(__name__)

OnEngineFailure = Callable[[EngineClient, EngineError], Awaitable[EngineClient | None]]
"""Told of a failed engine; returns the client to go on with (the same or another) once it answers, or None to do
without it."""

OnProgress = Callable[[PhaseMetrics, int], None]
"""Called after every segment with the phase's metrics so far and the number of rollouts done."""


@dataclass(eq=False)
class Lane:
    """An engine and its load. `epoch` counts its failures in this phase, so that one failure that breaks many
    requests is handled once; `failures` counts those since its last success. `leaving`: it gets no more requests, and
    what it gives back unfinished goes on elsewhere. `gone`: it could not be brought up again."""

    client: EngineClient
    running: int = 0
    up: bool = True
    leaving: bool = False
    gone: bool = False
    epoch: int = 0
    failures: int = 0


@dataclass(eq=False)
class _Job:
    position: int
    rollout: Rollout
    attempts: int = 0


class Phase:
    """Runs `rollouts` by one segment each; a Phase is used once."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        rollouts: Sequence[Rollout],
        plan: Plan,
        *,
        version: int,
        run_seed: int,
        on_failure: OnEngineFailure | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.lanes = list(lanes)
        self.results = list(rollouts)
        self.plan, self.version, self.run_seed = plan, version, run_seed
        self.metrics = PhaseMetrics(rollouts=len(self.results))
        self._on_failure, self._on_progress = on_failure, on_progress
        self._home: dict[str, Lane] = {}  # prompt -> the engine that has its prefix in cache; only breaks ties
        jobs = [_Job(i, r) for i, r in enumerate(self.results)]
        # Continued rollouts are the long ones: they start first, which shortens the tail.
        self._pending = deque(sorted(jobs, key=lambda j: not j.rollout.segments))
        self._tasks: set[asyncio.Task] = set()
        self._recovering: set[asyncio.Task] = set()
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._error: BaseException | None = None
        self._last_failure: EngineError | None = None
        self._stopping = False
        self._slots = plan.max_concurrent + max(1, plan.max_concurrent // 8)

    async def run(self) -> list[Rollout]:
        """The rollouts in their order, each longer by at most one segment. Raises EngineError when a request failed
        more than `max_retries` times or no engine is left; nothing is running on the engines then."""
        try:
            while True:
                self._fill()
                if self._error is not None:
                    raise self._error
                if not self._tasks and not self._pending:
                    return self.results  # an engine that is still being healed is not waited for
                if not self._tasks and not self._recovering:
                    why = f"; {self._last_failure}" if self._last_failure is not None else ""
                    raise EngineError(f"no engine is left for {len(self._pending)} rollouts{why}")
                await self._wake.wait()
                self._wake.clear()
        finally:
            self.metrics.close()
            await self._cancel(self._tasks)
            self._ended.set()

    async def stop(self, grace_s: float) -> None:
        """Ends the phase early: running requests return their partial tokens. Waits at most `grace_s` for them; what
        has not come back by then is given up (those rollouts stay as they were)."""
        self._stopping = True
        self._pending.clear()
        self._wake.set()
        await self._cancel(self._recovering)
        deadline = asyncio.get_running_loop().time() + grace_s
        while not self._ended.is_set() and asyncio.get_running_loop().time() < deadline:
            # Again and again: a request may still be on its way to the engine when the first abort arrives.
            await asyncio.gather(*(self._abort(lane) for lane in self.lanes if lane.up and lane.running))
            try:
                await asyncio.wait_for(self._ended.wait(), 0.1)
            except TimeoutError:
                continue
        await self._cancel(self._tasks)
        self._wake.set()
        await self._ended.wait()

    async def _abort(self, lane: Lane) -> None:
        try:
            await lane.client.abort_all()
        except EngineError as error:
            log.warning("%r could not abort: %s", lane.client, error)
            lane.up = False

    async def drain(self, lane: Lane) -> None:
        """Ends the work of `lane` in this phase: its requests return what they have, and go on on the other engines.
        Returns when it has none."""
        lane.leaving, lane.up = True, False
        while lane.running and not self._ended.is_set():
            try:
                await lane.client.abort_all()
            except EngineError as error:
                log.warning("%r could not abort: %s", lane.client, error)
                return  # its requests fail by themselves
            await asyncio.sleep(0.1)  # again: a request may have been on its way

    def _fill(self) -> None:
        while self._pending and (lane := self._pick(self._pending[0].rollout)) is not None:
            job = self._pending.popleft()
            lane.running += 1
            self._spawn(self._segment(lane, job), self._tasks)

    def _pick(self, rollout: Rollout) -> Lane | None:
        free = [lane for lane in self.lanes if lane.up and lane.running < self._slots]
        home = self._home.get(rollout.prompt_id)
        return min(free, key=lambda lane: (lane.running, lane is not home), default=None)

    def _spawn(self, work: Coroutine, group: set[asyncio.Task]) -> None:
        task = asyncio.create_task(work)
        group.add(task)

        def finished(task: asyncio.Task) -> None:
            group.discard(task)
            if not task.cancelled() and task.exception() is not None and self._error is None:
                self._error = task.exception()
                if self._ended.is_set():
                    log.error("an engine could not be healed: %s", self._error)  # whoever asks it next meets the error
            self._wake.set()

        task.add_done_callback(finished)

    async def _segment(self, lane: Lane, job: _Job) -> None:
        rollout, epoch = job.rollout, lane.epoch
        budget = self.plan.budget_tokens - spent(rollout, self.version)
        allowed = min(budget, self.plan.max_response_tokens - rollout.length)
        seed = segment_seed(self.run_seed, rollout)
        self._home[rollout.prompt_id] = lane
        try:
            got = await lane.client.generate(
                (*rollout.prompt_tokens, *rollout.response_tokens),
                max_tokens=allowed,
                seed=seed,
                temperature=self.plan.temperature,
                top_p=self.plan.top_p,
                repetition=self.plan.repetition,
                request_id=f"{derive_seed(seed, job.position, job.attempts):016x}",
            )
        except EngineUnavailable as error:
            self._count(lane, error.partial)
            done = error.partial is not None and self._keep(job, error.partial, allowed)
            if error.partial is not None and error.partial.tokens:
                job.attempts = 0  # it got on: a response longer than a request may take is no failure
            self._failed(lane, epoch, job, error, done=done)
            return
        finally:
            lane.running -= 1
        if lane.epoch == epoch:
            lane.failures = 0
        self._count(lane, got)
        if got.finish != "abort" or self._stopping:
            self._accept(job, got, allowed)
        elif not self._keep(job, got, allowed):  # not by us: its server is ending, or it leaves
            if got.tokens or lane.leaving:
                self._pending.appendleft(job)
            else:
                self._retry(lane, job, EngineUnavailable("the engine aborted a request that nobody had called off"))

    def _count(self, lane: Lane, got: Generation | None) -> None:
        self.metrics.tokens_by_engine[lane.client.base_url] += len(got.tokens) if got is not None else 0

    def _keep(self, job: _Job, got: Generation, allowed: int) -> bool:
        """Takes what came of a request that broke off; whether the rollout needs no more in this phase."""
        before = self.metrics.tokens
        finish = self._extend(job, got, allowed)
        self.metrics.kept_tokens += self.metrics.tokens - before
        if finish != "abort":
            self._finished(finish)
        return finish != "abort"

    def _accept(self, job: _Job, got: Generation, allowed: int) -> None:
        self._finished(self._extend(job, got, allowed))

    def _finished(self, finish: Finish) -> None:
        self.metrics.segment_done(finish)
        if self._on_progress is not None:
            self._on_progress(self.metrics, sum(self.metrics.finishes.values()))

    def _extend(self, job: _Job, got: Generation, allowed: int) -> Finish:
        """Makes the rollout longer by what `got` gives it; why that ended."""
        rollout, plan = job.rollout, self.plan
        finish: Finish = got.finish
        n = len(got.tokens)
        if got.finish == "length":
            if n != allowed:
                raise EngineError(f"an engine stopped at {n} of {allowed} tokens: its context is shorter than ours")
            finish = "length" if rollout.length + n == plan.max_response_tokens else "budget"
        whole = rollout.response_tokens + got.tokens
        # vLLM looks at this segment's tokens only, and not at the one that ends a budget.
        if plan.repetition.enabled and n and (rollout.segments or finish in ("budget", "abort")):
            checked = len(whole) - (finish in ("stop", "length"))  # these two come before the check, as in vLLM
            end = first_repetition(whole[:checked], rollout.length, plan.repetition)
            assert end is not None or finish != "repetition", "vLLM stopped on a repetition that is none"
            if end is not None:
                self.metrics.dropped_tokens += len(whole) - end
                n, finish = end - rollout.length, "repetition"
        if n:  # a request that was aborted before its first token leaves its rollout as it was
            rollout = rollout.extended(Segment(got.tokens[:n], got.logprobs[:n], self.version, finish))
            check_lengths(rollout, plan.max_response_tokens)
            job.rollout = self.results[job.position] = rollout
        if finish == "repetition":
            self.metrics.repetition_saved_tokens_upper_bound += plan.max_response_tokens - rollout.length
        self.metrics.tokens += n
        return finish

    def _failed(self, lane: Lane, epoch: int, job: _Job, error: EngineUnavailable, *, done: bool) -> None:
        """Sends the request again, unless it is `done` already, and brings the lane up again."""
        self._last_failure = error
        if self._stopping:
            return
        if not done:
            self._retry(lane, job, error)
        if lane.epoch == epoch and lane.up:
            lane.up, lane.epoch, lane.failures = False, lane.epoch + 1, lane.failures + 1
            self.metrics.engine_failures += 1
            log.warning("%r failed (%d in a row): %s", lane.client, lane.failures, error)
            self._spawn(self._recover(lane, error), self._recovering)

    def _retry(self, lane: Lane, job: _Job, error: EngineUnavailable) -> None:
        job.attempts += 1
        if job.attempts > self.plan.max_retries:
            raise EngineError(
                f"rollout {job.rollout.index} of prompt {job.rollout.prompt_id!r} failed "
                f"{job.attempts} times, last on {lane.client!r}: {error}"
            ) from error
        self.metrics.retries += 1
        self._pending.appendleft(job)

    async def _recover(self, lane: Lane, error: EngineUnavailable) -> None:
        """Brings `lane` up again, or drops it: after `max_retries` failures in a row, or when the callback says so."""
        client: EngineClient | None = None
        if lane.failures <= self.plan.max_retries:
            if self._on_failure is not None:
                client = await self._on_failure(lane.client, error)
            else:
                client = await self._wait_healthy(lane.client)
        if client is None:
            log.error("going on without %r: %s", lane.client, error)
            self.lanes.remove(lane)
            lane.gone = True
            return
        lane.client, lane.up = client, not lane.leaving

    async def _wait_healthy(self, client: EngineClient) -> EngineClient | None:
        for attempt in range(self.plan.max_retries):
            await asyncio.sleep(min(0.1 * 4**attempt, 5.0))
            try:
                await client.health()
                return client
            except EngineUnavailable as error:
                self._last_failure = error
        return None

    @staticmethod
    async def _cancel(tasks: set[asyncio.Task]) -> None:
        running = [t for t in tasks if not t.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
