"""Runs one sandbox process: sends the request, gathers the bounded output and the report, and never waits for ever."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

from k15.sandbox.backends import wire
from k15.sandbox.job import Job, Outcome

GRACE_S = 15.0  # beyond the job's own wall limit: start and end of the sandbox on a loaded machine
LATE = f"the sandbox did not end within {GRACE_S:.0f} s of its limit"
END_S = 3.0  # of the runtime, after its sandbox
_CHUNK = 1 << 16


def exchange(command: Sequence[str], request: bytes, job: Job) -> Outcome:
    """Start `command` with the control socket as its stdin and an EMPTY environment, and see the job through."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, cwd="/", start_new_session=True,
                bufsize=0,
            )  # fmt: skip
        with process.stdout, process.stderr:
            try:
                result = converse(ours, process.stdout.fileno(), process.stderr.fileno(), request, job)
            finally:
                ours.close()  # init ends, and everything with it, when nobody listens any more
                _end(process)
    return wire.explained(result, process.returncode)


class NotTakenError(Exception):
    """Whoever should start a job takes none: it has just ended, or too many descriptors are on their way."""


def hand_over(link: socket.socket, words: bytes, request: bytes, job: Job) -> Outcome:
    """Send `words` and a job's socket, output and errors to who starts it, and see the job through. Raises NotTakenError."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as others:
        try:
            control, theirs = socket.socketpair()
            ours.enter_context(control)
            others.enter_context(theirs)
            ends = []
            for _ in range(2):
                reads, writes = os.pipe()
                ours.callback(os.close, reads)
                others.callback(os.close, writes)
                ends.append((reads, writes))
            socket.send_fds(link, [words], [theirs.fileno(), *(writes for _, writes in ends)])
        except OSError as e:
            raise NotTakenError(str(e)) from e
        others.close()
        return converse(control, ends[0][0], ends[1][0], request, job)


def _end(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + END_S
    with contextlib.suppress(OSError):  # a kernel before 5.3: `wait` then looks every few milliseconds
        _await_end(process.pid)
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()


def _await_end(pid: int) -> None:
    """Until a child ends, at most `END_S`; to the moment, which `Popen.wait` with a timeout is not. Raises OSError."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(END_S * 1000)
    finally:
        os.close(handle)


def converse(ours: socket.socket, out: int, err: int, request: bytes, job: Job) -> Outcome:
    """The conversation with a sandbox that has just been started; `out`, `err`: descriptors of its output."""
    ours.setblocking(False)
    streams = {out: bytearray(), err: bytearray()}
    talk = _Talk(ours, request, job.limits.output_bytes, streams)
    late = not talk.until(time.monotonic() + job.limits.wall_s + GRACE_S)
    stdout, stderr = (bytes(s[: job.limits.output_bytes]) for s in streams.values())
    if late:
        return Outcome(None, stdout=stdout, stderr=stderr, error=LATE)
    found = wire.outcome(bytes(talk.report), job, stdout, stderr)
    if found.limit is None and found.error is None and any(len(s) > job.limits.output_bytes for s in streams.values()):
        return replace(found, limit="output")  # it ended before init had read that it is to be stopped
    return found


class _Talk:
    """The state of one conversation; `until` moves it on."""

    def __init__(self, ours: socket.socket, request: bytes, bound: int, streams: dict[int, bytearray]) -> None:
        self.ours, self.pending, self.bound, self.streams = ours, memoryview(request), bound, streams
        self.report = bytearray()
        self.stopped = False
        self.open = {*streams, ours.fileno()}

    def until(self, deadline: float) -> bool:
        """True when both ends have closed, False when the deadline came first."""
        poll = select.poll()
        for fd in self.streams:
            poll.register(fd, select.POLLIN)
        poll.register(self.ours, select.POLLIN | (select.POLLOUT if self.pending else 0))
        while self.open:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for fd, event in poll.poll(left * 1000):
                if fd in self.streams:
                    self._output(fd, poll)
                else:
                    self._control(event, poll)
        return True

    def _output(self, fd: int, poll: select.poll) -> None:
        data = os.read(fd, _CHUNK)
        kept = self.streams[fd]
        if not data:
            poll.unregister(fd)
            self.open.discard(fd)
        elif len(kept) <= self.bound:
            kept += data
        if len(kept) > self.bound and not self.stopped:
            self.stopped = True
            with contextlib.suppress(OSError):  # it may have ended by itself; its report says how
                self.ours.send(wire.STOP_OUTPUT)

    def _control(self, event: int, poll: select.poll) -> None:
        try:
            if event & select.POLLOUT and self.pending:
                try:
                    self.pending = self.pending[self.ours.send(self.pending) :]
                except ConnectionError:  # it takes no more; what it has said of the reason can still be read
                    self.pending = memoryview(b"")
                if not self.pending:
                    poll.modify(self.ours, select.POLLIN)
            if event & ~select.POLLOUT:
                data = self.ours.recv(_CHUNK)
                self.report += data
                if data:
                    return
                self._end(poll)
        except BlockingIOError:
            return
        except ConnectionError:
            self._end(poll)

    def _end(self, poll: select.poll) -> None:
        self.pending = memoryview(b"")
        poll.unregister(self.ours)
        self.open.discard(self.ours.fileno())
