"""The processes that an agent owns. Each is the leader of its own session and dies with the agent, whatever kills it."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k15.child import prepare
from k15.errors import ClusterError

TRACKER_S = 2.0


@dataclass
class Child:
    """One running or ended process of the agent. `url`: where an engine listens; `starts`, `crashes`: of all under its name."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    url: str | None = None
    starts: int = 1
    earlier_crashes: int = 0
    started: float = field(default_factory=time.time)
    stopped_by_us: bool = False

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def crashes(self) -> int:
        crashed = not self.alive and not self.stopped_by_us and self.process.returncode != 0
        return self.earlier_crashes + int(crashed)

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "pid": self.process.pid,
            "alive": self.alive,
            "returncode": self.process.returncode,
            "stopped_by_us": self.stopped_by_us,
            "log": str(self.log),
            "started": self.started,
            "starts": self.starts,
        }


class Children:
    """Start, watch and stop named processes; logs go to `log_dir/<name>.log`, appended."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.table: dict[str, Child] = {}
        self._scratch: tempfile.TemporaryDirectory | None = None
        log_dir.mkdir(parents=True, exist_ok=True)

    async def start(
        self, name: str, module: str, args: Sequence[str], env: Mapping[str, str], *, echo: bool = False, url: str | None = None
    ) -> Child:
        """Run `python -P -m module args` under `name`. A living child of that name is an error, an ended one is replaced.

        `url`: where an engine will listen; its TMPDIR is ours, since a vLLM that is killed leaves its sockets there. `echo`:
        its output goes where the agent's own goes (the job's log) instead of into a file. Raises ClusterError.
        """
        old = self.table.get(name)
        if old is not None and old.alive:
            raise ClusterError(f"process {name!r} already runs on this node as pid {old.process.pid}; stop it first.")
        log = self.log_dir / f"{name}.log"
        own = {} if url is None else {"TMPDIR": self._engine_scratch()}
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", module, *args,
                env={**os.environ, **own, **env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=None if echo else out, stderr=None if echo else asyncio.subprocess.STDOUT,
                start_new_session=True, preexec_fn=prepare,
            )  # fmt: skip
        starts, crashes = (1, 0) if old is None else (old.starts + 1, old.crashes)
        child = self.table[name] = Child(name, process, log, url, starts, crashes)
        return child

    async def stop(self, name: str, grace_s: float = 5.0) -> None:
        """SIGTERM to the child's group; after `grace_s` SIGKILL to the child, and to what is left of its group a little later.

        The delay is for Python's resource tracker in that group: it removes the named semaphores of a killed parent.
        """
        child = self.table.get(name)
        if child is None:
            return
        child.stopped_by_us = child.stopped_by_us or child.alive  # one that is dead already has crashed
        pid = child.process.pid
        if child.alive:
            signal_group(pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.process.wait(), grace_s)
        if child.alive:
            child.process.kill()
            await child.process.wait()
        deadline = asyncio.get_running_loop().time() + TRACKER_S
        while group_lives(pid) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        signal_group(pid, signal.SIGKILL)

    async def stop_all(self, grace_s: float = 5.0) -> None:
        await asyncio.gather(*(self.stop(name, grace_s) for name in list(self.table)))
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _engine_scratch(self) -> str:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="k15-engines-", ignore_cleanup_errors=True)
        return self._scratch.name


def group_lives(pid: int) -> bool:
    """Does the process group still have a member?"""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a process group that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def log_tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log, for error messages."""
    if not path.exists():
        return f"(no log at {path})"
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - 16384))
        return b"\n".join(f.read().splitlines()[-lines:]).decode(errors="replace")
