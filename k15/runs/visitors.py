"""Nodes that come for rollout only, and go, while a run goes on (report 2.6.3; `k15 scale`). Watched by the controller.

registered (etcd) -> engines start there -> ready -> admitted at the next hand-off -> sampled from
asks to leave -> its engines are drained: what they have begun goes on elsewhere -> told to end
lost (lease) or failing -> dropped with a warning
"""

import asyncio
import contextlib
import json

import aiohttp

from k15.errors import ClusterError, K15Error
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.runs.engine import Engine
from k15.runs.engines import Engines
from k15.weights.pull import twins
from k15.weights.store import Store

log = get_logger("visitors")
LOOK_S = 2.0
PULL_S = 60.0  # and a second for each SLOWEST bytes of a version: what takes longer holds up the run
SLOWEST = 50e6


class Visitors:
    """`agents`: visiting nodes with engines in use, by rank. `changing`: held by a hand-off, and while a node is let go;
    `admit`, `pull` and `collect` are parts of a hand-off."""

    def __init__(self, store: Store, session: aiohttp.ClientSession, token: str, engines: Engines) -> None:
        self.agents: dict[int, AgentClient] = {}
        self.changing = asyncio.Lock()
        self._store, self._session, self._token, self._engines = store, session, token, engines
        self._ready: dict[int, list[Engine]] = {}
        self._starting: dict[int, asyncio.Task] = {}
        self._known: dict[int, AgentClient] = {}
        self._sent_away: set[int] = set()
        self._watch: asyncio.Task | None = None

    def watch(self) -> None:
        """Begin to look for nodes that come and go."""
        self._watch = asyncio.create_task(self._look_again_and_again())
        self._watch.add_done_callback(_say_why)

    async def stop(self) -> None:
        tasks = [t for t in (self._watch, *self._starting.values()) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def admit(self) -> None:
        """Nodes whose engines have started take part from now on."""
        for rank, engines in self._ready.items():
            self._engines.admit(engines)
            self.agents[rank] = self._known[rank]
        self._ready = {}

    async def pull(self, version: int) -> int:
        """Have all visiting nodes pull a version; bytes. One that cannot, or is too slow, is dropped."""
        if not self.agents:
            return 0
        manifests = await asyncio.to_thread(self._store.manifests, version)
        limit_s = PULL_S + sum(same[0].nbytes for same in twins(manifests)) / SLOWEST

        async def one(rank: int, agent: AgentClient) -> int:
            try:
                async with asyncio.timeout(limit_s):
                    return int((await agent.pull(version))["bytes_pulled"])
            except (K15Error, TimeoutError) as error:
                why = error if isinstance(error, K15Error) else f"it has not taken weights {version} within {limit_s:.0f} s"
                log.warning("going on without node %d, which came for rollout only: %s", rank, why)
                await self._let_go(rank)
                return 0

        return sum(await asyncio.gather(*(one(rank, agent) for rank, agent in self.agents.items())))

    async def collect(self, version: int) -> None:
        """Have them drop other versions, and end those whose engines were given up."""
        used = {e.agent.node_rank for e in self._engines.all if e.visiting}
        for rank, agent in list(self.agents.items()):
            if rank not in used:
                await self._let_go(rank)
                continue
            try:
                await agent.collect([version])
            except ClusterError as error:
                log.warning("node %d: %s", rank, error)

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                await self._look()
            except ClusterError as error:  # the node itself ends when etcd stays away
                log.warning("%s", error)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        found = {rank: r for rank, r in (await self._records("agents/")).items() if r.get("role") == "rollout"}
        leaving = await self._records("leaving/")
        self._sent_away &= found.keys()  # a node keeps its key until it has ended
        for rank in found.keys() - self._known.keys() - leaving.keys() - self._sent_away:
            log.info("node %d (%s) comes for rollout; starting its engines", rank, found[rank]["host"])
            self._known[rank] = AgentClient(self._session, found[rank]["url"], self._token, rank)
            self._starting[rank] = asyncio.create_task(self._start(rank))
        for rank in (found.keys() & (leaving.keys() | self._sent_away)) - self._known.keys():
            # It was to leave before we knew it, or did not hear us: it must not hold its node.
            with contextlib.suppress(ClusterError):  # or it has just ended, and its key goes with its lease
                await AgentClient(self._session, found[rank]["url"], self._token, rank).shutdown()
        for rank in list(self._known):
            if rank in found and rank not in leaving:
                continue
            async with self.changing:
                if rank not in found:
                    log.warning("node %d, which came for rollout only, is gone; the run goes on without it", rank)
                await self._let_go(rank, alive=rank in found)

    async def _records(self, prefix: str) -> dict[int, dict]:
        found = await asyncio.to_thread(self._store.prefix, prefix)
        return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in found.items() if key.count("/") == 1}

    async def _start(self, rank: int) -> None:
        try:
            self._ready[rank] = await self._engines.open([self._known[rank]], visiting=True)
            log.info("node %d is ready: it takes part from the next hand-off on", rank)
        except K15Error as error:
            log.warning("node %d, which came for rollout, is sent away: %s", rank, error)
            await self._let_go(rank)

    async def _let_go(self, rank: int, *, alive: bool = True) -> None:
        """Drain the node's engines, and end its agent where it still is `alive`."""
        agent = self._known.pop(rank, None)
        if agent is None:
            return  # a hand-off was quicker
        task = self._starting.pop(rank)
        if task is not asyncio.current_task():
            task.cancel()
        self._ready.pop(rank, None)
        if self.agents.pop(rank, None) is not None:
            await self._engines.drop(rank)
        if not alive:
            return
        log.info("node %d goes", rank)
        try:
            await agent.shutdown()
        except ClusterError as error:
            log.warning("%s", error)
        self._sent_away.add(rank)


def _say_why(task: asyncio.Task) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("nodes that come and go are looked for no more", exc_info=task.exception())
