"""The sandbox that a command without agents starts for itself, on this machine: `k15 testgen`, `k15 eval`.

It is started again when it dies as a job's own is (k15.runs.sandbox), at the same address and on the same journal.
"""

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from k15 import child
from k15.config.schema import SandboxConfig
from k15.errors import ClusterError, SandboxError
from k15.node.network import free_port
from k15.runs.sandbox import NAME, start_service, watch_service
from k15.sandbox.client import Access

PATIENCE = {"timeout_s": 1800.0, "patience_s": 3600.0}  # fifty runs of a slow submission are one request
_TAIL_CHARS = 500


class _Here:
    """A `Keeper`: the service as this process's child. It dies with the thread that started it."""

    def __init__(self, log_file: Path) -> None:
        self._log = log_file
        self.process: subprocess.Popen | None = None

    async def start(self, name: str, module: str, args: Sequence[str], env: Mapping[str, str]) -> None:
        with self._log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *args], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                env={**os.environ, **env}, preexec_fn=child.prepare,
            )  # fmt: skip

    async def processes(self) -> dict[str, dict[str, object]]:
        code = self.process.poll()
        return {NAME: {"alive": code is None, "returncode": code, "stopped_by_us": False}}

    async def log_tail(self, name: str) -> str:
        return self._log.read_text(errors="replace")[-_TAIL_CHARS:].strip()


@contextlib.contextmanager
def own_sandbox(
    workers: int, log_file: Path, words: Sequence[str] = (), restarts: int = SandboxConfig.restarts, **patience: float
) -> Iterator[Access]:
    """A service on this machine that ends with the block, and with this process. `words`: more options of `sandbox serve`.

    Raises SandboxError where it does not start.
    """
    access = Access(f"http://127.0.0.1:{free_port('127.0.0.1')}", secrets.token_hex(24), **{**PATIENCE, **patience})
    up: Future[None] = Future()
    end = threading.Event()
    with tempfile.TemporaryDirectory(prefix="k15-sandbox-") as folder:
        port = access.url.rsplit(":", 1)[1]
        serve = ["serve", "--port", port, "--state-dir", f"{folder}/state", "--workers", str(workers), "--max-request-mb", "64"]
        keeping = threading.Thread(
            target=lambda: asyncio.run(_keep(access, _Here(log_file), [*serve, *words], restarts, up, end)), name="own sandbox"
        )
        keeping.start()
        try:
            try:
                up.result()
            except ClusterError as error:
                raise SandboxError(f"{error} (its log is {log_file})") from error
            yield access
        finally:
            end.set()
            keeping.join()


async def _keep(
    access: Access, here: _Here, words: Sequence[str], restarts: int, up: "Future[None]", end: threading.Event
) -> None:
    """The service's life: `up` is told when it listens or why it does not; it ends when `end` is set."""
    try:
        await start_service(access, here, words)
        up.set_result(None)
        watching = asyncio.create_task(watch_service(access, here, words, restarts))
        await asyncio.to_thread(end.wait)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    except Exception as error:
        if up.done():
            raise
        up.set_exception(error)  # raised where the service was asked for
    finally:
        if here.process is not None:
            child.end(here.process)
