"""Engines of a visiting node in a hand-off: none waits for one that is being restarted. Against a real server that plays agent
and engine, since vLLM would take minutes."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from k15.config.schema import RunConfig
from k15.errors import EngineError, WeightsError
from k15.node.client import AgentClient
from k15.rollout.client import EngineFrozen
from k15.rollout.server import SERVED_NAME
from k15.runs.engine import Engine, Held
from k15.runs.engines import Engines

TOKEN, CANARY, LOGPROB = "t" * 32, [3, 4, 5], -1.5


class Node:
    """An agent and its one engine behind one port."""

    def __init__(self) -> None:
        self.updates: list[int] = []
        self.refuses = 0  # so many updates fail as an engine does whose state is unknown
        self.starts = 0
        self.frozen = False  # until it is started again
        self.url = ""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.add_routes([
            web.post("/engines/{name}/update", self.update), web.get("/processes", self.processes), web.get("/ports", self.ports),
            web.post("/processes", self.began), web.delete("/processes/{name}", self.answered), web.get("/v1/models", self.models),
            web.post("/inference/v1/generate", self.scored), web.get("/health", self.answered),
        ])  # fmt: skip
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return runner

    async def update(self, request):
        while self.frozen:
            await asyncio.sleep(0.01)
        if self.refuses:
            self.refuses -= 1
            return web.json_response({"error": "half-way", "kind": "EngineError"}, status=409)
        self.updates.append((await request.json())["version"])
        return web.json_response({"total_s": 0.1, "bytes_read": 77})

    async def processes(self, _):
        return web.json_response([{"name": name, "alive": True} for name in ("home", "guest")])

    async def ports(self, _):
        return web.json_response({"port": self.port, "interface": "lo"})

    async def began(self, _):
        self.starts += 1
        self.frozen = False
        return web.json_response({})

    async def answered(self, _):
        return web.json_response({})

    async def models(self, _):
        return web.json_response({"data": [{"id": SERVED_NAME}]})

    async def scored(self, request):
        tokens = (await request.json())["token_ids"]
        rows = [None] + [{str(t): {"logprob": LOGPROB}} for t in tokens[1:]]
        return web.json_response({"prompt_logprobs": rows})


def held(version: int) -> Held:
    return Held(version, {}, [LOGPROB] * 2)


@asynccontextmanager
async def two_nodes(tmp_path):
    """(engines, the one at home, the visiting one, its node, clients that came and left)"""
    nodes = [Node(), Node()]
    runners = [await node.start() for node in nodes]
    async with aiohttp.ClientSession() as session:
        engines = Engines(RunConfig(), tmp_path, TOKEN, session, "cpu", CANARY)
        for rank, name in enumerate(("home", "guest")):
            engine = Engine(name, AgentClient(session, nodes[rank].url, TOKEN, rank), 0, engines._client(), name == "guest")
            engine.client.point_to(nodes[rank].url)
            engines.admit([engine])
        seen: list = []
        engines.on_join = lambda client: seen.append(("joins", client))

        async def leaves(client):
            seen.append(("leaves", client))

        engines.on_leave = leaves
        yield engines, *engines.all, nodes[1], seen
    for runner in runners:
        await runner.cleanup()


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_visiting_engine_in_restart_misses_the_version_and_catches_up(tmp_path):
    async with two_nodes(tmp_path) as (engines, home, guest, node, seen):
        assert await engines.take(held(1)) == 0.0 and (home.loaded, guest.loaded, guest.bytes_read) == (1, 1, 77)
        seen.clear()
        async with guest.busy:  # somebody is healing it
            for version in (2, 3):
                await asyncio.wait_for(engines.take(held(version)), 10)
            assert (home.loaded, guest.loaded) == (3, 1) and node.updates == [1]
            assert ("joins", guest.client) not in seen and seen.count(("leaves", guest.client)) == 2
            assert engines.all == [home, guest], "it is not given up"
        await until(lambda: seen[-1] == ("joins", guest.client))
        assert guest.loaded == 3 and node.updates == [1, 3] and guest.client.expected == 3, "never the version in between"


async def test_a_visiting_engine_that_fails_to_load_is_restarted_behind_the_hand_off(tmp_path):
    async with two_nodes(tmp_path) as (engines, home, guest, node, seen):
        node.refuses = 2  # in the hand-off, and once more before it is restarted
        await engines.take(held(1))
        assert home.loaded == 1 and guest.loaded is None and node.starts == 0
        await until(lambda: seen[-1] == ("joins", guest.client))
        assert node.starts == 1 and guest.loaded == 1 and node.updates == [1]
        node.refuses = 9
        await engines.take(held(2))
        await until(lambda: engines.all == [home])
        assert ("joins", guest.client) not in seen[seen.index(("leaves", guest.client), 2) :], "given up for good"


async def test_a_visiting_engine_that_is_frozen_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("k15.runs.engines.VISITOR_LOAD_S", 0.2)
    async with two_nodes(tmp_path) as (engines, home, guest, node, seen):
        node.frozen = True
        await asyncio.wait_for(engines.take(held(1)), 20)
        assert home.loaded == 1 and guest.loaded is None and ("leaves", guest.client) in seen
        await until(lambda: seen[-1] == ("joins", guest.client))
        assert node.starts == 1 and guest.loaded == 1 and not guest.hangs, "restarted, not asked a second time"


async def test_a_frozen_engine_is_replaced_though_its_health_is_good(tmp_path):
    async with two_nodes(tmp_path) as (engines, _, guest, node, _):
        await engines.take(held(1))
        assert await engines.heal(guest.client, EngineError("a refusal")) is guest.client and node.starts == 0
        assert await engines.heal(guest.client, EngineFrozen("silent")) is guest.client
        assert node.starts == 1 and node.updates == [1, 1] and guest.loaded == 1


@pytest.mark.parametrize(
    ("dtype", "device", "off", "message"),
    [
        ("float32", "cpu", 0.0005, None),
        ("float32", "cpu", 0.01, r"allowed: 0\.001\)\. .* the rounding of float32 differs that much: raise rollout\.canary_tol"),
        ("float32", "cuda", 0.01, None),
        ("float32", "cuda", 0.03, r"allowed: 0\.02\)\. .* multiplies float32 in TF32 on GPUs.* not measured\): raise rollout\."),
        ("bfloat16", "cuda", 0.2, r"allowed: 0\.1\)\. .* try model\.dtype=float32 to tell, then raise rollout\.canary_tolerance"),
    ],
)
async def test_the_canarys_limit_is_that_of_type_and_device(tmp_path, dtype, device, off, message):
    async with two_nodes(tmp_path) as (engines, home, _, _, _):
        engines.cfg.model.dtype, engines.device = dtype, device
        wrong = Held(1, {}, [LOGPROB - off] * 2)
        if message is None:
            assert await engines.take(wrong) == pytest.approx(off) and home.loaded == 1
        else:
            with pytest.raises(WeightsError, match=message):
                await engines.take(wrong)
            assert home.loaded is None


@pytest.mark.parametrize("late", [False, True])
async def test_a_stop_calls_off_what_it_comes_before(late):
    from k15.runs.head import Interrupted, heeded

    stop, ended = asyncio.Event(), []

    async def work():
        try:
            await asyncio.sleep(0 if late else 60)
        finally:
            ended.append(True)
        return "done"

    if late:
        assert await heeded(stop, work()) == "done"
        stop.set()
    else:
        asyncio.get_running_loop().call_later(0.05, stop.set)
        with pytest.raises(Interrupted):
            await heeded(stop, work())
    assert ended == [True], "nothing of it goes on"
