"""All processes of a job seen from the controller: agents, trainer ranks, engines; and who has the devices when.

hand-off:  publish (segments + manifests) -> every agent pulls what it lacks -> every engine loads -> canary -> collect
           nodes that came for rollout (`k15.runs.visitors`) take part from the hand-off after their engines have started
devices:   training: engines asleep, trainer on the device     rollout: trainer offloaded, engines awake
           (on CPU engines cannot sleep; the trainer gives the memory of its gradients back all the same)
"""

import asyncio
from pathlib import Path

import aiohttp

from k15.config.schema import RunConfig
from k15.errors import ClusterError
from k15.node.client import AgentClient
from k15.node.rendezvous import Rendezvous
from k15.runs.engine import Held
from k15.runs.engines import Engines
from k15.runs.trainer_client import TrainerClient
from k15.runs.trainer_ranks import end_processes, start_trainer
from k15.runs.visitors import Visitors
from k15.types import Batch
from k15.weights.store import Store


class Fleet:
    """Start, watch, update and stop what the loop needs."""

    def __init__(
        self, cfg: RunConfig, run_dir: Path, model_dir: Path, rendezvous: Rendezvous, rendezvous_path: Path,
        agents: list[AgentClient], store: Store, session: aiohttp.ClientSession, device: str, canary: list[int],
    ) -> None:  # fmt: skip
        self.cfg = cfg
        self.run_dir = run_dir
        self.model_dir = model_dir
        self.rendezvous = rendezvous
        self.rendezvous_path = rendezvous_path
        self.agents = agents
        self.store = store
        self.engines = Engines(cfg, model_dir, rendezvous.token, session, device, canary)
        self.visitors = Visitors(store, session, rendezvous.token, self.engines)
        self.shares_device = device == "cuda"
        self._trainer_holds = True  # the devices
        self._offloaded: dict[str, float] = {}  # of the last offload: bytes
        self._trainer: TrainerClient | None = None

    @property
    def trainer(self) -> TrainerClient:
        assert self._trainer is not None, "start first"
        return self._trainer

    async def start(self) -> None:
        """Trainer ranks and engines, side by side; one after the other where they share devices. The trainer holds them."""
        self.visitors.watch()
        if self.shares_device:  # vLLM measures free memory while it starts
            await self.engines.start(self.agents)
            await self.engines.sleep()
            await self._start_trainer()
        else:
            await asyncio.gather(self._start_trainer(), self.engines.start(self.agents))

    async def _start_trainer(self) -> None:
        self._trainer = await start_trainer(
            self.agents, self.rendezvous, self.rendezvous_path, self.store, device=self.engines.device,
            ranks_per_node=self.cfg.parallel.ranks_per_node, folders=(self.run_dir, self.model_dir),
        )  # fmt: skip

    # -- phases -------------------------------------------------------------------------------------------------------

    async def train(self, batch: Batch) -> dict[str, float]:
        """One training iteration on `batch`; the trainer has the devices afterwards, until `hand_off`."""
        await self.trainer_on_device()
        return await self.trainer.call("train_iteration", batch=batch)

    async def trainer_on_device(self) -> None:
        if not self._trainer_holds:
            if self.shares_device:
                await self.engines.sleep()
            await self.trainer.call("onload")
            self._trainer_holds = True

    async def engines_on_device(self) -> None:
        if self._trainer_holds:
            self._offloaded = await self.trainer.call("offload")
            if self.shares_device:
                await self.engines.wake()
            self._trainer_holds = False

    async def save(self, folder: str) -> None:
        """The trainer's part of a checkpoint. Whoever has the devices keeps them: an engine that hangs delays no checkpoint."""
        await self.trainer.call("save", folder=folder)

    async def hand_off(self, version: int) -> dict[str, float]:
        """Give every engine the trainer's weights as `version`, and the devices; seconds by part, the canary's difference.

        Raises WeightsError when an engine's log-probs of the canary text differ from the trainer's.
        """
        async with self.visitors.changing:
            self.visitors.admit()
            return await self._hand_off(version)

    async def _hand_off(self, version: int) -> dict[str, float]:
        clock = asyncio.get_running_loop().time
        start = clock()
        await self.trainer_on_device()
        await self.trainer.call("publish", version=version)
        (expected,) = await self.trainer.call("logprobs", sequences=[self.engines.canary])
        await self.engines_on_device()
        published = clock()
        elsewhere, *pulled = await asyncio.gather(self.visitors.pull(version), *(agent.pull(version) for agent in self.agents))
        arrived = clock()
        paths = {agent.node_rank: p["paths"] for agent, p in zip(self.agents, pulled, strict=True)}
        difference = await self.engines.take(Held(version, paths, expected))
        loaded = clock()
        await asyncio.gather(self.visitors.collect(version), *(agent.collect([version]) for agent in self.agents))
        for old in await asyncio.to_thread(self.store.versions):
            if old != version:
                await asyncio.to_thread(self.store.forget_version, old)
        return {
            "handoff_publish_s": published - start, "handoff_pull_s": arrived - published, "handoff_load_s": loaded - arrived,
            "handoff_s": clock() - start, "handoff_bytes_pulled": float(elsewhere + sum(p["bytes_pulled"] for p in pulled)),
            "handoff_bytes_read": float(sum(e.bytes_read for e in self.engines.all if e.loaded == version)),
            "canary_mean_abs": difference, "engines": float(len(self.engines.all)),
            **self._offloaded,
        }  # fmt: skip

    async def export_hf(self, folder: Path, iteration: int) -> None:
        """Write the version that the engines hold, the weights of `iteration`, as a Hugging Face folder (from the head node's
        segments)."""
        if self.engines.held is None:
            raise ClusterError("no weights have been handed off yet, so there is nothing to export")
        paths = self.engines.held.paths[self.agents[0].node_rank]
        await self.trainer.call("export_hf", paths=paths, folder=str(folder), iteration=iteration)

    async def stop(self) -> None:
        """End the engines and the trainer."""
        await self.visitors.stop()
        await end_processes(self.agents)
