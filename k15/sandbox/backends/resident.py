"""Processes that wait in an empty sandbox, one an image, and fork for each job: a start costs no more than its namespaces.

The fork enters namespaces of its own (user, pid, mount, network, ipc, uts, cgroup), a fresh disk, limits and the system-call
filter through the same init as every other job (native/enter.c), and passes the same attacks.
"""

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends.bwrap import command, dropped
from k15.sandbox.backends.exchange import converse
from k15.sandbox.images.store import Images
from k15.sandbox.job import Job, Outcome

_START_S = 30.0
log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    """A process that waits and the socket over which it is given jobs."""

    process: subprocess.Popen[bytes]
    link: socket.socket


class Residents:
    """`run` is `inside`'s program, process 1 of the waiting sandbox; `inside`: as in `command`. Started when first asked.

    `what`: its name in messages. Safe to use from many threads.
    """

    def __init__(self, what: str, images: Images, inside: Mapping[str, Path], run: Sequence[str]) -> None:
        self._what, self._images, self._inside, self._words = what, images, dict(inside), list(run)
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting | None] = {}  # None: this image cannot have one

    def run(self, job: Job, request: bytes) -> Outcome | None:
        """Run the job to its end; None where its image can have no such process. Raises SandboxError for an unknown image."""
        waiting = self._ready(job.image)
        if waiting is None:
            return None
        ours, theirs = socket.socketpair()
        out, out_theirs = os.pipe()
        err, err_theirs = os.pipe()
        try:
            with ours:
                try:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has just died: no report will say so
                        socket.send_fds(waiting.link, [b"j"], [theirs.fileno(), out_theirs, err_theirs])
                finally:
                    theirs.close()
                    os.close(out_theirs)
                    os.close(err_theirs)
                return converse(ours, out, err, request, job)
        finally:
            os.close(out)
            os.close(err)

    def close(self) -> None:
        """End them all; the next job starts one again. No job may be running."""
        with self._lock:
            for waiting in self._waiting.values():
                if waiting is not None:
                    _stop(waiting)
            self._waiting.clear()

    def _ready(self, image: str) -> _Waiting | None:
        """The one that waits in this image; starts one, also after the last one's end."""
        with self._lock:
            waiting = self._waiting.get(image)
            if waiting is not None and waiting.process.poll() is not None:
                _stop(waiting)
                del self._waiting[image]
            if image not in self._waiting:
                rootfs = self._images.rootfs(image)
                try:
                    self._waiting[image] = self._start(image, rootfs)
                except SandboxError as e:
                    log.warning("%s; its jobs start without", e)
                    self._waiting[image] = None
            return self._waiting[image]

    def _start(self, image: str, rootfs: Path) -> _Waiting:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError(f"{self._what} needs bwrap; install the package bubblewrap")
        words = command(bwrap, rootfs, self._inside, self._words, capable=False)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*dropped(), *words], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={}, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(1)
        except (TimeoutError, ConnectionResetError):
            ready = b""
        ours.settimeout(None)
        waiting = _Waiting(process, ours)
        if ready != b"r":
            process.kill()
            why = process.communicate()[1].decode(errors="replace")[-800:]
            _stop(waiting)
            raise SandboxError(f"{self._what} cannot wait in image {image!r}: {why}")
        return waiting


def _stop(waiting: _Waiting) -> None:
    waiting.link.close()
    try:
        waiting.process.wait(5.0)
    except subprocess.TimeoutExpired:
        waiting.process.kill()
        waiting.process.wait()
    waiting.process.stderr.close()
