"""Who answers in `k15 eval`: a Hugging Face folder on k15's own vLLM servers, or an endpoint that runs elsewhere."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from k15.config.eval import EvaluationConfig
from k15.config.hf import fingerprint, weight_files
from k15.config.schema import RepetitionConfig, RolloutConfig
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import ConfigError, DataError
from k15.eval.endpoint import Endpoint, Sampling
from k15.eval.generate import Asked, generate
from k15.eval.lm_harness import Target
from k15.eval.responses import Responses
from k15.eval.tasks import Task
from k15.log import get_logger
from k15.reward.judge import endpoint_key
from k15.rollout.client import engine_session
from k15.rollout.server import SERVED_NAME
from k15.runs.job import device
from k15.runs.serve import several_served

log = get_logger("eval")
ENDPOINT_TOKENS = 4096  # of an answer from an endpoint whose context is not known
MOST_STOPS = 4  # that an OpenAI-compatible endpoint need take
NO_DEFAULTS = ("--generation-config", "vllm")  # every sampling parameter is the request's own

Missing = tuple[str, Mapping[str, str], int, Sampling, Mapping[str, tuple[str, ...]], Responses]
"""A task whose answers are not all there: its name, what is asked, answers a problem, how, stop texts by problem, and where
they go."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated. `folder`, `tokenizer`, `max_context` (tokens): None for an endpoint. `fingerprint` names the weights."""

    folder: Path | None
    tokenizer: TextTokenizer | None
    max_context: int | None
    dtype: str
    chat: bool
    fingerprint: str

    @staticmethod
    def of(cfg: EvaluationConfig) -> "Subject":
        """Read the folder's config and tokenizer. Raises ConfigError, DataError."""
        if cfg.engine.url is not None:
            return Subject(
                None, None, None, "", cfg.engine.api == "chat", f"{cfg.engine.url} {cfg.engine.model} {cfg.engine.api}"
            )
        assert cfg.model.path is not None, "check_eval asks for a model"
        folder = Path(cfg.model.path).absolute()
        config = _config(folder)
        if not any(folder.glob("*.bin")):  # vLLM reads those too
            weight_files(folder)
        chat = cfg.model.chat if cfg.model.chat is not None else load_tokenizer(folder).has_template
        most = int(config.get("max_position_embeddings", 0))
        context = cfg.model.max_context_tokens
        if context is not None and most and context > most:
            raise ConfigError(
                f"model.max_context_tokens is {context}, but {folder} has max_position_embeddings {most}; give at most that."
            )
        if context is None and not most:
            raise ConfigError(f"{folder}/config.json has no max_position_embeddings; give model.max_context_tokens.")
        dtype = cfg.model.dtype
        if dtype == "auto":
            said = next((str(v) for k in ("torch_dtype", "dtype") if (v := config.get(k)) is not None), "bfloat16")
            dtype = "float32" if device(cfg.cluster.device) == "cpu" else said
        return Subject(
            folder, load_tokenizer(folder, chat=chat), context if context is not None else most, dtype, chat, fingerprint(folder)
        )

    def prompts(self, asked: Mapping[str, str]) -> Asked:
        """What is sent: token ids, chat template included; for an endpoint the text."""
        return {i: self.tokenizer.encode_prompt(text) for i, text in asked.items()} if self.tokenizer is not None else dict(asked)

    def sampling(self, cfg: EvaluationConfig, task: Task, asked: Mapping[str, str], samples: int) -> Sampling:
        """How a task's answers are sampled. Raises ConfigError where prompts and answers do not fit into the context."""
        temperature = cfg.sampling.temperature if cfg.sampling.temperature is not None else task.temperature
        if samples > 1 and temperature == 0:
            raise ConfigError(
                f"sampling.samples={samples} greedy answers to {task.name} are all the same; give sampling.temperature=0.6."
            )
        wanted = cfg.sampling.max_tokens if cfg.sampling.max_tokens is not None else task.max_tokens
        if self.max_context is None:
            wanted = wanted if wanted is not None else ENDPOINT_TOKENS
            return Sampling(temperature, cfg.sampling.top_p, wanted, task.stop)
        longest, name = max((len(tokens), i) for i, tokens in self.prompts(asked).items())
        room = self.max_context - longest
        if room < (wanted if wanted is not None else 1):
            raise ConfigError(
                f"{task.name}: the prompt of problem {name} has {longest} tokens, which leaves {max(room, 0)} for an answer in "
                f"model.max_context_tokens={self.max_context}, but {wanted if wanted is not None else 1} are asked for. Lower "
                "sampling.max_tokens, or give a model with a longer context."
            )
        return Sampling(temperature, cfg.sampling.top_p, wanted if wanted is not None else room, task.stop)

    def target(self, cfg: EvaluationConfig, url: str, key: str | None) -> Target:
        """What lm-eval speaks to."""
        if self.folder is not None:
            assert self.max_context is not None
            return Target(url, SERVED_NAME, key, "completions", str(self.folder), self.max_context, self.chat)
        context = cfg.model.max_context_tokens if cfg.model.max_context_tokens is not None else ENDPOINT_TOKENS
        return Target(url, cfg.engine.model, key, cfg.engine.api, cfg.model.path, context, self.chat)


