"""One vLLM server of a job, and how it is started on its node."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from k15.config.schema import RunConfig
from k15.errors import ClusterError, EngineError
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.rollout.client import EngineClient
from k15.rollout.server import engine_command, wait_ready

log = get_logger("engines")
START_TIMEOUT_S = 600.0


@dataclass(eq=False)
class Engine:
    """One vLLM server: where it runs and how it is spoken to. `index` counts the engines of its node.

    `visiting`: on a node that came for rollout only; the run goes on without it when it fails. `loaded`: the version that it
    took last and proved, None since its start; `bytes_read`: what a worker copied for it at most; `hangs`: it did not load in
    time, and is to be restarted."""

    name: str
    agent: AgentClient
    index: int
    client: EngineClient
    visiting: bool = False
    loaded: int | None = None
    bytes_read: int = 0
    hangs: bool = False
    catching_up: asyncio.Task | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while it is started, healed, loaded, slept or woken


@dataclass
class Held:
    """What all engines must hold: a version, its segment files by node rank, and the canary's log-probs under it."""

    version: int
    paths: dict[int, list[str]]
    canary: list[float]


@dataclass(frozen=True)
class Launch:
    """Starts servers of the model in `model_dir` with dummy weights, by the agents of their nodes."""

    cfg: RunConfig
    model_dir: Path
    token: str
    device: str

    async def start(self, engine: Engine) -> None:
        """Returns when it answers; its client points to it then. Raises EngineError with the end of its log."""
        agent, name = engine.agent, engine.name
        engine.loaded, engine.hangs = None, False
        port, _ = await agent.free_port()
        host = agent.url.split("//")[1].rsplit(":", 1)[0]
        argv, env = engine_command(
            self.cfg.rollout, model_dir=self.model_dir, host=host, port=port, device=self.device, dtype=self.cfg.model.dtype,
            max_context=self.cfg.model.max_context_tokens, dummy=True, token=self.token,
            worker_extension="k15.weights.engine.EngineWeights",
        )  # fmt: skip
        size = self.cfg.rollout.tensor_parallel
        devices = list(range(engine.index * size, (engine.index + 1) * size)) if self.device == "cuda" else None
        module = argv.index("-m")
        await agent.start(name, argv[module + 1], argv[module + 2 :], env, devices=devices, url=f"http://{host}:{port}")
        watching = asyncio.create_task(_until_dead(engine))
        try:
            await wait_ready(f"http://{host}:{port}", self.token, lambda: not watching.done(), START_TIMEOUT_S)
        except EngineError as error:
            tail = await agent.log_tail(name)
            raise EngineError(f"{name} on node {agent.node_rank} did not start: {error}\n{tail}") from error
        finally:
            watching.cancel()
        engine.client.point_to(f"http://{host}:{port}")


async def _until_dead(engine: Engine) -> None:
    """Returns when the agent says that the process has ended; an agent that does not answer says nothing."""
    alive = True
    while alive:
        await asyncio.sleep(1.0)
        try:
            alive = (await engine.agent.processes())[engine.name]["alive"]
        except ClusterError as error:
            log.warning("%s may have ended: %s", engine.name, error)
