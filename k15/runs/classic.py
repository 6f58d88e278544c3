"""The process that serves a Classic reward model to a run: `reward.classic.path` on the head node, asked by the controller.

    Rewards ── triples ──▶ ClassicProcess ── socket pair ──▶ `python -m k15.runs.classic FD FOLDER DEVICE` (trainer, value head)

The weights stay as they were trained, so one process lives as long as the run; it ends with its parent. It is not on the
trainer's ranks, which hold the policy, nor behind HTTP: nothing but the controller may ask it.
"""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from k15 import child
from k15.config.reward_model import RewardModelConfig
from k15.config.schema import ClassicConfig, ModelConfig, RewardConfig
from k15.errors import EngineError
from k15.log import get_logger
from k15.reward.scalar import Probabilities
from k15.reward.worker import receive, send
from k15.runs.head import heeded
from k15.types import Triple

START_S = 600.0  # imports, weights
RESTARTS = 3
log = get_logger("classic")


class _Ended(EngineError):
    """The process is no more."""


class ClassicProcess:
    """A served model, to be closed; `probabilities` may be called from any thread, `load` once before it.

    A process that dies is started again, RESTARTS times, and asked again what it had not answered: its answer is the same.
    """

    def __init__(self, cfg: ClassicConfig, log_file: Path) -> None:
        self._cfg, self._log, self._lock = cfg, log_file, threading.Lock()
        self._restarts, self._loaded = RESTARTS, False
        self._parent = ThreadPoolExecutor(1, "classic")  # a child dies with the thread that started it
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs, self._log.open("ab") as out:
            words = [str(theirs.fileno()), str(Path(str(self._cfg.path)).absolute()), self._cfg.device]
            start = partial(
                subprocess.Popen, [sys.executable, "-P", "-m", "k15.runs.classic", *words], pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, preexec_fn=child.prepare,
            )  # fmt: skip
            self._process = self._parent.submit(start).result()
        self._socket, self._loaded = ours, False

    def probabilities(self, triples: Sequence[Triple]) -> list[float]:
        """P(correct) of each triple. Raises EngineError where the process dies once too often or does not answer in time."""
        with self._lock:
            while True:
                try:
                    self.load()
                    return self._answer(list(triples), self._cfg.timeout_s)
                except _Ended as error:
                    if not self._restarts:
                        raise
                    self._restarts -= 1
                    log.error("%s; it is started again, %d more restarts are allowed", error, self._restarts)
                    self._socket.close()
                    self._start()

    def load(self) -> None:
        """Waits for the word that the weights are loaded. Raises EngineError where they cannot be."""
        if not self._loaded:
            self._answer(None, START_S)
            self._loaded = True

    def _answer(self, question: list[Triple] | None, limit_s: float):
        """None asks nothing: what is waited for is the first word."""
        self._socket.settimeout(limit_s)
        try:
            if question is not None:
                send(self._socket, question)
            ok, value = receive(self._socket)  # type: ignore[misc]
        except TimeoutError as error:
            raise EngineError(
                f"the Classic reward model's process does not answer within {limit_s:g} s; its log is {self._log}"
            ) from error
        except (OSError, EOFError) as error:
            child.end(self._process, 5.0)  # its end of the socket is closed, so it has nothing left to do
            status = self._process.returncode
            raise _Ended(
                f"the Classic reward model's process ended (status {status}): {error}; its log is {self._log}"
            ) from error
        if not ok:
            raise EngineError(f"the Classic reward model failed: {value}; its log is {self._log}")
        return value

    def close(self) -> None:
        """End the process; who waits for it gets an EngineError."""
        self._socket.close()
        child.end(self._process)
        self._parent.shutdown()


@asynccontextmanager
async def served_classic(cfg: RewardConfig, run_dir: Path, stop: asyncio.Event) -> AsyncIterator[Probabilities | None]:
    """How `reward.classic` is asked, as long as the block lasts; None where the run has none.

    The block begins once the weights are loaded: what is wrong with them is said before anything is sampled. Raises EngineError,
    and Interrupted where `stop` is set meanwhile.
    """
    if cfg.classic.path is None:
        yield None
        return
    process = ClassicProcess(cfg.classic, run_dir / "logs" / "classic.log")
    try:
        await heeded(stop, asyncio.to_thread(process.load))
        yield process.probabilities
    finally:
        process.close()


def serve(connection: socket.socket, folder: Path, device_name: str) -> None:
    """Answer until the other side has gone."""
    from k15.node.network import free_port
    from k15.runs.job import device
    from k15.runs.reward_fit import ClassicScorer  # brings torch
    from k15.train.device import init_distributed, pick_device

    config = json.loads((folder / "config.json").read_text())
    dtype = str(config.get("torch_dtype", config.get("dtype", "float32")))
    context = int(config.get("max_position_embeddings", 0))
    placed = pick_device(device(device_name), 0)
    init_distributed(placed, 0, 1, f"127.0.0.1:{free_port('127.0.0.1')}")
    cfg = RewardModelConfig(kind="classic", model=ModelConfig(path=str(folder), dtype=dtype, max_context_tokens=context))
    scorer = ClassicScorer.load(folder, cfg, placed)
    log.info("serving %s on %s", folder, placed)
    send(connection, (True, "ready"))
    while True:
        try:
            triples = receive(connection)
        except EOFError:
            return
        try:
            answer = (True, scorer.score(triples))  # type: ignore[arg-type]
        except Exception as error:  # the parent raises it and ends the run
            answer = (False, f"{type(error).__name__}: {error}"[:1000])
        send(connection, answer)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