@contextmanager
def answering(cfg: EvaluationConfig, subject: Subject, logs: Path) -> Iterator[tuple[list[str], str | None]]:
    """(base urls that end in /v1, key) of who answers; own servers end with the block. Raises EngineError."""
    if subject.folder is None:
        yield [str(cfg.engine.url)], endpoint_key(cfg.engine.key_env, "engine.key_env")
        return
    assert subject.max_context is not None
    e = cfg.engine
    rollout = RolloutConfig(
        tensor_parallel=e.tensor_parallel, max_concurrent=e.concurrency, kv_cache_bytes=e.kv_cache_bytes,
        gpu_memory_utilization=e.gpu_memory_utilization, block_size=e.block_size, repetition=RepetitionConfig(enabled=False),
    )  # fmt: skip
    logs.mkdir(parents=True, exist_ok=True)
    log.info("%d vLLM server(s) start on %s", e.count, subject.folder)
    with several_served(
        subject.folder, [logs / f"engine-{i}.log" for i in range(e.count)], rollout, device=device(cfg.cluster.device),
        dtype=subject.dtype, max_context_tokens=subject.max_context, start_timeout_s=e.start_timeout_s, extra_args=NO_DEFAULTS,
    ) as (urls, token):  # fmt: skip
        yield [f"{url}/v1" for url in urls], token


def sample(cfg: EvaluationConfig, subject: Subject, urls: Sequence[str], key: str | None, missing: Sequence[Missing]) -> None:
    """Sample what is missing, a task after the other. Raises EngineError; the answers that came are kept."""

    async def all_of_them() -> None:
        own = subject.folder is not None
        name, api = (SERVED_NAME, "completions") if own else (cfg.engine.model, cfg.engine.api)
        async with engine_session() as session:
            endpoint = Endpoint(
                session, urls, name, key=key, api=api, timeout_s=cfg.engine.request_timeout_s, tries=4 if own else 9
            )  # one that serves others may be busy for minutes
            for label, asked, samples, sampling, stops, store in missing:
                at_once = cfg.engine.concurrency * len(urls)
                stops = stops if own else {i: texts[:MOST_STOPS] for i, texts in stops.items()}
                await generate(endpoint, subject.prompts(asked), samples, sampling, stops, cfg.seed, store, at_once, label)

    asyncio.run(all_of_them())


def _config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        what = "has no config.json" if folder.is_dir() else "does not exist"
        raise DataError(f"{folder} {what}; model.path must name a Hugging Face folder.") from None
    except ValueError as error:
        raise DataError(f"{folder}/config.json is not JSON: {error}.") from None
