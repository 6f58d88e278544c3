"""How a vLLM server is started: argv, environment, and the wait until it answers. Owns no process itself."""

import asyncio
import glob
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import aiohttp

from k15.config.schema import RolloutConfig
from k15.errors import ConfigError, EngineError, unknown_name
from k15.rollout.guard import TOKEN_ENV
from k15.rollout.scheduler import SCHEDULER

PREFILL_TOKENS = 2048  # a CPU engine computes at most so many prompt tokens a step (or one whole context)
SERVED_NAME = "policy"
"""The model's name in vLLM's API, whatever its folder is called."""

LOGPROBS_MODE = "processed_logprobs"
"""Behaviour log-probs are those of the distribution sampled: after temperature and top-p (renormalised), in fp32.
Greedy requests (temperature 0) report log_softmax of the raw logits; prompt log-probs are always at temperature 1."""

_DTYPES = ("float32", "bfloat16", "float16")


def engine_command(
    cfg: RolloutConfig,
    *,
    model_dir: str | Path,
    host: str,
    port: int,
    device: Literal["cpu", "cuda"],
    dtype: str,
    max_context: int,
    dummy: bool,
    token: str,
    worker_extension: str | None = None,
    seed: int = 0,
    extra_args: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """argv and the environment ADDED to the parent's of one vLLM OpenAI server of the policy in `model_dir`.

    `max_context` bounds prompt + response in tokens. `dummy`: random weights, for engines that are filled by a
    hand-off. `worker_extension`: "package.module.Class" mixed into vLLM's worker. `extra_args` go last and win.
    Raises ConfigError for an unknown device or dtype, or a short token.
    """
    if device not in ("cpu", "cuda"):
        raise unknown_name("the engine's device", device, ("cpu", "cuda"))
    if dtype not in _DTYPES:
        raise unknown_name("the engine's dtype", dtype, _DTYPES)
    if len(token) < 16:
        raise ConfigError(f"the engine token has {len(token)} characters; at least 16 are needed (secrets.token_hex)")
    argv = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    options: dict[str, object] = {
        "model": model_dir,
        "served-model-name": SERVED_NAME,
        "host": host,
        "port": port,
        "dtype": dtype,
        "seed": seed,
        "max-model-len": max_context,
        "max-num-seqs": cfg.max_concurrent,
        "block-size": cfg.block_size,
        "tensor-parallel-size": cfg.tensor_parallel,
        "logprobs-mode": LOGPROBS_MODE,
        "load-format": "dummy" if dummy else "auto",
        "middleware": "k15.rollout.guard.BearerGuard",
        "scheduler-cls": SCHEDULER,  # vLLM's own, with a faster repetition check, in a process that ends with the server
        "uvicorn-log-level": "warning",
    }
    flags = ["enable-prefix-caching", "enable-scale-out", "disable-uvicorn-access-log", "disable-fastapi-docs"]
    if device == "cpu":
        # The default memory check reads one NUMA node only, and no graph compiler pays off on CPU.
        options["kv-cache-memory-bytes"] = cfg.kv_cache_bytes
        # A prompt prefilled in pieces rewinds its request's generator, which CPU generators cannot do: the engine dies.
        options["max-num-batched-tokens"] = max(PREFILL_TOKENS, max_context)
        flags += ["no-enable-chunked-prefill", "enforce-eager", "disable-log-stats"]
        if cfg.tensor_parallel == 1:
            # Worker inside the engine's process (with VLLM_ENABLE_V1_MULTIPROCESSING=0, else vLLM turns it back to
            # mp on CPU): measured 4350 against 2500-3300 tokens/s and 25 against 38-50 s to start.
            options["distributed-executor-backend"] = "uni"
    else:
        options["gpu-memory-utilization"] = cfg.gpu_memory_utilization
        flags += ["enable-sleep-mode"]
    if worker_extension is not None:
        options["worker-extension-cls"] = worker_extension
    for name, value in options.items():
        argv += [f"--{name}", str(value)]
    argv += [f"--{name}" for name in flags]
    return [*argv, *extra_args], _environment(cfg, device, token)


def _environment(cfg: RolloutConfig, device: str, token: str) -> dict[str, str]:
    env = {
        TOKEN_ENV: token,
        "VLLM_API_KEY": token,  # vLLM's own check as a second lock; in the environment so that no log prints it
        "VLLM_SERVER_DEV_MODE": "1",  # pause, abort, prefix cache, weights and collective_rpc routes
        # Only the client closes idle connections. With the default of 5 s a server that stalls for longer (a loaded
        # node, a weight update) drops requests that already wait in its sockets: 30 of 30 in a test, 0 of 30 so.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
    }
    if device == "cpu":
        # `auto` binds every engine to core 0 and asserts under tensor parallelism.
        env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if cfg.tensor_parallel == 1:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if (tcmalloc := _tcmalloc()) is not None:
            env["LD_PRELOAD"] = ":".join(p for p in (tcmalloc, os.environ.get("LD_PRELOAD", "")) if p)
    return env


def _tcmalloc() -> str | None:
    """Path of tcmalloc where it is installed (Debian: libtcmalloc-minimal4); vLLM's CPU steps allocate a lot."""
    found = sorted(glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") + glob.glob("/usr/lib64/libtcmalloc_minimal.so.4"))
    return found[0] if found else None


async def wait_ready(url: str, token: str, proc_alive: Callable[[], bool], timeout_s: float) -> float:
    """Waits until the server at `url` is healthy AND serves the policy to `token`; returns the seconds waited.

    Raises EngineError when the process dies, the token is refused (another job's server sits on the port), the
    server does not serve the policy, or `timeout_s` passes.
    """
    start = time.monotonic()
    last = "no connection yet"
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {token}"}) as session:
        while (waited := time.monotonic() - start) < timeout_s:
            if not proc_alive():
                raise EngineError(f"the engine at {url} ended after {waited:.0f} s, before it was ready; see its log")
            try:
                async with session.get(f"{url}/v1/models") as response:
                    if response.status in (401, 403):
                        raise EngineError(f"the server at {url} refuses this job's token: it is not our engine")
                    if response.status == 200:
                        names = [m["id"] for m in (await response.json())["data"]]
                        if SERVED_NAME not in names:
                            raise EngineError(f"the server at {url} serves {names}, not {SERVED_NAME!r}")
                        return time.monotonic() - start
                    last = f"status {response.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                last = repr(error)
            await asyncio.sleep(0.25)
    raise EngineError(f"the engine at {url} was not ready after {timeout_s:g} s (last answer: {last}); see its log")
