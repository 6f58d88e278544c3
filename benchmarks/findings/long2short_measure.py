"""Held-out accuracy and tokens of several models of one shape, on engines that are started once: weights are loaded in place.

The answers are those of `k15 rl`'s own evaluation (greedy, and sampled at temperature 1), on the same problems, so that one can
be checked by the other.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp

from k15.config.compose import compose_as
from k15.config.hf import fingerprint
from k15.config.schema import RunConfig
from k15.data.store import load_datasets
from k15.data.tokenizer import load_tokenizer
from k15.errors import EngineError
from k15.log.files import atomic_write
from k15.reward.router import Rewards
from k15.rollout.client import EngineClient, engine_session
from k15.rollout.worker import RolloutWorker
from k15.runs.evaluate import Evaluator
from k15.runs.serve import several_served

START_S = 1800.0  # of the engines, on a machine that others use as well
CALL_S = 300.0
Model = tuple[str, int, Path]
"""Name, seed of the held-out problems, Hugging Face folder."""
Measured = dict[str, float]
"""eval_n and eval_{greedy,sampled}_{accuracy,low,high,length}."""


def measure(models: Sequence[Model], words: Sequence[str], folder: Path, engines: int) -> dict[str, Measured]:
    """The numbers of each model by name, kept in `folder`: what has been measured on these weights is not measured again.

    `words`: settings of `k15 rl` (data, eval, rollout). Raises K15Errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: _kept(folder, name, seed, path, words) for name, seed, path in models}
    todo = [model for model in models if found[model[0]] is None]
    if todo:
        first = compose_as(RunConfig, "rl", list(words))
        logs = [folder / f"engine-{i}.log" for i in range(engines)]
        with several_served(
            todo[0][2], logs, first.rollout, device="cpu", dtype=first.model.dtype,
            max_context_tokens=first.model.max_context_tokens, start_timeout_s=START_S,
        ) as (urls, token):  # fmt: skip
            found |= asyncio.run(_all(todo, words, folder, urls, token))
    return {name: found[name] for name, _, _ in models}  # type: ignore[misc]


def _kept(folder: Path, name: str, seed: int, path: Path, words: Sequence[str]) -> Measured | None:
    file = folder / f"{name}.json"
    if not file.is_file():
        return None
    body = json.loads(file.read_text())
    return body["numbers"] if body["of"] == _facts(seed, path, words) else None


def _facts(seed: int, path: Path, words: Sequence[str]) -> dict[str, object]:
    return {"seed": seed, "weights": fingerprint(path), "words": list(words)}


async def _all(
    models: Sequence[Model], words: Sequence[str], folder: Path, urls: Sequence[str], token: str
) -> Mapping[str, Measured]:
    found = {}
    async with engine_session() as session:
        for name, seed, path in models:
            cfg = compose_as(RunConfig, "rl", [*words, f"seed={seed}"])
            await asyncio.gather(*(_load(session, url, token, path) for url in urls))
            found[name] = await _numbers(cfg, path, [EngineClient(u, token, session, CALL_S) for u in urls])
            body = {"of": _facts(seed, path, words), "numbers": found[name]}
            atomic_write(folder / f"{name}.json", json.dumps(body, indent=1).encode())
            print(f"  {name}: greedy {_shown(found[name], 'greedy')}, sampled {_shown(found[name], 'sampled')}", flush=True)
    return found


def _shown(numbers: Measured, kind: str) -> str:
    return f"{100 * numbers[f'eval_{kind}_accuracy']:.1f} % with {numbers[f'eval_{kind}_length']:.1f} tokens"


async def _numbers(cfg: RunConfig, path: Path, clients: Sequence[EngineClient]) -> Measured:
    held_out = load_datasets(cfg.data, cfg.seed)[1][: cfg.eval.size]
    worker = RolloutWorker(clients, cfg.rollout, cfg.seed, max_context_tokens=cfg.model.max_context_tokens)
    with ExitStack() as stack:
        rewards = stack.enter_context(Rewards(cfg.reward, cfg.seed))
        return await Evaluator(cfg, held_out, worker, rewards, load_tokenizer(path, chat=cfg.model.chat)).run()


async def _load(session: aiohttp.ClientSession, url: str, token: str, path: Path) -> None:
    """vLLM reads the weights of `path` in place of its own. Raises EngineError."""
    if json.loads((path / "config.json").read_text()).get("tie_word_embeddings"):
        raise EngineError(f"{path} has tied embeddings, of which vLLM's CPU reload keeps the old output layer.")
    for route, query, body in (
        ("/pause", {"mode": "abort"}, None),
        ("/collective_rpc", None, {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}),
        ("/reset_prefix_cache", {"reset_running_requests": "true"}, None),
        ("/resume", None, None),
    ):
        async with session.post(
            url + route, params=query, json=body, headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=CALL_S),
        ) as answer:  # fmt: skip
            if answer.status != 200:
                raise EngineError(f"{url}{route} answered {answer.status}: {(await answer.text())[:500]}")
