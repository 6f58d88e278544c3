"""A real vLLM server started with dummy weights takes versions from segments of a TP2 x PP2 trainer."""

import asyncio
import os
import secrets
import signal
import subprocess
import time

import aiohttp
import psutil
import pytest
import torch
from safetensors.torch import load_file

from k15.config.schema import RolloutConfig
from k15.errors import EngineError, WeightsError
from k15.rollout.server import engine_command
from k15.weights.engine import engine_version, update_engine
from k15.weights.segments import segment_name

pytestmark = pytest.mark.vllm


def without_a_shard(name, rank):
    return name == "decoder.layers.2.self_attention.linear_proj.weight" and rank == 3


PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19] * 2  # > one cache block


class Server:
    """One vLLM API server on the CPU. `argv` and `env` are the settings that k15 itself uses."""

    def __init__(self, model, port: int, log) -> None:
        self.url, self.token, self.log = f"http://127.0.0.1:{port}", secrets.token_urlsafe(16), log
        settings = RolloutConfig(kv_cache_bytes=1 << 26, max_concurrent=8)
        argv, env = engine_command(
            settings, model_dir=model, host="127.0.0.1", port=port, device="cpu", dtype="float32", max_context=128,
            dummy=True, token=self.token, worker_extension="k15.weights.engine.EngineWeights",
        )  # fmt: skip
        env = os.environ | env | {"VLLM_HOST_IP": "127.0.0.1"}
        with log.open("wb") as out:
            self.process = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)

    async def ready(self, session) -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                async with session.get(f"{self.url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.5)
        raise AssertionError(self.log.read_text()[-4000:])

    async def logprobs(self, session) -> torch.Tensor:
        """log p(token t | tokens before) of PROMPT[1:] from the engine, the sampled greedy token's appended."""
        body = {"model": "policy", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 0}
        body |= {"prompt_logprobs": 0, "return_token_ids": True}
        async with session.post(f"{self.url}/v1/completions", json=body, headers=self.headers) as answer:
            assert answer.status == 200, await answer.text()
            choice = (await answer.json())["choices"][0]
        given = [step[str(t)]["logprob"] for step, t in zip(choice["prompt_logprobs"][1:], PROMPT[1:], strict=True)]
        return torch.tensor(given + choice["logprobs"]["token_logprobs"])

    async def cached_logprob(self, session) -> float:
        """The greedy next token's log-probability by a request that may use the prefix cache."""
        body = {"model": "policy", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 0}
        async with session.post(f"{self.url}/v1/completions", json=body, headers=self.headers) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.json())["choices"][0]["logprobs"]["token_logprobs"][0]

    @property
    def headers(self):
        return {"Authorization": f"Bearer {self.token}"}

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def save_tokenizer(folder, size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0", eos_token="w1").save_pretrained(folder)


def expected(model) -> torch.Tensor:
    with torch.no_grad():
        rows = model(torch.tensor([PROMPT])).logits[0].float().log_softmax(-1)
    return torch.cat([rows[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0], rows[-1].max()[None]])


async def same(server, session, model) -> None:
    want = expected(model)
    torch.testing.assert_close(await server.logprobs(session), want, atol=1e-4, rtol=0)
    for _ in range(2):  # the second one hits the prefix cache
        assert abs(await server.cached_logprob(session) - want[-1].item()) < 1e-4


# The two shapes whose packed weights vLLM's own reload leaves stale; the MoE's experts also need padding (48 to 64).
MOE = {"moe_intermediate_size": 48, "norm_topk_prob": True, "head_dim": 32, "mlp_only_layers": []}
MODELS = {"qwen2-tied": ("qwen2", {"tie_word_embeddings": True}), "qwen3-moe": ("qwen3_moe", MOE)}


@pytest.fixture(scope="module", params=MODELS)
def kind(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def engine(make_model, tmp_path_factory, kind):
    import socket

    folder = tmp_path_factory.mktemp("engine")
    _, config = make_model(folder / "model", kind[0], seed=99, **kind[1])
    save_tokenizer(folder / "model", config["vocab_size"])
    (folder / "model" / "model.safetensors").unlink()  # the engine must not need any weights
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = Server(folder / "model", port, folder / "server.log")
    yield server, config
    server.stop()


async def test_versions_reach_the_engine(engine, kind, make_model, write_version, tmp_path):
    server, config = engine
    shm = tmp_path / "shm"
    shm.mkdir()
    models, paths = {}, {}
    for version, (tp, pp) in {1: (2, 2), 2: (1, 1), 3: (2, 2)}.items():
        models[version], again = make_model(tmp_path / str(version), kind[0], seed=version, **kind[1])
        assert again == config
        read = load_file(tmp_path / str(version) / "model.safetensors").__getitem__
        skip = without_a_shard if version == 3 else (lambda name, rank: False)
        write_version(shm, config, read, version, tp, pp, skip)
        paths[version] = [str(shm / segment_name(version, rank)) for rank in range(tp * pp)]

    async with aiohttp.ClientSession() as session:
        await server.ready(session)
        assert await engine_version(session, server.url, server.token) == -1
        times = await update_engine(session, server.url, server.token, 1, paths[1])
        print("update", times)
        await same(server, session, models[1])
        print("update", await update_engine(session, server.url, server.token, 2, paths[2]))
        await same(server, session, models[2])

        with pytest.raises(WeightsError, match=r"layers\.2\.self_attn\.o_proj\.weight has"):  # a gap
            await update_engine(session, server.url, server.token, 3, paths[3])
        with pytest.raises(WeightsError, match=r"v1-r0\.seg is of version 1"):
            await update_engine(session, server.url, server.token, 7, paths[1])
        assert await engine_version(session, server.url, server.token) == 2
        await same(server, session, models[2])

        with pytest.raises(EngineError, match="401"):
            await update_engine(session, server.url, "not the token", 1, paths[1])

        core = next(
            p for p in psutil.Process(server.process.pid).children(recursive=True) if "EngineCore" in " ".join(p.cmdline())
        )
        core.suspend()
        asked = asyncio.create_task(update_engine(session, server.url, server.token, 1, paths[1]))
        await asyncio.sleep(0.5)
        core.kill()
        with pytest.raises(EngineError, match="died during /pause"):  # which vLLM never answers
            await asyncio.wait_for(asked, 60)
