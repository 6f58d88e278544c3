"""Short Python jobs without the start of an interpreter: a warm one, in a sandbox of its own, forks for each job.

The fork enters fresh namespaces (user, pid, mount, network, ipc, uts, cgroup), a fresh disk, limits and the system-call filter
through the same init as every other job, and passes the same attacks. What is shared between jobs of one interpreter is its
memory layout and its hash seed. Anything that is not `python3 FILE ...` or `python3 -c CODE ...` goes to the backend behind it.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends import seccomp, wire
from k15.sandbox.backends.bubblewrap import TICK_S, Bubblewrap, command, dropped
from k15.sandbox.backends.exchange import converse
from k15.sandbox.backends.native import binary
from k15.sandbox.images.store import Images, cache_root
from k15.sandbox.job import Backend, Job, Outcome

_ZYGOTE = Path(__file__).parent / "native" / "zygote.py"
_START_S = 30.0
_PYTHON = "/usr/bin/python3"
_PATH = "/bin:/usr/bin"  # of a program without PATH (confstr)
log = logging.getLogger(__name__)


@dataclass
class _Interpreter:
    """A waiting interpreter and the socket over which it is given jobs."""

    process: subprocess.Popen[bytes]
    link: socket.socket


class Warm:
    """See `k15.sandbox.job.Backend`. `behind` runs every job that does not suit a warm interpreter.

    Memory is watched, not held by a cgroup, also where `behind` has cgroups. An image without a fitting interpreter is left
    to `behind`. Raises SandboxError where the filter or the compiled parts are missing.
    """

    name = "warm"
    memory_is_hard = False

    def __init__(self, behind: Backend | None = None, images: Images | None = None) -> None:
        self._images = images if images is not None else Images()
        self._behind = behind if behind is not None else Bubblewrap(self._images, groups=False)
        self._filter = seccomp.program()
        self._lock = threading.Lock()
        self._interpreters: dict[str, _Interpreter | None] = {}  # None: this image cannot have one

    def run(self, job: Job) -> Outcome:
        """Run the job to its end; blocking, from any thread. Raises SandboxError for an unknown image or a wrong path."""
        if not suits(job, self._images.rootfs(job.image)) or not self._ready(job.image):
            return self._behind.run(job)
        request = wire.request(job, self._filter, mount_tmp=True, watch_memory=True, watch_processes=True, tick_s=TICK_S)
        ours, theirs = socket.socketpair()
        out, out_theirs = os.pipe()
        err, err_theirs = os.pipe()
        try:
            with ours:
                try:
                    self._hand_over(job.image, [theirs.fileno(), out_theirs, err_theirs])
                finally:
                    theirs.close()
                    os.close(out_theirs)
                    os.close(err_theirs)
                return converse(ours, out, err, request, job)
        finally:
            os.close(out)
            os.close(err)

    def close(self) -> None:
        """End the interpreters and the backend behind. No job may be running."""
        self.stop()
        self._behind.close()

    def stop(self) -> None:
        """End the interpreters alone; the next warm job starts one again."""
        with self._lock:
            for waiting in self._interpreters.values():
                if waiting is not None:
                    _stop(waiting)
            self._interpreters.clear()

    def _ready(self, image: str) -> bool:
        """Whether an interpreter waits in this image; starts one, also after the last one's end."""
        with self._lock:
            waiting = self._interpreters.get(image)
            if waiting is not None and waiting.process.poll() is not None:
                _stop(waiting)
                del self._interpreters[image]
            if image not in self._interpreters:
                try:
                    self._interpreters[image] = self._start(image)
                except SandboxError as e:
                    log.warning("%s; its Python jobs start cold", e)
                    self._interpreters[image] = None
            return self._interpreters[image] is not None

    def _hand_over(self, image: str, fds: list[int]) -> None:
        with self._lock:
            waiting = self._interpreters[image]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has just died: the missing report says so
            socket.send_fds(waiting.link, [b"j"], fds)

    def _start(self, image: str) -> _Interpreter:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError("the warm interpreter needs bwrap; install the package bubblewrap")
        inside = {"/dev/warm.so": binary("warm.so"), "/dev/zygote.py": _readable(_ZYGOTE)}
        words = command(bwrap, self._images.rootfs(image), inside, [_PYTHON, "/dev/zygote.py"], capable=False)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*dropped(), *words], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={}, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(1)
        except TimeoutError:
            ready = b""
        ours.settimeout(None)
        waiting = _Interpreter(process, ours)
        if ready != b"r":
            _stop(waiting, kill=True)
            why = process.stderr.read().decode(errors="replace")[-800:]
            raise SandboxError(f"no warm interpreter in image {image!r}: {why}")
        return waiting


def suits(job: Job, rootfs: Path) -> bool:
    """Whether a warm interpreter runs it as a cold one would: the image's python3 with a file or -c and no other switch."""
    words = list(job.command)
    if len(words) < 2 or any(name.startswith("PYTHON") for name in job.env):
        return False
    if not (words[1] == "-c" and len(words) > 2) and words[1].startswith("-"):
        return False
    return words[0] == _PYTHON or (words[0] == "python3" and _found(rootfs, job.env.get("PATH", _PATH)) == _PYTHON)


@cache
def _found(rootfs: Path, path: str) -> str | None:
    """Where `python3` is found along a PATH inside an image; None for nowhere or by a way that leads out of the image."""
    for folder in path.split(":"):
        if not folder.startswith("/") or ".." in folder:
            return None
        inside = rootfs / folder.strip("/")
        if (inside / "python3").is_symlink() or (inside / "python3").exists():
            return _PYTHON if inside.resolve() == (rootfs / "usr/bin").resolve() else f"{folder}/python3"
    return None


def _readable(path: Path) -> Path:
    """A copy in the cache, which the uid of the sandbox can read, named by content."""
    data = path.read_bytes()
    copy = cache_root() / "bin" / f"{hashlib.sha256(data).hexdigest()[:16]}-{path.name}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        fresh = copy.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(data)
        fresh.chmod(0o644)
        fresh.replace(copy)
    return copy


def _stop(waiting: _Interpreter, kill: bool = False) -> None:
    waiting.link.close()
    if kill:
        waiting.process.kill()
    try:
        waiting.process.wait(5.0)
    except subprocess.TimeoutExpired:
        waiting.process.kill()
        waiting.process.wait()
    if not kill:
        waiting.process.stderr.close()
