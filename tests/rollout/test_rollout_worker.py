"""The worker against a real HTTP server with real faults: every result must be the uninterrupted response."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from fake_engine import TOKEN, FakeEngine, expected

from k15.config.schema import RepetitionConfig, RolloutConfig
from k15.errors import ConfigError, EngineError
from k15.rollout.client import EngineClient, EngineFrozen, EngineUnavailable, engine_session
from k15.rollout.seeds import new_group, segment_seed
from k15.rollout.stream import STREAM_TOKENS
from k15.rollout.worker import RolloutWorker
from k15.types import Group, Prompt, Rollout, Segment


def config(**kw) -> RolloutConfig:
    base = dict(max_response_tokens=40, budget_tokens=40, max_concurrent=8, request_timeout_s=5.0, max_retries=3)
    return RolloutConfig(**(base | {"repetition": RepetitionConfig(enabled=False)} | kw))


def groups_of(n: int, k: int = 4) -> list[Group]:
    rng = random.Random(n)
    return [
        new_group(Prompt(f"p{i}", "", ""), tuple(rng.randrange(2, 50) for _ in range(5 + i % 3)), k, run_seed=7, draw=0)
        for i in range(n)
    ]


@asynccontextmanager
async def running(n: int, cfg: RolloutConfig, on_failure=None, step_s: float = 0.0, timeout_s: float = 5.0, silence_s=60.0):
    engines = [await FakeEngine(step_s).start() for _ in range(n)]
    async with engine_session() as session:
        clients = [EngineClient(e.url, TOKEN, session, timeout_s, silence_s) for e in engines]
        yield engines, RolloutWorker(clients, cfg, 7, max_context_tokens=64, on_engine_failure=on_failure)
    for engine in engines:
        await engine.kill()


async def stopped_at_first_end(worker: RolloutWorker, groups: list[Group]) -> list[Group]:
    first_end = asyncio.Event()
    run = asyncio.create_task(worker.run(groups, 1, lambda metrics, done: first_end.set()))
    await first_end.wait()
    await worker.abort()
    return await run


def assert_uninterrupted(groups: list[Group], limit: int = 40) -> None:
    """Every rollout is a prefix of, and if finished equal to, what one uninterrupted request gives."""
    for r in (r for g in groups for r in g.rollouts):
        tokens, logprobs, finish = expected(list(r.prompt_tokens), limit)
        assert list(r.response_tokens) == tokens[: r.length]
        assert r.response_logprobs == pytest.approx(logprobs[: r.length])
        if r.finished:
            assert (r.length, r.finish) == (len(tokens), finish)


async def test_budget_segments_join_to_the_uninterrupted_response():
    async with running(2, config(budget_tokens=7)) as (engines, worker):
        groups, version = groups_of(6), 0
        while not all(g.finished for g in groups):
            before, version = groups, version + 1
            groups = await worker.run(groups, version)
            assert [g.prompt.id for g in groups] == [g.prompt.id for g in before]
            for old, new in zip((r for g in before for r in g.rollouts), (r for g in groups for r in g.rollouts)):
                added = new.segments[len(old.segments) :]
                assert new.segments[: len(old.segments)] == old.segments
                assert len(added) == (0 if old.finished else 1)
                assert all(s.version == version and len(s.tokens) <= 7 for s in added)
                assert new.finished or len(added[0].tokens) == 7
            assert worker.metrics.tokens == sum(r.length for g in groups for r in g.rollouts) - sum(
                r.length for g in before for r in g.rollouts
            )
        assert_uninterrupted(groups)
        assert version == 6  # ceil(40 / 7): somebody went the whole way
        seeds = [b["sampling_params"]["seed"] for e in engines for b in e.requests]
        assert len(set(seeds)) == len(seeds)  # another seed for each rollout and each segment
        sent = len(seeds)
        assert await worker.run(groups, version) == groups and sum(len(e.requests) for e in engines) == sent


async def test_engines_are_full_balanced_and_nobody_waits_for_the_slow():
    async with running(2, config(max_concurrent=8), step_s=0.002) as (engines, worker):
        seen = []
        groups = await worker.run(groups_of(16), 1, lambda m, done: seen.append((done, m.tokens)))
        assert_uninterrupted(groups)
        assert [e.peak for e in engines] == [9, 9]  # 8 running and 1 that waits inside the engine
        assert [d for d, _ in seen] == list(range(1, 65)) and seen[-1][1] == worker.metrics.tokens
    async with running(2, config(), step_s=0.002) as (engines, worker):
        engines[0].step_s = 0.05
        await worker.run(groups_of(16), 1)
        assert len(engines[1].requests) > 2 * len(engines[0].requests)
        m = worker.metrics
        assert 0 < m.p90_s <= m.p90_s + m.tail_s <= m.seconds and m.finishes["stop"] + m.finishes["length"] == 64


@pytest.mark.parametrize("fault", ["500", "cut", "broken", "hang"])
async def test_a_failing_request_is_reported_once_and_retried(fault):
    told = []

    async def on_failure(client, error):
        told.append((client.base_url, str(error)))
        return client

    async with running(2, config(), on_failure, timeout_s=2.0) as (engines, worker):
        engines[1].faults = [fault] * 3  # several requests broken by one failure
        groups = await worker.run(groups_of(6), 1)
        assert all(g.finished for g in groups)
        assert_uninterrupted(groups)
        assert worker.metrics.retries == 3 and worker.metrics.engine_failures == len(told)
        assert 1 <= len(told) <= 3 and all(url == engines[1].url for url, _ in told)


@pytest.mark.parametrize("fault", ["cut", "broken"])
async def test_no_token_that_arrived_is_sampled_again(fault):
    """Each request that broke off is followed by one whose prompt ends in all that had come of it, under another seed."""

    async def same(client, error):
        return client

    cfg = config(max_response_tokens=60, budget_tokens=60)
    async with running(2, cfg, same) as (engines, _), engine_session() as session:
        worker = RolloutWorker(
            [EngineClient(e.url, TOKEN, session, 5.0) for e in engines], cfg, 7, max_context_tokens=80, on_engine_failure=same
        )
        engines[1].faults = [fault] * 3
        groups = await worker.run(groups_of(8), 1)
        assert_uninterrupted(groups, 60)
        asked = {b["sampling_params"]["seed"]: b for e in engines for b in e.requests}
        sent = engines[0].sent | engines[1].sent
        parts = [r for g in groups for r in g.rollouts if len(r.segments) > 1]
        assert parts and worker.metrics.kept_tokens == sum(len(s.tokens) for r in parts for s in r.segments[:-1]) > 0
        for r in parts:
            first, second = (asked[segment_seed(7, cut(r, i))] for i in range(2))
            got = sent[first["request_id"]]
            assert [len(s.tokens) for s in r.segments] == [got, r.length - got] and got in (1, 1 + STREAM_TOKENS)
            assert tuple(second["token_ids"]) == (*r.prompt_tokens, *r.response_tokens[:got])
            assert [(s.version, s.finish) for s in r.segments[:-1]] == [(1, "abort")]
        assert worker.metrics.tokens == sum(r.length for g in groups for r in g.rollouts)


async def test_a_phase_does_not_wait_for_an_engine_that_it_needs_no_more():
    healed = asyncio.Event()

    async def slowly(client, error):
        await asyncio.sleep(3.0)
        healed.set()
        return client

    async with running(2, config(), slowly, step_s=0.002) as (engines, worker):
        engines[1].faults = ["cut"] * 9
        assert_uninterrupted(groups := await worker.run(groups_of(4), 1))
        assert all(g.finished for g in groups) and not healed.is_set()
        engines[1].faults = []
        await healed.wait()
        before = len(engines[1].requests)
        assert_uninterrupted(await worker.run(groups_of(5), 1))
        assert len(engines[1].requests) > before


async def test_an_engine_that_leaves_in_mid_phase_hands_its_work_on_and_one_that_joined_is_used_next():
    async with running(3, config(max_response_tokens=50, budget_tokens=50), step_s=0.004) as (engines, worker):
        leaving, joining = worker.clients[0], worker.clients[2]
        await worker.drain(joining)
        assert worker.clients == [leaving, worker.clients[1]]
        first_end = asyncio.Event()
        run = asyncio.create_task(worker.run(groups_of(12), 1, lambda m, done: first_end.set()))
        await first_end.wait()
        worker.add(joining)
        await worker.drain(leaving)
        assert engines[0].running == 0 and not run.done()
        asked = len(engines[0].requests)
        groups = await run
        assert_uninterrupted(groups, 50)
        assert all(g.finished for g in groups) and len(engines[0].requests) == asked and not engines[2].requests
        handed_on = [r for g in groups for r in g.rollouts if len(r.segments) > 1]
        assert handed_on and worker.metrics.retries == worker.metrics.engine_failures == 0
        assert worker.metrics.kept_tokens == sum(len(s.tokens) for r in handed_on for s in r.segments[:-1])
        assert_uninterrupted(await worker.run(groups_of(6), 2), 50)
        assert engines[2].requests and len(engines[0].requests) == asked


def cut(r: Rollout, segments: int) -> Rollout:
    return Rollout(r.prompt_id, r.index, r.seed, r.prompt_tokens, r.segments[:segments])


async def test_an_engine_with_other_weights_is_healed_and_never_sampled_from():
    """Known before it is asked, or only from the answer (it changed in between): its tokens do not count either way."""
    told = []

    async def heal(client, error):
        told.append(error)
        engine = next(e for e in engines if e.url == client.base_url)
        engine.version = "3"
        return client

    async with running(2, config(), heal) as (engines, worker):
        for client in worker.clients:
            client.expect(3)
        engines[0].version, engines[1].version = "3", "2"
        groups = await worker.run(groups_of(6), 3)
        assert_uninterrupted(groups)
        assert [type(e).__name__ for e in told] == ["EngineStale"] and "holds weights 2, not 3" in str(told[0])
        assert all(b["token_ids"] for b in engines[1].requests), "the healed engine takes part again"
        engines[1].version = "4"  # behind the client's back
        groups = await worker.run(groups_of(6, k=3), 3)
        assert_uninterrupted(groups)
        assert "sampled with weights 4, not 3" in str(told[1]) and worker.metrics.kept_tokens == 0
        engines[1].version = "default"  # a new process with dummy weights
        for client in worker.clients:
            client.expect(3)
        assert_uninterrupted(await worker.run(groups_of(6, k=2), 3))
        assert "holds weights None, not 3" in str(told[-1])


async def test_a_killed_engine_is_replaced_by_the_callback_and_nothing_is_lost_or_doubled():
    spare = await FakeEngine().start()

    async def on_failure(client, error):
        await asyncio.sleep(0.05)  # a restart takes time; the other engine goes on meanwhile
        return EngineClient(spare.url, TOKEN, client._session, 5.0)

    async with running(2, config(), on_failure, step_s=0.004) as (engines, worker):
        run = asyncio.create_task(worker.run(groups_of(16), 1))
        await asyncio.sleep(0.06)
        await engines[0].kill()
        groups = await run
        assert_uninterrupted(groups)
        assert all(g.finished for g in groups) and len(groups) == 16
        assert sorted((r.prompt_id, r.index) for g in groups for r in g.rollouts) == sorted(
            (f"p{i}", j) for i in range(16) for j in range(4)
        )
        assert worker.metrics.engine_failures == 1 and worker.metrics.retries >= 1
        assert spare.requests and worker.clients[0].base_url == spare.url
    await spare.kill()


async def test_without_a_callback_the_worker_waits_for_the_engine_to_come_back():
    async with running(1, config(), step_s=0.002) as ((engine,), worker):
        run = asyncio.create_task(worker.run(groups_of(4), 1))
        await asyncio.sleep(0.02)
        await engine.kill()
        await asyncio.sleep(0.15)
        await engine.start()
        groups = await run
        assert_uninterrupted(groups)
        assert all(g.finished for g in groups)


async def test_retries_are_bounded_and_the_error_names_engine_and_cause():
    async def same(client, error):
        return client

    async with running(1, config(max_retries=2), same) as ((engine,), worker):
        engine.faults = ["500"] * 1000
        with pytest.raises(EngineError, match=rf"failed 3 times, last on EngineClient\({engine.url}\).*engine core died"):
            await worker.run(groups_of(1, k=1), 1)
        engine.faults = []
        assert_uninterrupted(await worker.run(groups_of(3), 1))  # the worker itself is still good

    async def give_up(client, error):
        return None

    async with running(1, config(), give_up) as ((engine,), worker):
        engine.faults = ["500"]
        with pytest.raises(EngineError, match=r"no engine is left for 1 rollouts.*engine core died"):
            await worker.run(groups_of(1, k=1), 1)


async def test_abort_keeps_partial_tokens_and_the_next_run_goes_on_from_them():
    async with running(2, config(), step_s=0.01) as (engines, worker):
        groups = await stopped_at_first_end(worker, groups_of(20))
        rollouts = [r for g in groups for r in g.rollouts]
        partial = [r for r in rollouts if r.finish == "abort"]
        assert partial and all(0 < r.length < 40 for r in partial)
        assert any(r.finish is None for r in rollouts)  # those that never started
        assert all(e.running == 0 for e in engines)
        assert_uninterrupted(groups)
        for engine in engines:
            engine.step_s = 0.0
        assert_uninterrupted(groups := await worker.run(groups, 2))
        assert all(g.finished for g in groups)
        await worker.abort()  # between phases: nothing to do


async def test_a_phase_that_was_stopped_and_is_run_again_keeps_to_the_versions_budget():
    async with running(1, config(budget_tokens=12), step_s=0.01) as ((engine,), worker):
        stopped = await stopped_at_first_end(worker, groups_of(6))
        assert any(r.finish == "abort" for g in stopped for r in g.rollouts)
        engine.step_s = 0.0
        groups = await worker.run(stopped, 1)
        assert_uninterrupted(groups)
        assert all(r.finished or r.length == 12 for g in groups for r in g.rollouts)  # the same as without the stop
        sent = len(engine.requests)
        assert await worker.run(groups, 1) == groups and len(engine.requests) == sent  # nothing of the budget is left
        assert any(r.length > 12 for g in await worker.run(groups, 2) for r in g.rollouts)


async def test_a_frozen_engine_is_noticed_by_its_silence():
    """It stops in mid-answer, its server still says that all is well, and its requests may take an hour."""
    told = []

    async def on_failure(client, error):
        told.append(error)
        return client if len(told) > 1 else None

    async with running(2, config(), on_failure, step_s=0.01, timeout_s=3600.0, silence_s=3.0) as (engines, worker):
        run = asyncio.create_task(worker.run(groups_of(6), 1))
        while not engines[0].sent:
            await asyncio.sleep(0.01)
        engines[0].step_s = 3600.0
        groups = await asyncio.wait_for(run, 60)
        assert [type(e) for e in told] == [EngineFrozen]
        assert all(g.finished for g in groups) and worker.metrics.kept_tokens > 0
        assert_uninterrupted(groups)
        engines[0].step_s = 0.01
        engines[1].faults = ["hang"]  # one request alone: the others' tokens show that the engine computes
        await asyncio.wait_for(worker.run(groups_of(4), 1), 60)
        assert len(told) == 2 and not worker.clients[0]._out


async def test_a_cancelled_phase_leaves_nothing_running():
    async with running(1, config(), step_s=0.05) as ((engine,), worker):
        run = asyncio.create_task(worker.run(groups_of(4), 1))
        await asyncio.sleep(0.1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        engine.step_s = 0.0
        assert_uninterrupted(await worker.run(groups_of(4), 1))


async def test_sample_is_whole_prompt_major_and_unbudgeted():
    async with running(1, config(budget_tokens=3)) as ((engine,), worker):
        prompts = [(5, 6, 7), (8, 9)]
        rollouts = await worker.sample(prompts, 2, 0.0, 30, seed=3)
        assert [(r.prompt_id, r.index, r.prompt_tokens) for r in rollouts] == [
            (str(i), j, prompts[i]) for i in range(2) for j in range(2)
        ]
        for r in rollouts:
            assert list(r.response_tokens) == expected(list(r.prompt_tokens), 30)[0] and r.finished
        assert {b["sampling_params"]["temperature"] for b in engine.requests} == {0.0}


async def test_what_cannot_fit_or_was_refused_is_said_clearly():
    async with running(1, config(max_response_tokens=60, budget_tokens=9)) as ((engine,), worker):
        with pytest.raises(ConfigError, match=r"prompt 'p0' has 5 tokens.*1\.\.4 to fit model\.max_context_tokens 64"):
            await worker.run(groups_of(1), 1)
        assert not engine.requests
        async with engine_session() as session:
            with pytest.raises(EngineError, match="status 401") as refused:
                await EngineClient(engine.url, "wrong" * 8, session).generate([3], max_tokens=2, seed=1)
            assert not isinstance(refused.value, EngineUnavailable)  # another try will not help


async def test_a_repetition_across_two_segments_ends_where_an_uninterrupted_run_would():
    """The engine sees one segment only: a tail (8, 9) x 4 that began in the segment before is the worker's to find."""
    cfg = config(repetition=RepetitionConfig(max_period=4, min_repeats=4), budget_tokens=40)

    async with running(1, cfg) as ((engine,), worker):

        async def periodic(body):
            for i in range(12):
                yield (9, 8)[(len(body["token_ids"]) + i) % 2], -0.5, "repetition" if i == 11 else None

        engine._sample = periodic
        start = Rollout("p", 0, 1, (3, 4))
        start = start.extended(Segment((5, 8, 9, 8), (-1.0,) * 4, 0, "budget"))
        (group,) = await worker.run([Group(Prompt("p", "", ""), (start,))], 1)
        (r,) = group.rollouts
        assert r.response_tokens == (5, 8, 9, 8, 9, 8, 9, 8, 9) and r.finish == "repetition"
        assert worker.metrics.dropped_tokens == 12 - 5
        assert worker.metrics.repetition_saved_tokens_upper_bound == 40 - 9
