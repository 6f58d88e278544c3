"""A real vLLM server that takes versions in place, beside the plain way: save to disk, start vLLM again."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import torch

from benchmarks.handoff.transfer import GateError
from benchmarks.handoff.weights import Trainer
from k15.config.schema import RolloutConfig
from k15.rollout.server import engine_command, wait_ready
from k15.weights.buffers import Workspace
from k15.weights.engine import update_engine
from k15.weights.hf import save_hf
from k15.weights.segments import collect, verify_segment, write_segment

PROMPT = list(range(5, 37))
CONTEXT = 128
DECODES_S = 0.5
START_S = 600.0
ROUNDS = 6  # the first four take fresh memory, or map it
TOLERANCE = 1e-3  # nats: an engine that was filled in place against one that read the same weights from disk


class Server:
    """One vLLM server on a folder. `dummy`: it starts without weights."""

    def __init__(self, model: Path, log: Path, *, dummy: bool) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url, self.token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
        settings = RolloutConfig(kv_cache_bytes=1 << 26, max_concurrent=4)
        argv, env = engine_command(
            settings, model_dir=model, host="127.0.0.1", port=port, device="cpu", dtype="float32", max_context=CONTEXT,
            dummy=dummy, token=self.token, worker_extension="k15.weights.engine.EngineWeights",
        )  # fmt: skip
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                argv, env=os.environ | env | {"VLLM_HOST_IP": "127.0.0.1"}, stdout=out, stderr=out, start_new_session=True
            )

    async def ready(self) -> None:
        await wait_ready(self.url, self.token, lambda: self.process.poll() is None, START_S)

    async def first_token(self, session: aiohttp.ClientSession) -> float:
        """Greedy next token after PROMPT; its log-probability."""
        body = {"model": "policy", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 0}
        headers = {"Authorization": f"Bearer {self.token}"}
        async with session.post(f"{self.url}/v1/completions", json=body, headers=headers) as answer:
            answer.raise_for_status()
            return (await answer.json())["choices"][0]["logprobs"]["token_logprobs"][0]

    async def pause(self, session: aiohttp.ClientSession) -> float:
        """Seconds to a paused engine from one in the middle of an answer, which is broken off as the loop does it."""
        body = {"model": "policy", "prompt": PROMPT, "max_tokens": CONTEXT - len(PROMPT), "temperature": 1, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = asyncio.create_task(_post(session, f"{self.url}/v1/completions", json=body, headers=headers))
        await asyncio.sleep(DECODES_S)
        start = time.perf_counter()
        await _post(session, f"{self.url}/pause", params={"mode": "abort"}, headers=headers)
        seconds = time.perf_counter() - start
        choice = json.loads(await answer)["choices"][0]
        if choice["finish_reason"] != "abort":
            raise GateError(f"the engine had ended its answer before it was paused: {choice['finish_reason']}")
        return seconds

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


async def _post(session: aiohttp.ClientSession, url: str, **words: Any) -> str:
    async with session.post(url, **words) as answer:
        answer.raise_for_status()
        return await answer.text()


def model_folder(folder: Path, config: dict[str, Any]) -> Path:
    """config.json and a small tokenizer, no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", eos_token="w1").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def measure(trainer: Trainer) -> dict[str, Any]:
    """Seconds from trained weights to the first token, in place (by part) and by way of the disk. Raises GateError."""
    root = Path(tempfile.mkdtemp(prefix="handoff-"))
    shm = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bench-handoff-"))
    servers: list[Server] = []
    try:
        model = model_folder(root / "model", trainer.config)
        start = time.perf_counter()
        servers.append(Server(model, root / "in-place.log", dummy=True))
        await servers[0].ready()
        started = time.perf_counter() - start
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
            space = Workspace(shm)
            rounds = [await _in_place(session, servers[0], trainer, space, version) for version in range(ROUNDS)]
            space.close()
            in_place = await servers[0].first_token(session)
            servers.pop().stop()
            plain = await _by_disk(session, trainer, root, servers)
        if not abs(plain.pop("logprob") - in_place) <= TOLERANCE:  # NaN must not pass
            raise GateError(f"the engine filled in place says {in_place}, the one that read the disk otherwise: {plain}")
        middle = sorted(rounds, key=lambda r: r["train_to_first_token_s"])[len(rounds) // 2]
        return {
            "start_with_dummy_weights_s": round(started, 1), "in_place": middle, "rounds": rounds, "save_and_restart": plain,
            "ratio": round(plain["train_to_first_token_s"] / middle["train_to_first_token_s"], 1),
        }  # fmt: skip
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(root)
        shutil.rmtree(shm)


async def _in_place(
    session: aiohttp.ClientSession, server: Server, trainer: Trainer, space: Workspace, version: int
) -> dict[str, float]:
    shm = space.directory
    paused = await server.pause(session)
    trainer.step()
    start = time.perf_counter()
    manifest = write_segment(shm, version, 0, trainer.slices(), workspace=space)
    exported = time.perf_counter()
    verify_segment(shm / manifest.file, manifest)
    verified = time.perf_counter()
    times = await update_engine(session, server.url, server.token, version, [str(shm / manifest.file)])
    loaded = time.perf_counter()
    await server.first_token(session)
    end = time.perf_counter()
    await asyncio.to_thread(collect, shm, [version], spare=True)
    parts = {
        "export_s": exported - start, "verify_s": verified - exported, "load_s": loaded - verified, "first_token_s": end - loaded,
        "train_to_first_token_s": end - start, "last_token_to_train_s": paused,
    }  # fmt: skip
    inside = {f"engine_{key}": value for key, value in times.items() if key.endswith("_s")}
    return {key: round(value, 4) for key, value in {**parts, **inside}.items()} | {"bytes": manifest.nbytes}


async def _by_disk(session: aiohttp.ClientSession, trainer: Trainer, root: Path, servers: list[Server]) -> dict[str, float]:
    start = time.perf_counter()
    save_hf(root / "saved", trainer.config, root / "model", trainer.slices())
    saved = time.perf_counter()
    servers.append(Server(root / "saved", root / "by-disk.log", dummy=False))
    await servers[0].ready()
    ready = time.perf_counter()
    logprob = await servers[0].first_token(session)
    end = time.perf_counter()
    return {"save_s": round(saved - start, 2), "restart_s": round(ready - saved, 2), "first_token_s": round(end - ready, 2),
            "train_to_first_token_s": round(end - start, 2), "logprob": logprob}  # fmt: skip


def run(trainer: Trainer) -> dict[str, Any]:
    with torch.no_grad():
        return asyncio.run(measure(trainer))
