"""All processes of a job seen from the controller: agents, trainer ranks, engines; and the hand-off of weights between them.

trainer.publish(v) -> segments + manifests -> every agent pulls what it lacks -> every engine loads v -> canary -> collect
"""

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from k15.config.schema import RunConfig
from k15.errors import ClusterError, EngineError, WeightsError
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.node.rendezvous import Rendezvous
from k15.rollout.client import EngineClient, EngineUnavailable
from k15.rollout.server import engine_command, wait_ready
from k15.runs.trainer_client import TrainerClient
from k15.weights.engine import update_engine
from k15.weights.store import Store

log = get_logger("fleet")
START_TIMEOUT_S = 600.0


@dataclass
class Engine:
    """One vLLM server: where it runs and how it is spoken to."""

    name: str
    agent: AgentClient
    client: EngineClient
    model_dir: Path
    port: int


class Fleet:
    """Start, watch, update and stop what the loop needs."""

    def __init__(
        self, cfg: RunConfig, run_dir: Path, model_dir: Path, rendezvous: Rendezvous, rendezvous_path: Path,
        agents: list[AgentClient], store: Store, session: aiohttp.ClientSession, device: str,
    ) -> None:  # fmt: skip
        self.cfg = cfg
        self.run_dir = run_dir
        self.model_dir = model_dir
        self.rendezvous = rendezvous
        self.rendezvous_path = rendezvous_path
        self.agents = agents
        self.store = store
        self.session = session
        self.device = device
        self.trainer: TrainerClient | None = None
        self.engines: list[Engine] = []
        self.version = -1
        self._paths: dict[int, list[str]] = {}  # node rank -> local segment files of self.version
        self._canary: tuple[list[int], list[float]] | None = None

    # -- trainer ------------------------------------------------------------------------------------------------------

    async def start_trainer(self) -> TrainerClient:
        """Spawn every rank, node by node, and connect to rank 0."""
        per_node = self.cfg.parallel.ranks_per_node
        head = self.agents[0]
        port, _ = await head.free_port()
        for node, agent in enumerate(self.agents):
            _, interface = await agent.free_port()
            for local in range(per_node):
                rank = node * per_node + local
                env = {
                    "RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(per_node * len(self.agents)),
                    "MASTER_ADDR": self.rendezvous.head_address, "MASTER_PORT": str(port),
                    "K15_GENERATION": "0", "K15_RENDEZVOUS": str(self.rendezvous_path),
                    "GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface,
                }  # fmt: skip
                await agent.start(
                    f"trainer-{rank}", "k15.runs.trainer_rank", [str(self.run_dir), str(self.model_dir)], env
                )
        self.trainer = await TrainerClient.connect(
            self.store, "0", self.rendezvous.token, self._dead_trainer, timeout_s=START_TIMEOUT_S
        )
        return self.trainer

    async def _dead_trainer(self) -> str | None:
        """The first dead trainer rank with its log's end, or None."""
        for agent in self.agents:
            for name, state in (await agent.processes()).items():
                if name.startswith("trainer-") and not state["alive"]:
                    tail = await agent.log_tail(name)
                    return f"{name} on node {agent.node_rank} ended with code {state['returncode']}; log {state['log']}:\n{tail}"
        return None

    # -- engines ------------------------------------------------------------------------------------------------------

    async def start_engines(self) -> list[Engine]:
        """Start every vLLM server with dummy weights, all nodes at once."""
        names = [
            (agent, f"engine-{agent.node_rank}-{i}")
            for agent in self.agents
            for i in range(self.cfg.rollout.engines_per_node)
        ]
        self.engines = list(await asyncio.gather(*(self._start_engine(agent, name) for agent, name in names)))
        return self.engines

    async def _start_engine(self, agent: AgentClient, name: str) -> Engine:
        port, _ = await agent.free_port()
        host = agent.url.split("//")[1].rsplit(":", 1)[0]
        argv, env = engine_command(
            self.cfg.rollout, model_dir=self.model_dir, host=host, port=port, device=self.device, dtype=self.cfg.model.dtype,
            max_context=self.cfg.model.max_context_tokens, dummy=True, token=self.rendezvous.token,
            worker_extension="k15.weights.engine.EngineWeights",
        )  # fmt: skip
        module = argv.index("-m")
        await agent.start(name, argv[module + 1], argv[module + 2 :], env)
        url = f"http://{host}:{port}"

        watching = asyncio.create_task(self._until_dead(agent, name))
        try:
            await wait_ready(url, self.rendezvous.token, lambda: not watching.done(), START_TIMEOUT_S)
        except EngineError as error:
            raise EngineError(
                f"{name} on node {agent.node_rank} did not start: {error}\n{await agent.log_tail(name)}"
            ) from error
        finally:
            watching.cancel()
        client = EngineClient(url, self.rendezvous.token, self.session, self.cfg.rollout.request_timeout_s)
        return Engine(name, agent, client, self.model_dir, port)

    @staticmethod
    async def _until_dead(agent: AgentClient, name: str) -> None:
        """Returns when the agent says that the process has ended."""
        while (await agent.processes())[name]["alive"]:
            await asyncio.sleep(1.0)

    async def restart_engine(self, engine: Engine) -> None:
        """Replace a dead or stale server by a new one that holds the current version; the client keeps its identity."""
        log.warning("restarting %s on node %d", engine.name, engine.agent.node_rank)
        await engine.agent.stop(engine.name, grace_s=2)
        fresh = await self._start_engine(engine.agent, engine.name)
        engine.client.base_url = fresh.client.base_url
        if self.version >= 0:
            await self._load(engine, self.version)
            await self._check_canary(engine)

    # -- weights ------------------------------------------------------------------------------------------------------

    async def hand_off(self, version: int) -> dict[str, float]:
        """Give every engine the trainer's weights as `version`; all or none. Returns seconds and the canary's difference.

        Raises WeightsError when an engine's log-probs of the canary text differ from the trainer's.
        """
        assert self.trainer is not None
        clock = asyncio.get_running_loop().time
        start = clock()
        await self.trainer.call("publish", version=version)
        published = clock()
        pulled = await asyncio.gather(*(agent.pull(version) for agent in self.agents))
        self._paths = {agent.node_rank: p["paths"] for agent, p in zip(self.agents, pulled, strict=True)}
        self.version = version
        arrived = clock()
        if self.cfg.rollout.update == "restart":
            await asyncio.gather(*(self.restart_engine(e) for e in self.engines))
        else:
            await asyncio.gather(*(self._load_or_restart(e, version) for e in self.engines))
        loaded = clock()
        if self._canary is not None:
            tokens = self._canary[0]
            (expected,) = await self.trainer.call("logprobs", sequences=[tokens])
            self._canary = (tokens, expected)
        differences = await asyncio.gather(*(self._check_canary(e) for e in self.engines))
        await asyncio.gather(*(agent.collect([version]) for agent in self.agents))
        return {
            "handoff_publish_s": published - start, "handoff_pull_s": arrived - published, "handoff_load_s": loaded - arrived,
            "handoff_s": clock() - start, "handoff_bytes_pulled": float(sum(p["bytes_pulled"] for p in pulled)),
            "canary_mean_abs": max(differences, default=0.0),
        }  # fmt: skip

    def set_canary(self, tokens: list[int]) -> None:
        """The fixed text whose log-probs engines and trainer must agree on after every hand-off."""
        self._canary = (tokens, [])

    async def _load(self, engine: Engine, version: int) -> None:
        await update_engine(
            self.session, engine.client.base_url, self.rendezvous.token, version, self._paths[engine.agent.node_rank]
        )

    async def _load_or_restart(self, engine: Engine, version: int) -> None:
        """An engine that cannot be updated, dead or of unknown state, is replaced by a new one that loads `version`."""
        try:
            await self._load(engine, version)
        except EngineError as error:
            log.error("%s could not be updated: %s", engine.name, error)
            await self.restart_engine(engine)

    async def heal(self, engine: Engine, patience_s: float = 30.0) -> None:
        """After a failed request: wait until the engine is healthy again, or replace it once it is dead or stays silent."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while asyncio.get_running_loop().time() < deadline:
            if not (await engine.agent.processes())[engine.name]["alive"]:
                break
            try:
                await engine.client.health()
                return
            except EngineUnavailable:
                await asyncio.sleep(0.5)
        await self.restart_engine(engine)

    async def _check_canary(self, engine: Engine) -> float:
        """Mean |engine - trainer| over the canary's log-probs (nats)."""
        if self._canary is None or not self._canary[1]:
            return 0.0
        tokens, expected = self._canary
        got = await engine.client.prompt_logprobs(tokens)
        if len(got) != len(expected):
            raise WeightsError(f"{engine.name} gave {len(got)} canary log-probs, the trainer {len(expected)}")
        difference = statistics.fmean(abs(a - b) for a, b in zip(got, expected, strict=True))
        limit = self.cfg.rollout.canary_tolerance
        if not difference <= limit:
            raise WeightsError(
                f"after loading version {self.version}, {engine.name} differs from the trainer by {difference:.3g} nats a token on "
                f"the canary text (allowed: rollout.canary_tolerance={limit}). The engine does not hold the trainer's weights."
            )
        return difference

    async def export_hf(self, folder: Path) -> None:
        """Write the current version as a Hugging Face folder (from the head node's segments)."""
        assert self.trainer is not None
        if not self._paths:
            raise ClusterError("no weights have been handed off yet, so there is nothing to export")
        await self.trainer.call("export_hf", paths=self._paths[self.agents[0].node_rank], folder=str(folder))

    async def stop(self) -> None:
        """End the engines and the trainer politely; the agents kill what does not go."""
        for agent in self.agents:
            for name, state in (await agent.processes()).items():
                if state["alive"] and name != "controller":
                    await agent.stop(name, grace_s=2)
