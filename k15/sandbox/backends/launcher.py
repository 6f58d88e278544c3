"""A process that sits in a slot's cgroups and starts one sandbox there after another (native/launch.c).

Entering a cgroup costs a process a wait for all processors, several milliseconds on a busy machine; what is born in one has none.
"""

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends import wire
from k15.sandbox.backends.cgroups import Nest
from k15.sandbox.backends.exchange import END_S, NotTakenError, hand_over
from k15.sandbox.job import Job, Outcome

_START_S = 30.0
_STATUS = struct.Struct("=i")


class LauncherError(SandboxError):
    """A launcher has ended or does not answer: no fault of the job, which another one can start."""


class Launcher:
    """`enter`: the options of `launch` that say where to sit. One job at a time. Raises SandboxError where it cannot."""

    def __init__(self, launch: Path, enter: Sequence[str]) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [launch, *enter, "-w"], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={}, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        self._link.settimeout(_START_S)
        try:
            ready = self._link.recv(1)
        except (TimeoutError, ConnectionResetError):
            ready = b""
        if ready != b"r":
            self._process.kill()
            why = self._process.communicate()[1].decode(errors="replace").strip()
            self._link.close()
            raise LauncherError(f"the sandbox's launcher does not start: {why}")
        self._link.settimeout(END_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, command: Sequence[str], request: bytes, job: Job, kill: Callable[[], None]) -> Outcome:
        """As `exchange`; `kill` ends a command that does not end by itself. Raises SandboxError where the launcher has ended."""
        words = b"".join(os.fsencode(word) + b"\0" for word in command)
        try:
            result = hand_over(self._link, words, request, job)
        except NotTakenError as e:
            raise LauncherError(f"the sandbox's launcher takes no job: {e}") from e
        return wire.explained(result, self._ended(kill))

    def _ended(self, kill: Callable[[], None]) -> int:
        """The exit code of the command that was started last."""
        for _ in range(2):
            try:
                answer = self._link.recv(_STATUS.size)
            except TimeoutError:
                kill()
                continue
            except ConnectionError:
                break
            if len(answer) == _STATUS.size:
                return os.waitstatus_to_exitcode(_STATUS.unpack(answer)[0])
            break
        raise LauncherError("the sandbox's launcher does not answer")

    def close(self) -> None:
        """End it; no job may be running."""
        self._link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()


class Seat:
    """A group of `nest` with a launcher in it: one job after another. `enter`: what else the launcher enters."""

    def __init__(self, nest: Nest, name: str, launch: Path, enter: Sequence[str]) -> None:
        self._group = nest.group(name)
        try:
            entrances = [word for path in self._group.entrances for word in ("-c", str(path))]
            self._launcher = Launcher(launch, [*entrances, *enter])
        except (SandboxError, OSError):
            self._group.remove()
            raise
        self._group.resident = self._launcher.pid

    def run(self, command: Sequence[str], request: bytes, job: Job) -> Outcome:
        """Run a job within the group's limits."""
        return self._group.bound(job, lambda: self._launcher.run(command, request, job, self._group.empty))

    def remove(self) -> None:
        """Take it away; no job may be running."""
        self._launcher.close()
        self._group.remove()
