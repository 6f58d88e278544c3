"""Jupyter sessions: a kernel inside a sandbox that keeps its state between cells, until it is closed, idle, or too old.

The sandbox is bubblewrap's, with init, filter and limits as for every job. Two named pipes of the host are to be seen in its
/dev: cells go in by one, replies come out by the other. `support/session.py` sits between them and the kernel (over ipc, in the
sandbox's own /tmp). A reply is text of a program that nobody trusts: bounded, and believed in nothing.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from k15.errors import ConfigError, DataError, SandboxError
from k15.log import get_logger
from k15.sandbox.backends import seccomp, wire
from k15.sandbox.backends.bwrap import command, dropped
from k15.sandbox.backends.native import binary
from k15.sandbox.images.store import Images, cache_root
from k15.sandbox.job import Job, Limits

log = get_logger("sandbox")
MAX_CELL_BYTES = 200_000
MAX_REPLY_BYTES = 2 << 20
PIPE_BYTES = 1 << 20
READY_S = 120.0
TICK_S = 0.05
SWEEP_S = 1.0
_F_SETPIPE_SZ = 1031


@dataclass
class Session:
    """One kernel. `lock`: a cell at a time."""

    id: str
    folder: Path
    process: subprocess.Popen[bytes]
    control: socket.socket
    cells: int
    replies: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used: float = field(default_factory=time.monotonic)
    buffer: bytearray = field(default_factory=bytearray)
    count: int = 0
    ended: bool = False  # set before its descriptors are closed: their numbers will be others'
    closed: bool = False

    def send(self, message: dict[str, Any]) -> None:
        """One line into the sandbox. Raises DataError where it takes nothing more."""
        if self.ended:
            raise DataError("The session has ended.")
        line = json.dumps(message).encode() + b"\n"
        try:
            if os.write(self.cells, line) == len(line):
                return
        except BlockingIOError:
            pass
        raise DataError("The session does not read its cells; close it.")

    def last_words(self) -> str:
        """Init's report of a sandbox that has ended."""
        report = b""
        with contextlib.suppress(OSError):
            self.control.settimeout(1.0)
            while data := self.control.recv(1 << 16):
                report += data
        outcome = wire.outcome(report, Job(("python3",)), b"", b"")
        ended = (
            f"limit of {outcome.limit}" if outcome.limit is not None else f"status {outcome.exit_code}, signal {outcome.signal}"
        )
        return outcome.error if outcome.error is not None else ended

    def close(self) -> None:
        """End the sandbox and everything in it; blocking. Twice is once."""
        if self.closed:
            return
        self.closed = True
        self.control.close()  # init ends when nobody listens any more
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.cells)
        os.close(self.replies)
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """At most `most` sessions, each closed after `idle_s` without a cell. Only where bubblewrap works."""

    def __init__(self, images: Images, most: int, idle_s: float) -> None:
        self._images, self._most, self._idle_s = images, most, idle_s
        self._open: dict[str, Session] = {}
        self._starting = 0
        self._sweeping: asyncio.Task | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, body: dict[str, Any]) -> dict[str, Any]:
        """Start a kernel: {"image"?, "memory_mb"?, "life_s"?} -> {"session": id}. Raises ConfigError, DataError, SandboxError."""
        image, memory_mb, life_s = body.get("image", "jupyter"), body.get("memory_mb", 1024), body.get("life_s", 3600.0)
        unknown = set(body) - {"image", "memory_mb", "life_s"}
        if unknown or not isinstance(image, str):
            raise ConfigError(f"A session takes image, memory_mb and life_s, but not {sorted(unknown)}.")
        for name, value, most in (("memory_mb", memory_mb, 16384), ("life_s", life_s, 86400)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= most:
                raise ConfigError(f"{name} of the session is {value!r}; allowed are 1 to {most}.")
        if len(self._open) + self._starting >= self._most:
            raise ConfigError(f"{self._most} sessions are open, which is all that this service allows. Close one first.")
        self._starting += 1
        try:
            limits = Limits(wall_s=life_s, cpu_s=life_s, memory_mb=int(memory_mb), processes=64, disk_mb=256)
            session = await asyncio.to_thread(self._start, image, limits)
            await self._greeted(session, image)
        finally:
            self._starting -= 1
        self._open[session.id] = session
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())
        return {"session": session.id}

    async def execute(self, id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Run a cell: {"code", "timeout_s"?} -> {"status": "ok" | "error", "outputs": [...]}.

        After `timeout_s` the cell is interrupted, and its status is "timeout"; one that ignores that ends the session.
        """
        session, code, timeout_s = self._named(id), body.get("code"), body.get("timeout_s", 60.0)
        if not isinstance(code, str) or len(code.encode(errors="replace")) > MAX_CELL_BYTES:
            raise ConfigError(f"`code` must be a text of at most {MAX_CELL_BYTES} bytes.")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 3600:
            raise ConfigError(f"timeout_s is {timeout_s!r}; allowed are more than 0 and up to 3600.")
        async with session.lock:
            self._named(id)  # the cell before may have ended it
            session.count += 1
            number, session.used = session.count, time.monotonic()
            session.send({"id": number, "code": code})
            try:
                reply = await self._reply(session, number, timeout_s)
            except TimeoutError:
                session.send({"interrupt": True})
                try:
                    reply = {**await self._reply(session, number, 10.0), "status": "timeout"}
                except TimeoutError:
                    await self.end(id)
                    raise DataError("The cell went on after its time was over and an interrupt; the session is closed.") from None
            session.used = time.monotonic()
            return {"status": str(reply.get("status")), "outputs": reply.get("outputs", [])}

    async def interrupt(self, id: str) -> None:
        """As Ctrl-C in the running cell."""
        self._named(id).send({"interrupt": True})

    async def end(self, id: str) -> None:
        session = self._named(id)
        await self._close(session)

    async def close(self) -> None:
        """End all sessions."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.gather(*(self.end(id) for id in list(self._open)))

    async def _close(self, session: Session) -> None:
        self._open.pop(session.id, None)
        if not session.ended:
            session.ended = True
            asyncio.get_running_loop().remove_reader(session.replies)
        await asyncio.to_thread(session.close)

    def _named(self, id: str) -> Session:
        if id not in self._open:
            raise DataError(f"There is no session {id!r}; it may have ended or been idle for more than {self._idle_s:g} s.")
        return self._open[id]

    def _start(self, image: str, limits: Limits) -> Session:
        """Blocking. The pipes lie where the sandbox's uid may reach them, under a name that cannot be guessed."""
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError("sessions need bwrap; install the package bubblewrap")
        id = secrets.token_hex(16)
        base = cache_root() / "sessions"
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o711)
        folder = base / id
        folder.mkdir()
        folder.chmod(0o755)
        for name in ("cells", "replies"):
            os.mkfifo(folder / name)
            (folder / name).chmod(0o666)
        # Read and write, so that opening does not wait for the other side and neither side's end is missed.
        cells, replies = (os.open(folder / name, os.O_RDWR | os.O_NONBLOCK) for name in ("cells", "replies"))
        with contextlib.suppress(OSError):  # the user's share of pipe memory may be used up; then cells must be shorter
            fcntl.fcntl(cells, _F_SETPIPE_SZ, PIPE_BYTES)
        inside = {"/dev/init": binary("init"), "/dev/cells": folder / "cells", "/dev/replies": folder / "replies"}
        bridge = (files("k15.sandbox") / "support" / "session.py").read_bytes()
        job = Job(
            ("python3", "session.py"), image, files={"session.py": bridge}, limits=limits,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        )  # fmt: skip
        request = wire.request(job, seccomp.program(), mount_tmp=True, watch_memory=True, watch_processes=True, tick_s=TICK_S)
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*dropped(), *command(bwrap, self._images.rootfs(image), inside, ["/dev/init"])], stdin=theirs,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        session = Session(id, folder, process, ours, cells, replies)
        try:
            ours.settimeout(READY_S)
            ours.sendall(request)
        except OSError as error:
            session.close()
            raise SandboxError(f"the session's sandbox did not start: {error}") from error
        return session

    async def _greeted(self, session: Session, image: str) -> None:
        try:
            hello = await self._line(session, READY_S)
        except (TimeoutError, DataError) as error:
            await self._close(session)
            raise SandboxError(f"the kernel in image {image!r} did not start: {error}") from error
        if not hello.get("ready"):
            await self._close(session)
            raise DataError(f"{hello.get('error')}. Build one with `k15 sandbox build jupyter`, or bring your own.")

    async def _reply(self, session: Session, number: int, timeout_s: float) -> dict[str, Any]:
        """The reply to a cell. What comes for an earlier one, late, is dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            reply = await self._line(session, max(0.0, deadline - time.monotonic()))
            if reply.get("id") == number:
                return reply

    async def _line(self, session: Session, timeout_s: float) -> dict[str, Any]:
        """The next JSON line. Raises TimeoutError; DataError where the session has ended or sent something else."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        deadline = loop.time() + timeout_s
        loop.add_reader(session.replies, arrived.set)
        try:
            while b"\n" not in session.buffer:
                if session.process.poll() is not None:
                    self._open.pop(session.id, None)
                    words = await asyncio.to_thread(session.last_words)
                    await self._close(session)
                    raise DataError(f"The session has ended: {words}.")
                left = deadline - loop.time()
                if left <= 0:
                    raise TimeoutError
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), min(left, 0.2))
                arrived.clear()
                if session.ended:
                    raise DataError("The session was closed while the cell ran.")
                with contextlib.suppress(BlockingIOError):
                    session.buffer += os.read(session.replies, 1 << 16)
                if len(session.buffer) > MAX_REPLY_BYTES:
                    await self._close(session)
                    raise DataError(f"The session sent more than {MAX_REPLY_BYTES} bytes at once and was closed.")
        finally:
            if not session.ended:
                loop.remove_reader(session.replies)
        line, _, rest = bytes(session.buffer).partition(b"\n")
        session.buffer[:] = rest
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        return message if isinstance(message, dict) else {}

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for session in list(self._open.values()):
                if not session.lock.locked() and (now - session.used > self._idle_s or session.process.poll() is not None):
                    log.info("session %s ends: idle, or its sandbox has ended", session.id[:8])
                    await self.end(session.id)
