"""Seeds, masks, repetition over segments, the engine's command line and its guard."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.config.schema import RepetitionConfig, RolloutConfig
from k15.errors import ConfigError, EngineError
from k15.rollout.guard import TOKEN_ENV, BearerGuard
from k15.rollout.repetition import first_repetition
from k15.rollout.seeds import derive_seed, new_group, segment_seed
from k15.rollout.server import engine_command, wait_ready
from k15.rollout.staleness import check_lengths, loss_mask
from k15.types import Prompt, Rollout, Segment


def segment(n: int, version: int, finish="budget") -> Segment:
    return Segment(tuple(range(2, 2 + n)), (-0.5,) * n, version, finish)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=6), st.booleans())
def test_loss_mask_is_as_long_as_the_response_and_marks_the_newest_version(parts, newest_only):
    parts = sorted(parts, key=lambda p: p[1])
    r = Rollout("p", 0, 0, (1,), tuple(segment(n, v) for n, v in parts))
    mask = loss_mask(r, newest_only)
    assert len(mask) == r.length == len(r.response_logprobs)
    newest = sum(n for n, v in parts if v == parts[-1][1]) if parts else 0
    assert sum(mask) == (newest if newest_only else r.length)
    assert not newest_only or mask == tuple(sorted(mask))  # the newest are the last
    check_lengths(r, max(r.length, 1))


def test_wrong_lengths_and_versions_are_refused():
    with pytest.raises(EngineError, match="has 5 tokens, more than max_response_tokens 4"):
        check_lengths(Rollout("p", 0, 0, (1,), (segment(5, 0),)), 4)
    with pytest.raises(EngineError, match=r"older weights: versions \[2, 1\]"):
        check_lengths(Rollout("p", 0, 0, (1,), (segment(1, 2), segment(1, 1))), 9)


def test_seeds_are_the_same_in_every_process_and_differ_for_every_name():
    assert derive_seed(1, "a") == 5719610163118220720  # pinned: a resumed run must draw as the one before it
    code = "from k15.rollout.seeds import derive_seed; print(derive_seed(1, 'a'))"
    assert int(subprocess.check_output([sys.executable, "-c", code])) == derive_seed(1, "a")
    groups = [new_group(Prompt(p, "", ""), (1,), 4, run_seed=s, draw=d) for p in "ab" for s in (0, 1) for d in (0, 1)]
    rollouts = [r for g in groups for r in g.rollouts]
    rollouts += [r.extended(segment(3, 0)) for r in rollouts]
    seeds = [segment_seed(0, r) for r in rollouts]
    assert len(set(seeds)) == len(seeds) == 64 and all(0 <= s < 2**63 for s in seeds)


def first_by_definition(tokens: list[int], start: int, cfg: RepetitionConfig) -> int | None:
    for n in range(start + 1, len(tokens) + 1):
        for p in range(cfg.min_period, cfg.max_period + 1):
            tail = tokens[n - p * cfg.min_repeats : n] if p * cfg.min_repeats <= n else []
            if tail and tail == tail[:p] * cfg.min_repeats:
                return n
    return None


@settings(max_examples=400, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 1), max_size=40),
    start=st.integers(0, 40),
    low=st.integers(1, 3),
    extra=st.integers(0, 4),
    repeats=st.integers(2, 4),
)
def test_first_repetition_is_the_definition(tokens, start, low, extra, repeats):
    cfg = RepetitionConfig(min_period=low, max_period=low + extra, min_repeats=repeats)
    start = min(start, len(tokens))
    assert first_repetition(tokens, start, cfg) == first_by_definition(tokens, start, cfg)


def command(**kw):
    base = dict(model_dir="/m", host="127.0.0.1", port=1, device="cpu", dtype="float32", max_context=64)
    return engine_command(RolloutConfig(**kw.pop("cfg", {})), **(base | dict(dummy=False, token="s" * 32) | kw))


def test_engine_command_hides_the_token_and_follows_the_layout():
    argv, env = command()
    assert "s" * 32 not in " ".join(argv) and env[TOKEN_ENV] == env["VLLM_API_KEY"] == "s" * 32
    options = dict(pairwise(argv))
    assert options["--distributed-executor-backend"] == "uni" and env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert options["--logprobs-mode"] == "processed_logprobs" and options["--load-format"] == "auto"
    assert options["--kv-cache-memory-bytes"] == "268435456" and "--enforce-eager" in argv
    argv, env = command(cfg={"tensor_parallel": 2}, dummy=True, worker_extension="a.B", extra_args=["--x", "1"])
    options = dict(pairwise(argv))
    assert "--distributed-executor-backend" not in argv and "VLLM_ENABLE_V1_MULTIPROCESSING" not in env
    assert (options["--load-format"], options["--worker-extension-cls"]) == ("dummy", "a.B") and argv[-2:] == [
        "--x",
        "1",
    ]
    argv, env = command(device="cuda", dtype="bfloat16")
    assert "--enforce-eager" not in argv and "--gpu-memory-utilization" in argv and "OMP_NUM_THREADS" not in env
    for wrong in ({"device": "tpu"}, {"dtype": "fp32"}, {"token": "short"}):
        with pytest.raises(ConfigError):
            command(**wrong)


async def test_the_guard_lets_only_the_token_and_health_through(monkeypatch):
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    with pytest.raises(RuntimeError, match="has 0 characters"):
        BearerGuard(None)
    monkeypatch.setenv(TOKEN_ENV, "s" * 32)
    passed, sent = [], []

    async def app(scope, receive, send):
        passed.append(scope["path"])

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    guard = BearerGuard(app)

    async def ask(path: str, key: bytes | None, kind: str = "http"):
        headers = [] if key is None else [(b"authorization", key)]
        await guard({"type": kind, "path": path, "headers": headers, "method": "OPTIONS"}, receive, send)

    good = b"Bearer " + b"s" * 32
    for wrong in (None, b"", b"Bearer ", good[:-1], good + b"s", b"s" * 32, good.lower()):
        for path in ("/collective_rpc", "/v1/models", "/health/", "//health", "/pause"):
            await ask(path, wrong)
            assert sent[-2]["status"] == 401 and not passed
    await ask("/v1/realtime", None, "websocket")
    await ask("/health", None, "websocket")
    assert [m["type"] for m in sent[-2:]] == ["websocket.close"] * 2 and not passed
    await ask("/health", None)
    await ask("/collective_rpc", good)
    assert passed == ["/health", "/collective_rpc"]


async def test_wait_ready_tells_a_dead_process_from_a_slow_one():
    with pytest.raises(EngineError, match=r"ended after 0 s"):
        await wait_ready("http://127.0.0.1:9", "s" * 32, lambda: False, 5)
    with pytest.raises(EngineError, match=r"not ready after 0.3 s \(last answer: .*Connect"):
        await wait_ready("http://127.0.0.1:9", "s" * 32, lambda: True, 0.3)


def test_the_room_imports_without_torch_or_vllm():
    code = "import sys, k15.rollout.worker, k15.rollout.buffer, k15.rollout.server, k15.rollout.guard;"
    code += "print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code]).strip() == b"[]"
