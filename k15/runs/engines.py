"""The job's vLLM servers, seen from the controller: heal, load a weight version, prove it by the canary, sleep, wake."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from k15.config.schema import RunConfig
from k15.errors import EngineError, K15Error, WeightsError
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.rollout.client import EngineClient, EngineFrozen, EngineStale, EngineUnavailable
from k15.runs.engine import Engine, Held, Launch

log = get_logger("engines")
VISITOR_LOAD_S = 60.0  # to load what its node has pulled; all wait for it. An engine at home has what its calls are given
# The output head alone, computed in bf16 by vLLM and in fp32 by the trainer, differs by about 0.01 nats a token.
CANARY_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
CANARY_TOLERANCE_TF32 = 2e-2  # not measured: model.dtype=float32 on a GPU, where vLLM's attention multiplies in TF32


class Engines:
    """All engines of a job. `held` is None until the first hand-off.

    `on_join(client)` and `on_leave(client)` tell the rollout worker of visiting engines (the second returns when one is idle).
    """

    def __init__(
        self,
        cfg: RunConfig,
        model_dir: Path,
        token: str,
        session: aiohttp.ClientSession,
        device: str,
        canary: Sequence[int],
    ) -> None:
        self.cfg = cfg
        self.token = token
        self.session = session
        self.device = device
        self._launch = Launch(cfg, model_dir, token, device)
        self.canary = list(canary)
        self.all: list[Engine] = []
        self.held: Held | None = None
        self.on_join: Callable[[EngineClient], None] = lambda client: None
        self.on_leave: Callable[[EngineClient], Awaitable[None]] = _nobody

    async def start(self, agents: Sequence[AgentClient]) -> None:
        """Start every server with dummy weights, all nodes at once. Raises EngineError with the log's end."""
        self.all += await self.open(agents)

    async def open(self, agents: Sequence[AgentClient], *, visiting: bool = False) -> list[Engine]:
        """Servers with dummy weights on these nodes, not yet among `all`. Raises EngineError with the log's end."""
        made = [
            Engine(f"engine-{agent.node_rank}-{i}", agent, i, self._client(), visiting)
            for agent in agents for i in range(self.cfg.rollout.engines_per_node)
        ]  # fmt: skip
        await asyncio.gather(*(self._launch.start(e) for e in made))
        return made

    def _client(self) -> EngineClient:
        times = self.cfg.rollout
        return EngineClient("", self.token, self.session, times.request_timeout_s, times.silence_timeout_s)

    def admit(self, engines: Sequence[Engine]) -> None:
        """Visiting engines that run: the next `take` gives them weights, and they are sampled from after it."""
        self.all += engines

    async def drop(self, node_rank: int) -> None:
        """Do without the engines of a visiting node. Returns when nothing runs on them."""
        gone = [e for e in self.all if e.visiting and e.agent.node_rank == node_rank]
        self.all = [e for e in self.all if e not in gone]
        for engine in gone:
            if engine.catching_up is not None:
                engine.catching_up.cancel()
        await asyncio.gather(*(self.on_leave(e.client) for e in gone))

    async def _restart(self, engine: Engine) -> float:
        """Replace a dead or stale server by a new one that holds what all must hold; its client stays the same object.

        Returns the canary's difference (0 before the first hand-off).
        """
        log.warning("restarting %s on node %d", engine.name, engine.agent.node_rank)
        await engine.agent.stop(engine.name, grace_s=2)
        await self._launch.start(engine)
        return 0.0 if self.held is None else await self._load(engine, self.held)

    async def heal(self, client: EngineClient, error: Exception) -> EngineClient | None:
        """After a failed request: wait until the engine is healthy again, or replace it once it is dead or stays silent.

        One that answered with other weights than it must hold gets the right ones before it is asked again. None for a
        visiting one that cannot be healed, or has left.
        """
        engine = next((e for e in self.all if e.client is client), None)
        if engine is None:
            return None
        log.warning("%s failed: %s", engine.name, error)
        wanted = self.held
        try:
            async with engine.busy:
                return await self._heal(engine, error)
        except K15Error as fault:
            if not engine.visiting:
                raise
            if isinstance(fault, WeightsError) and self.held is not wanted:
                return None  # its weights went for newer ones meanwhile: `_catch_up` brings it those
            if engine in self.all:  # else its node was let go meanwhile
                self._give_up(engine, fault)
            return None

    def _give_up(self, engine: Engine, fault: K15Error) -> None:
        log.warning("going on without %s on node %d, which came for rollout only: %s", engine.name, engine.agent.node_rank, fault)
        self.all = [e for e in self.all if e is not engine]

    async def _heal(self, engine: Engine, error: Exception, patience_s: float = 30.0) -> EngineClient:
        client = engine.client
        if isinstance(error, EngineStale):
            await self._load_or_restart(engine)
            return client
        if isinstance(error, EngineFrozen):
            await self._restart(engine)
            return client
        deadline = asyncio.get_running_loop().time() + patience_s
        while asyncio.get_running_loop().time() < deadline:
            if not (await engine.agent.processes())[engine.name]["alive"]:
                break
            try:
                await client.health()
                return client
            except EngineUnavailable:
                await asyncio.sleep(0.5)
        await self._restart(engine)
        return client

    async def take(self, held: Held) -> float:
        """Make every engine hold `held`, in place or by restart; the largest canary difference. All or none is sampled from.

        A visiting one that is being restarted, or must be, is not waited for: it misses the phase and catches up.

        Raises WeightsError where an engine then differs from the trainer by more than rollout.canary_tolerance.
        """
        self.held = held
        for engine in self.all:
            engine.client.expect(held.version)
        differences = await asyncio.gather(*(self._hold_or_drop(e) for e in self.all))
        return max(d for d in differences if d is not None)

    async def _hold_or_drop(self, engine: Engine) -> float | None:
        try:
            difference = await self._hold_now(engine) if engine.visiting else await self._hold(engine)
        except K15Error as fault:
            if not engine.visiting:
                raise
            self._give_up(engine, fault)
            await self.on_leave(engine.client)
            return None
        if difference is None:
            log.warning("%s on node %d misses version %d", engine.name, engine.agent.node_rank, engine.client.expected)
            await self.on_leave(engine.client)
            if engine.catching_up is None or engine.catching_up.done():
                engine.catching_up = asyncio.create_task(self._catch_up(engine))
            return None
        if engine not in self.all:
            return None  # it was given up, or left, while it loaded
        self.on_join(engine.client)  # one that visits, or was given up in an earlier phase; nothing for one that is known
        return difference

    async def _hold(self, engine: Engine) -> float:
        async with engine.busy:
            return await self._load_or_restart(engine)

    async def _hold_now(self, engine: Engine) -> float | None:
        """As `_hold`, but None where that would be the wait for a restart."""
        if engine.busy.locked():
            return None
        if self.cfg.rollout.update == "restart":
            return await self._hold(engine)
        async with engine.busy:
            assert self.held is not None
            try:
                async with asyncio.timeout(VISITOR_LOAD_S):
                    return await self._load(engine, self.held)
            except EngineError as error:
                log.error("%s could not be updated: %s", engine.name, error)
            except TimeoutError:
                log.error("%s did not load within %.0f s", engine.name, VISITOR_LOAD_S)
                engine.hangs = True
            return None

    async def _catch_up(self, engine: Engine) -> None:
        """Bring an engine that missed a version to what all hold by then; it is sampled from in the phase after that."""
        try:
            async with engine.busy:
                while engine in self.all and self.held is not None and engine.loaded != self.held.version:
                    wanted = self.held
                    try:
                        await (self._restart(engine) if engine.hangs else self._load_or_restart(engine))
                    except WeightsError:
                        if self.held is wanted:
                            raise  # else its segments were dropped meanwhile, for a newer version
        except K15Error as fault:
            if engine in self.all:
                self._give_up(engine, fault)
            return
        if engine in self.all:
            log.info("%s has caught up", engine.name)
            self.on_join(engine.client)

    async def _load_or_restart(self, engine: Engine) -> float:
        """Load and prove it. An engine that dies meanwhile, or whose state is unknown, is replaced once."""
        if self.cfg.rollout.update == "restart":
            return await self._restart(engine)
        try:
            assert self.held is not None
            return await self._load(engine, self.held)
        except EngineError as error:
            log.error("%s could not be updated: %s", engine.name, error)
            return await self._restart(engine)

    async def _load(self, engine: Engine, held: Held) -> float:
        """Load `held` and prove it: mean |engine - trainer| over the canary's log-probs (nats). `held` may be older than what
        all must hold by now; whoever set that waits for this engine and loads it again."""
        times = await engine.agent.update(engine.name, held.version)
        got, expected = await engine.client.prompt_logprobs(self.canary), held.canary
        if len(got) != len(expected):
            raise WeightsError(f"{engine.name} gave {len(got)} canary log-probs, the trainer {len(expected)}")
        difference = statistics.fmean(abs(a - b) for a, b in zip(got, expected, strict=True))
        limit, otherwise = self._canary_limit()
        if not difference <= limit:
            raise WeightsError(
                f"after loading version {held.version}, {engine.name} differs from the trainer by {difference:.3g} nats a "
                f"token on the canary text (allowed: {limit}). Either it does not hold the trainer's weights, or {otherwise}"
            )
        engine.loaded, engine.bytes_read = held.version, int(times["bytes_read"])
        return difference

    def _canary_limit(self) -> tuple[float, str]:
        """(nats a token, what a greater difference may mean apart from wrong weights, and what to try)."""
        dtype, limit = self.cfg.model.dtype, self.cfg.rollout.canary_tolerance
        if dtype == "float32" and self.device == "cuda":
            default, measured = CANARY_TOLERANCE_TF32, f" (the limit's default there, {CANARY_TOLERANCE_TF32}, is not measured)"
            why = f"vLLM's attention, which multiplies float32 in TF32 on GPUs, rounds that much{measured}: "
        else:
            default = CANARY_TOLERANCE[dtype]
            why = f"the rounding of {dtype} differs that much: "
            why += "try model.dtype=float32 to tell, then " if dtype != "float32" else ""
        return default if limit is None else limit, f"{why}raise rollout.canary_tolerance."

    async def sleep(self) -> None:
        """Free the devices for training (vLLM's sleep, level 1); CUDA only. A server that does not answer is ended."""

        async def one(engine: Engine) -> None:
            async with engine.busy:
                try:
                    await engine.agent.sleep(engine.name)
                except EngineError as error:
                    log.error("%s could not sleep and is ended: %s", engine.name, error)
                    await engine.agent.stop(engine.name, grace_s=2)

        await asyncio.gather(*(one(e) for e in self.all if not e.visiting))  # those have no trainer beside them

    async def wake(self) -> None:
        """Undo `sleep`; a server that does not wake is replaced when it is to load weights (`take`)."""

        async def one(engine: Engine) -> None:
            async with engine.busy:
                try:
                    await engine.agent.wake(engine.name)
                except EngineError as error:
                    log.error("%s did not wake: %s", engine.name, error)

        await asyncio.gather(*(one(e) for e in self.all if not e.visiting))


async def _nobody(client: EngineClient) -> None:
    """Nobody samples yet."""
