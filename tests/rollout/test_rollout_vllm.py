"""One real vLLM server with a tiny random Qwen2: what the worker relies on is true of the engine itself."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
from pathlib import Path

import aiohttp
import pytest

from k15.config.schema import RepetitionConfig, RolloutConfig
from k15.errors import EngineError
from k15.rollout.client import EngineClient, EngineStale, EngineUnavailable, engine_session
from k15.rollout.seeds import new_group
from k15.rollout.server import engine_command, wait_ready
from k15.rollout.worker import RolloutWorker
from k15.types import Prompt, Rollout, Segment

pytestmark = pytest.mark.vllm
EOS, VOCAB, CONTEXT = 1, 64, 192
NO_REPETITION = RepetitionConfig(enabled=False)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A random Qwen2 (hidden 128, 4 layers; 0.76 M parameters) with its own word-level tokenizer, and the model."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("policy")
    vocab = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shape = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=4)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    ids = dict(vocab_size=VOCAB, eos_token_id=EOS, bos_token_id=None, pad_token_id=0)
    config = Qwen2Config(**shape, **heads, **ids, max_position_embeddings=512, initializer_range=0.1)
    model = Qwen2ForCausalLM(config).float().eval()
    model.save_pretrained(folder)
    return folder, model


class Server:
    """A vLLM server of `policy`, in a session of its own; its log goes to `log`."""

    def __init__(self, policy, log) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.token, self.url, self.log = secrets.token_hex(16), f"http://127.0.0.1:{port}", log
        argv, env = engine_command(
            RolloutConfig(), model_dir=policy[0], host="127.0.0.1", port=port, device="cpu", dtype="float32",
            max_context=CONTEXT, dummy=False, token=self.token,
        )  # fmt: skip
        with log.open("wb") as out:
            self.process = subprocess.Popen(argv, env=os.environ | env, stdout=out, stderr=out, start_new_session=True)

    def wait(self) -> None:
        try:
            asyncio.run(wait_ready(self.url, self.token, lambda: self.process.poll() is None, 240))
        except EngineError:
            print(self.log.read_text()[-4000:])
            raise

    def end(self) -> None:
        try:
            os.killpg(self.process.pid, 15)
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass  # killed by a test


@pytest.fixture(scope="module")
def victim(policy, tmp_path_factory):
    """A second server, to be killed by one test; it starts beside the first."""
    server = Server(policy, tmp_path_factory.mktemp("log") / "victim.log")
    yield server
    server.end()


@pytest.fixture(scope="module")
def engine(policy, victim, tmp_path_factory):
    """(url, token, pid) of a running server."""
    server = Server(policy, tmp_path_factory.mktemp("log") / "engine.log")
    try:
        server.wait()
        yield server.url, server.token, server.process.pid
        assert server.token not in server.log.read_text()
        assert "repetition check: k15.rollout.tail.TailWatch in place of vLLM's own" in server.log.read_text()
    finally:
        server.end()


@pytest.fixture
async def client(engine):
    async with engine_session() as session:
        yield EngineClient(*engine[:2], session, timeout_s=60)


def worker_of(client, **kw) -> RolloutWorker:
    base = dict(max_response_tokens=60, budget_tokens=60, temperature=1.0)
    return RolloutWorker([client], RolloutConfig(**(base | {"repetition": NO_REPETITION} | kw)), 5, max_context_tokens=CONTEXT)


def groups_of(n: int, k: int):
    return [
        new_group(Prompt(f"p{i}", "", ""), tuple(3 + (7 * i + 11 * j) % 60 for j in range(9 + i)), k, run_seed=1, draw=0)
        for i in range(n)
    ]


def reference_logprobs(model, rollout: Rollout, temperature: float) -> list[float]:
    """log_softmax(logits / temperature) of transformers at each response token."""
    import torch

    tokens = torch.tensor([*rollout.prompt_tokens, *rollout.response_tokens])
    with torch.no_grad():
        logits = model(tokens[None]).logits[0, :-1].double() / temperature
    rows = logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    return rows[len(rollout.prompt_tokens) - 1 :].tolist()


async def test_the_token_is_demanded_on_every_route_but_health(engine):
    url, token, _ = engine
    routes = (
        "/v1/models",
        "/collective_rpc",
        "/pause",
        "/abort_requests",
        "/inference/v1/generate",
        "/metrics",
        "/docs",
    )
    async with aiohttp.ClientSession() as session:
        for key in ({}, {"Authorization": "Bearer " + "0" * 32}):
            for route in routes:
                async with session.post(url + route, json={}, headers=key) as answer:
                    assert answer.status == 401, route
        async with session.get(url + "/health") as answer:
            assert answer.status == 200
        async with session.get(url + "/v1/models", headers={"Authorization": f"Bearer {token}"}) as answer:
            assert answer.status == 200
        with pytest.raises(EngineError, match="refuses this job's token"):
            await wait_ready(url, "0" * 32, lambda: True, 5)


async def test_greedy_in_budget_segments_equals_an_uninterrupted_run(client):
    whole = await worker_of(client, temperature=0.0).run(groups_of(4, 1), 1)
    for budget in (7, 32):
        worker, parts = worker_of(client, temperature=0.0, budget_tokens=budget), groups_of(4, 1)
        for version in range(-(-60 // budget)):
            await client._call("POST", "/reset_prefix_cache")  # the prefix is computed anew, as after a weight update
            parts = await worker.run(parts, version)
        for a, b in zip((g.rollouts[0] for g in whole), (g.rollouts[0] for g in parts)):
            assert a.response_tokens == b.response_tokens and a.finish == b.finish
            assert a.response_logprobs == pytest.approx(b.response_logprobs, abs=1e-5)
            assert [len(s.tokens) for s in b.segments[:-1]] == [budget] * (len(b.segments) - 1)
            assert len(b.segments) == -(-b.length // budget) > 1


async def test_behaviour_logprobs_are_those_of_the_tempered_distribution_and_seeds_reproduce(client, policy):
    first = await worker_of(client, temperature=0.7, budget_tokens=25).run(groups_of(4, 4), 1)
    again = await worker_of(client, temperature=0.7, budget_tokens=25).run(groups_of(4, 4)[::-1], 1)
    assert first == again[::-1]  # whatever ran beside them
    rollouts = [r for g in first for r in g.rollouts]
    assert len({r.response_tokens for r in rollouts}) == 16
    for r in rollouts:
        assert list(r.response_logprobs) == pytest.approx(reference_logprobs(policy[1], r, 0.7), abs=1e-4)
        assert (r.response_tokens[-1] == EOS) == (r.finish == "stop") and EOS not in r.response_tokens[:-1]
    assert any(r.finish == "stop" for g in await worker_of(client, temperature=1.5).run(groups_of(8, 4), 1) for r in g.rollouts)


async def test_greedy_and_sampled_side_by_side_keep_their_own_distribution(client, policy):
    greedy, hot = await asyncio.gather(
        worker_of(client).sample([r.prompt_tokens for g in groups_of(3, 1) for r in g.rollouts], 1, 0.0, 30, seed=1),
        worker_of(client).sample([(9, 8, 7, 6)], 6, 1.3, 30, seed=2),
    )
    for rollouts, temperature in ((greedy, 1.0), (hot, 1.3)):
        for r in rollouts:
            assert list(r.response_logprobs) == pytest.approx(reference_logprobs(policy[1], r, temperature), abs=1e-4)


async def test_prompt_logprobs_equal_transformers(client, policy):
    tokens = [3 + (5 * i * i + i) % 60 for i in range(150)]
    canary = Rollout("c", 0, 0, (tokens[0],)).extended(Segment(tuple(tokens[1:]), (0.0,) * 149, 0, "length"))
    got = await client.prompt_logprobs(tokens)
    assert got == pytest.approx(reference_logprobs(policy[1], canary, 1.0), abs=1e-4) and len(got) == 149
    assert got == pytest.approx(await client.prompt_logprobs(tokens), abs=1e-5)  # no prefix cache in between
    with pytest.raises(EngineError, match="status 400"):
        await client.prompt_logprobs([3] * (CONTEXT + 1))


async def test_repetition_stops_early_also_across_segments(client):
    """A random model's greedy text falls into a loop. In segments of 5 the engine alone would hardly ever see it."""
    on = RepetitionConfig(max_period=8, min_repeats=3)
    long = dict(temperature=0.0, max_response_tokens=150)
    whole_worker = worker_of(client, repetition=on, budget_tokens=150, **long)
    whole = await whole_worker.run(groups_of(6, 1), 1)
    looped = [g.rollouts[0] for g in whole if g.rollouts[0].finish == "repetition"]
    assert looped, "no greedy text looped"
    for r in looped:
        tail = [r.response_tokens[-p * 3 :] for p in range(1, 9)]
        assert any(t == t[: len(t) // 3] * 3 for t in tail)
    saved = sum(150 - r.length for r in looped)
    assert whole_worker.metrics.repetition_saved_tokens_upper_bound == saved > 0
    parts, worker = groups_of(6, 1), worker_of(client, repetition=on, budget_tokens=5, **long)
    for version in range(30):
        parts = await worker.run(parts, version)
    assert [(g.rollouts[0].response_tokens, g.rollouts[0].finish) for g in parts] == [
        (g.rollouts[0].response_tokens, g.rollouts[0].finish) for g in whole
    ]


async def test_abort_keeps_partial_tokens_and_going_on_gives_the_uninterrupted_run(client):
    cfg = dict(temperature=0.0, max_response_tokens=150, budget_tokens=150)
    worker = worker_of(client, **cfg)
    whole = await worker.run(groups_of(24, 1), 1)
    first_done = asyncio.Event()  # greedy texts end at many lengths: when one has ended, others are in the middle
    run = asyncio.create_task(worker.run(groups_of(24, 1), 1, lambda metrics, done: first_done.set()))
    await first_done.wait()
    await worker.abort()
    parts = await run
    aborted = [g.rollouts[0] for g in parts if g.rollouts[0].finish == "abort"]
    assert aborted and all(0 < r.length < 150 for r in aborted)
    parts = await worker.run(parts, 1)
    for a, b in zip(whole, parts):
        assert a.rollouts[0].response_tokens == b.rollouts[0].response_tokens
        assert a.rollouts[0].response_logprobs == pytest.approx(b.rollouts[0].response_logprobs, abs=1e-5)


async def test_many_long_seeded_prompts_at_once(client):
    """More prompt tokens than a step computes: vLLM would prefill one in pieces, which kills a CPU engine."""
    prompts = [tuple(3 + (i * 7 + j * j) % (VOCAB - 3) for j in range(180)) for i in range(60)]
    done = await asyncio.gather(*(client.generate(p, max_tokens=2, seed=i) for i, p in enumerate(prompts)))
    assert len(done) == 60 and all(1 <= len(g.tokens) <= 2 for g in done)


async def test_health_and_abort_without_requests(client):
    await client.health()
    assert await client.abort_all() == 0
    async with engine_session() as session:
        with pytest.raises(EngineUnavailable, match="ClientConnectorError"):
            await EngineClient("http://127.0.0.1:9", "x", session).health()


async def test_a_server_that_stalls_loses_no_request_that_waits_in_its_sockets(client, engine):
    """vLLM's default keep-alive (5 s) would reset them all when the stall ends."""
    prompts = [(5, 6, 7 + i) for i in range(20)]

    async def ask():
        return await asyncio.gather(*(client.generate(p, max_tokens=4, seed=1) for p in prompts))

    before = await ask()
    os.kill(engine[2], signal.SIGSTOP)
    try:
        stalled = asyncio.create_task(ask())
        await asyncio.sleep(6.0)
    finally:
        os.kill(engine[2], signal.SIGCONT)
    assert await stalled == before


async def label(client: EngineClient, version: int) -> None:
    """As `k15.weights.engine.update_engine` does after it has loaded a version."""
    await client._call("POST", "/update_weight_version", {"new_version": str(version)})


async def test_the_engine_says_which_weights_sampled(client):
    await label(client, 5)
    assert await client.version() == 5
    client.expect(5)
    assert len((await client.generate((3, 4, 5), max_tokens=20, seed=1)).tokens) > 0
    await label(client, 6)  # behind the client's back
    with pytest.raises(EngineStale, match="sampled with weights 6, not 5"):
        await client.generate((3, 4, 5), max_tokens=20, seed=1)
    client.expect(7)
    with pytest.raises(EngineStale, match="holds weights 6, not 7"):
        await client.generate((3, 4, 5), max_tokens=20, seed=1)


def in_session(leader: int) -> list[int]:
    """Living processes of the session that `leader` began."""
    stats = [p.read_text().rsplit(")", 1) for p in Path("/proc").glob("[0-9]*/stat") if p.exists()]
    return [int(head.split(" ", 1)[0]) for head, rest in stats if rest.split()[3] == str(leader) and rest.split()[0] != "Z"]


async def test_an_engine_killed_in_mid_phase_costs_no_token_that_had_arrived(client, victim, policy):
    """Two engines, one killed by SIGKILL: every rollout is whole, every log-prob that of the weights, nothing sampled twice."""
    await asyncio.to_thread(victim.wait)
    async with engine_session() as session:
        other = EngineClient(victim.url, victim.token, session, timeout_s=60)
        for each in (client, other):
            await label(each, 5)
            each.expect(5)
            await each.generate((3, 4, 5), max_tokens=40, seed=1)  # its first steps are slow

        async def without(failed, error):
            assert failed is other, error
            return None

        cfg = RolloutConfig(max_response_tokens=170, budget_tokens=170, repetition=NO_REPETITION)
        worker = RolloutWorker([client, other], cfg, 5, max_context_tokens=CONTEXT, on_engine_failure=without)
        started = asyncio.get_running_loop().time()
        some_done = asyncio.Event()  # texts end at many lengths: by then others are in the middle
        run = asyncio.create_task(worker.run(groups_of(8, 8), 5, lambda metrics, done: done < 12 or some_done.set()))
        await some_done.wait()
        assert len(in_session(victim.process.pid)) > 1
        os.kill(victim.process.pid, signal.SIGKILL)  # the server alone: its engine must not stay
        rollouts = [r for g in await run for r in g.rollouts]
        took = asyncio.get_running_loop().time() - started
    kept, metrics = [r for r in rollouts if len(r.segments) > 1], worker.metrics
    victim.process.wait(20)
    assert not in_session(victim.process.pid)
    assert len(rollouts) == 64 and all(r.finished for r in rollouts)
    assert kept and metrics.kept_tokens == sum(len(s.tokens) for r in kept for s in r.segments[:-1]) > 0
    assert metrics.engine_failures == 1 and metrics.tokens == sum(r.length for r in rollouts)
    assert all(s.version == 5 for r in rollouts for s in r.segments)
    for r in rollouts[::4] + kept[:8]:
        assert list(r.response_logprobs) == pytest.approx(reference_logprobs(policy[1], r, 1.0), abs=1e-4)
    print(f"kept {metrics.kept_tokens} tokens of {metrics.retries} requests; {metrics.tokens} tokens in {took:.1f} s")
