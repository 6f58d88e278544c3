"""Worker processes with a hard time limit: a job that hangs, crashes or eats memory costs its own verdict only.

pool.run([("verify", ("1/2", "0.5")), ...]) -> [Outcome(ok, value | reason), ...]     in the order of the jobs
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from k15.log import get_logger
from k15.reward.worker import receive, send

Job = tuple[str, tuple]
CPU_BOUND = ("verify", "second")
WALL_PER_CPU = 6.0  # the clock may run so many times longer than the processor


@dataclass(frozen=True, slots=True)
class Outcome:
    """`value` of a job that ended well; else `reason` says what became of it."""

    ok: bool
    value: object = None
    reason: str = ""


class _Worker:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "k15.reward.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (*sys.path, os.getcwd()) if p)},
                start_new_session=True,
            )
        self.socket = ours
        self.prepared: set[Job] = set()
        self.index = -1
        self.waiting: tuple[Job, float] | None = None  # the job that follows a preparation
        self.deadline = 0.0

    def give(self, index: int, job: Job, timeout_s: float, start_s: float) -> None:
        """Start the job, after what it imports, which has a limit of its own: a slow import is not the job's fault."""
        needs: Job = ("prepare", (job[0], *(job[1][:1] if job[0] == "custom" else ())))
        self.index = index
        if needs in self.prepared or job[0] == "check_custom":
            self._send(job, start_s if job[0] == "check_custom" else timeout_s)
        else:
            self.waiting = job, timeout_s
            self.prepared.add(needs)
            self._send(needs, start_s)

    def go_on(self) -> None:
        """Start the job that waited for its imports."""
        assert self.waiting is not None
        (job, timeout_s), self.waiting = self.waiting, None
        self._send(job, timeout_s)

    def _send(self, job: Job, limit_s: float) -> None:
        """Algebra never waits, so its limit is processor time: on a busy machine no right answer is lost to the clock."""
        cpu_s = limit_s if job[0] in CPU_BOUND else None
        wall_s = limit_s if cpu_s is None else WALL_PER_CPU * limit_s
        self.deadline = time.monotonic() + wall_s
        send(self.socket, (*job, wall_s, cpu_s))

    def end(self, gone: bool = False) -> str:
        """Kill the worker and what it started; returns how it had ended. `gone`: its socket is closed, so it is exiting."""
        if gone:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a moment passes between the socket's end and the status
                self._process.wait(1.0)
        code = self._process.poll()
        with contextlib.suppress(ProcessLookupError):  # the group has already gone
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.socket.close()
        return "killed by signal " + signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


class WorkerPool:
    """At most `workers` processes, started when first needed; `timeout_s` bounds each job (algebra by processor time).

    What a worker imports before its first job of a kind is bounded by `start_s` and is not counted as the job's time.
    """

    def __init__(self, workers: int = 1, timeout_s: float = 5.0, start_s: float = 60.0) -> None:
        self._size, self._timeout_s, self._start_s = workers, timeout_s, start_s
        self._idle: list[_Worker] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Outcomes of all jobs, in order."""
        waiting = deque(enumerate(jobs))
        outcomes: list[Outcome | None] = [None] * len(jobs)
        busy: list[_Worker] = []
        try:
            while waiting or busy:
                while waiting and len(busy) < self._size:
                    busy.append(self._started(*waiting.popleft()))
                answered, late = self._ended(busy)
                for worker in answered or late:
                    outcome = self._outcome(worker, late=not answered)
                    if outcome is not None:
                        busy.remove(worker)
                        outcomes[worker.index] = outcome
        finally:
            for worker in busy:  # only after an interruption
                worker.end()
        assert all(o is not None for o in outcomes), "a job was lost"
        return outcomes  # type: ignore[return-value]

    def _started(self, index: int, job: Job) -> _Worker:
        """A worker that has the job: an idle one, or a fresh one where there is none or it died meanwhile."""
        if self._idle:
            worker = self._idle.pop()
            try:
                worker.give(index, job, self._timeout_s, self._start_s)
                return worker
            except OSError:  # it was killed while idle, by the OOM killer for one: no fault of this job
                get_logger("reward").warning("an idle reward worker had died (%s); starting another", worker.end(gone=True))
        worker = _Worker()
        with contextlib.suppress(OSError):  # dead at once: its closed socket is read as the job's crash
            worker.give(index, job, self._timeout_s, self._start_s)
        return worker

    @staticmethod
    def _ended(busy: list[_Worker]) -> tuple[list[_Worker], list[_Worker]]:
        """Wait until a worker has answered or died, or passed its deadline; (those that have answered or died, the late ones).

        An answer that is there counts, however late it is looked at: this process may have stood still.
        """
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.socket, selectors.EVENT_READ, worker)
            ready = selector.select(max(0.0, min(w.deadline for w in busy) - time.monotonic()))
        return [key.data for key, _ in ready], [w for w in busy if w.deadline <= time.monotonic()]

    def _outcome(self, worker: _Worker, *, late: bool) -> Outcome | None:
        """What came of the worker's job; None where it was the preparation that ended, and the job has begun."""
        if late:
            worker.end()
            return Outcome(False, reason="timeout" if worker.waiting is None else "timeout in its imports")
        try:
            ok, value = receive(worker.socket)  # type: ignore[misc]
            if ok and worker.waiting is not None:
                worker.go_on()
                return None
        except (EOFError, ConnectionError, BrokenPipeError):
            how = worker.end(gone=True)
            return Outcome(False, reason="timeout" if how.endswith("SIGPROF") else f"crash ({how})")
        if worker.waiting is not None:  # its imports failed; the next job tries them again
            worker.waiting, worker.prepared = None, set()
        self._idle.append(worker)
        return Outcome(True, value) if ok else Outcome(False, reason=str(value))

    def close(self) -> None:
        """End all workers."""
        while self._idle:
            self._idle.pop().end()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
