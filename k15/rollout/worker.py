"""The rollout worker: groups in, the same groups out, every unfinished rollout one segment longer (report 2.6.2)."""

from collections.abc import Sequence

from k15.config.schema import RolloutConfig
from k15.errors import ConfigError
from k15.rollout.client import EngineClient
from k15.rollout.metrics import PhaseMetrics
from k15.rollout.phase import Lane, OnEngineFailure, OnProgress, Phase
from k15.rollout.plan import Plan, check_plan
from k15.rollout.seeds import derive_seed
from k15.rollout.staleness import spent
from k15.types import Group, Rollout


class RolloutWorker:
    """Samples on all `clients`. `seed` is the run's; `max_context_tokens` is the engines' context length.

    `on_engine_failure(client, error)` is awaited once for each failure of an engine and returns the client to go on
    with, or None to go on without; left out, the worker waits for the engine's /health. A phase that needs the engine no
    more ends before the callback does. `metrics` is the last
    phase's. One phase at a time.
    """

    def __init__(
        self,
        clients: Sequence[EngineClient],
        cfg: RolloutConfig,
        seed: int,
        *,
        max_context_tokens: int,
        on_engine_failure: OnEngineFailure | None = None,
    ) -> None:
        if not clients:
            raise ConfigError("a rollout worker needs at least one engine")
        self.cfg, self.seed, self.max_context_tokens = cfg, seed, max_context_tokens
        self.metrics = PhaseMetrics()
        self._on_failure = on_engine_failure
        self._lanes = [Lane(client) for client in clients]
        self._phase: Phase | None = None

    def add(self, client: EngineClient) -> None:
        """One more engine, from the next phase on; one that was given up in a phase is tried again. Else nothing changes."""
        for lane in self._lanes:
            if lane.client is client:
                lane.gone = False
                return
        self._lanes.append(Lane(client))

    async def drain(self, client: EngineClient) -> None:
        """One engine less: it gets no more requests, and what it has begun goes on elsewhere. Returns when it is idle.
        Does nothing for an engine that is not known."""
        for lane in [lane for lane in self._lanes if lane.client is client]:
            self._lanes.remove(lane)
            if self._phase is not None:
                await self._phase.drain(lane)

    @property
    def clients(self) -> list[EngineClient]:
        """The engines that are left, as the failure callback may have replaced them."""
        return [lane.client for lane in self._lanes if not lane.gone]

    async def run(self, groups: Sequence[Group], version: int, on_progress: OnProgress | None = None) -> list[Group]:
        """Starts or continues every unfinished rollout of `groups` by at most `cfg.budget_tokens` tokens.

        The budget is a weight version's: a phase that was stopped and is run again gives each rollout what it has left.
        `version` is the weights' that the engines hold now. Returns the groups in their order. Raises ConfigError
        when a prompt and its response cannot fit the context, EngineError when engines fail beyond `max_retries`
        (the groups passed in are then still the truth).
        """

        def due(r: Rollout) -> bool:
            return not r.finished and spent(r, version) < self.cfg.budget_tokens

        todo = [r for g in groups for r in g.rollouts if due(r)]
        keys = [(r.prompt_id, r.index) for g in groups for r in g.rollouts]
        assert len(set(keys)) == len(keys), "a rollout is in the phase twice"
        assert all(c.expected in (None, version) for c in self.clients), "engines are to hold another version than the phase's"
        plan = self._plan(self.cfg.temperature, self.cfg.top_p, self.cfg.budget_tokens, self.cfg.max_response_tokens)
        done = iter(await self._run(todo, plan, version, self.seed, on_progress))
        extended = [Group(g.prompt, tuple(next(done) if due(r) else r for r in g.rollouts)) for g in groups]
        assert next(done, None) is None
        return extended

    async def sample(
        self,
        prompts_tokens: Sequence[Sequence[int]],
        n: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        version: int = 0,
        on_progress: OnProgress | None = None,
    ) -> list[Rollout]:
        """`n` whole responses to each prompt, without budget, for evaluation: prompt-major, n * len(prompts) rollouts.

        Temperature 0 is greedy. The prompt_id of prompt i is its position, str(i).
        """
        todo = [
            Rollout(str(i), j, derive_seed(seed, "sample", i, j), tuple(tokens))
            for i, tokens in enumerate(prompts_tokens)
            for j in range(n)
        ]
        top_p = self.cfg.top_p if temperature > 0 else 1.0
        plan = self._plan(temperature, top_p, max_tokens, max_tokens)
        return await self._run(todo, plan, version, seed, on_progress)

    async def abort(self, grace_s: float = 10.0) -> None:
        """Ends the running phase early: `run` returns what there is, partial tokens as segments with finish "abort".
        Does nothing between phases."""
        if self._phase is not None:
            await self._phase.stop(grace_s)

    def _plan(self, temperature: float, top_p: float, budget_tokens: int, max_response_tokens: int) -> Plan:
        cfg = self.cfg
        return Plan(temperature, top_p, budget_tokens, max_response_tokens, cfg.repetition, cfg.max_concurrent, cfg.max_retries)

    async def _run(
        self, todo: list[Rollout], plan: Plan, version: int, seed: int, on_progress: OnProgress | None
    ) -> list[Rollout]:
        assert self._phase is None, "a phase is already running"
        check_plan(plan, todo, self.max_context_tokens)
        left = [lane for lane in self._lanes if not lane.gone]
        self._lanes = left if left else self._lanes  # those that were given up are tried again rather than none
        for lane in self._lanes:
            lane.running, lane.up, lane.failures, lane.gone = 0, True, 0, False
        phase = Phase(
            self._lanes,
            todo,
            plan,
            version=version,
            run_seed=seed,
            on_failure=self._on_failure,
            on_progress=on_progress,
        )
        self._phase, self.metrics = phase, phase.metrics
        try:
            return await phase.run()
        finally:
            self._phase = None
