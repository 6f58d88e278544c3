"""Processes that wait in an empty sandbox and fork for each job: a start costs no more than its namespaces.

The fork enters namespaces of its own (user, pid, mount, ipc, uts, cgroup), a fresh disk, limits and the system-call filter
through the same init as every other job (native/enter.c), and passes the same attacks. The network namespace is that of the
process that waits, which therefore has one job at a time: there are as many of them as jobs of an image have run at once.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends.bwrap import command, dropped
from k15.sandbox.backends.exchange import LATE, NotTakenError, hand_over
from k15.sandbox.job import Job, Outcome

_START_S = 30.0
_RETRY_S = (60.0, 3600.0)  # after a start that failed, perhaps for the load alone: the first pause, doubled up to the last
log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    """A process that waits and the socket over which it is given jobs."""

    process: subprocess.Popen[bytes]
    link: socket.socket


@dataclass
class _Place:
    """One image's. `lock` is held while one is started: one image's start delays no other."""

    free: list[_Waiting] = field(default_factory=list)  # that have no job now, the last used at the end
    lock: threading.Lock = field(default_factory=threading.Lock)
    pause_s: float = _RETRY_S[0]
    retry_at: float = 0.0  # time.monotonic()


class Residents:
    """`run` is `inside`'s program, process 1 of the waiting sandbox; `inside`: as in `command`. Started when first asked.

    `what`: its name in messages. Safe to use from many threads, which may end: it outlives the one that started it.
    """

    def __init__(self, what: str, inside: Mapping[str, Path], run: Sequence[str]) -> None:
        self._what, self._inside, self._words = what, dict(inside), list(run)
        self._lock = threading.Lock()  # of the dictionary alone
        self._places: dict[str, _Place] = {}

    def run(self, job: Job, rootfs: Path, request: bytes) -> Outcome | None:
        """Run the job to its end in its image, `rootfs`; None where that has no such process now."""
        with self._lock:
            place = self._places.setdefault(job.image, _Place())
        waiting = self._ready(place, job.image, rootfs)
        if waiting is None:
            return None
        outcome = None
        try:
            outcome = hand_over(waiting.link, b"j", request, job)
        except NotTakenError as e:
            log.warning("%s in image %r took no job: %s; this one starts without", self._what, job.image, e)
        finally:
            if outcome is None or outcome.error == LATE:  # its last job may be there still
                _stop(waiting)
            else:
                place.free.append(waiting)
        return outcome

    def close(self) -> None:
        """End them all; the next job starts one again. No job may be running."""
        with self._lock:
            places = list(self._places.values())
            self._places.clear()
        for waiting in (w for place in places for w in place.free):
            _stop(waiting)

    def _ready(self, place: _Place, image: str, rootfs: Path) -> _Waiting | None:
        """One that waits in this image and has no job; starts one where there is none, also after the last one's end."""
        waiting = _free(place)
        if waiting is not None:
            return waiting
        with place.lock:
            waiting = _free(place)  # one that has come back while another was started
            if waiting is not None or time.monotonic() < place.retry_at:
                return waiting
            try:
                waiting = self._start(image, rootfs)
            except SandboxError as e:
                log.warning("%s; its jobs start without, for %.0f s", e, place.pause_s)
                place.retry_at = time.monotonic() + place.pause_s
                place.pause_s = min(2 * place.pause_s, _RETRY_S[1])
                return None
            place.pause_s = _RETRY_S[0]
            return waiting

    def _start(self, image: str, rootfs: Path) -> _Waiting:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError(f"{self._what} needs bwrap; install the package bubblewrap")
        # Not bound to this thread, which may end long before it: the end of the link ends it.
        words = command(bwrap, rootfs, self._inside, self._words, capable=False, bound=False)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = subprocess.Popen(
                    [*dropped(), *words], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={}, cwd="/",
                    start_new_session=True,
                )  # fmt: skip
            except OSError as e:
                ours.close()
                raise SandboxError(f"{self._what} cannot be started for image {image!r}: {e}") from e
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(1)
        except (TimeoutError, ConnectionResetError):
            ready = b""
        ours.settimeout(None)
        waiting = _Waiting(process, ours)
        if ready != b"r":
            _kill(process)
            why = process.communicate()[1].decode(errors="replace")[-800:]
            _stop(waiting)
            raise SandboxError(f"{self._what} cannot wait in image {image!r}: {why if why else f'no answer in {_START_S:.0f} s'}")
        return waiting


def _free(place: _Place) -> _Waiting | None:
    """The last used of those that have no job and live; it is the caller's."""
    while place.free:
        try:
            waiting = place.free.pop()
        except IndexError:  # another thread was quicker
            return None
        if waiting.process.poll() is None:
            return waiting
        _stop(waiting)
    return None


def _stop(waiting: _Waiting) -> None:
    waiting.link.close()
    try:
        waiting.process.wait(5.0)
    except subprocess.TimeoutExpired:
        _kill(waiting.process)
        waiting.process.wait()
    waiting.process.stderr.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """bwrap and process 1 of its sandbox, which would outlive it alone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
