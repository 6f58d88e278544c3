"""Prompts asked and judged on engines of this machine: what `k15 shortest` and `k15 long_cot` choose from.

Answers and verdicts are kept in answers.sqlite, chunk by chunk: a run that was killed, or that the signal before the time
limit ended (85), goes on with the rest.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

from k15.config.answers import AnswersConfig
from k15.config.compose import to_yaml
from k15.config.hf import fingerprint
from k15.data.store import check_prompt_lengths, load_datasets
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import ConfigError
from k15.eval.progress import Bar
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.log.journal import Journal
from k15.long2short.answers import Answer, Answered
from k15.reward.router import Rewards, check_domains, check_rewards
from k15.rollout.client import EngineClient, engine_session
from k15.rollout.seeds import derive_seed
from k15.rollout.worker import RolloutWorker
from k15.runs.job import device
from k15.runs.sandbox import open_sandbox
from k15.runs.serve import several_served
from k15.runs.signalled import end_when_signalled
from k15.sandbox.client import Access
from k15.types import Group, Prompt

log = get_logger("answers")


def check_prompts(cfg: AnswersConfig, nodes: int) -> list[Prompt]:
    """Data and rewards, before a server is started; the prompts. Raises ConfigError and DataError."""
    if nodes != 1:
        raise ConfigError(f"this works on one node, but there are {nodes}; set cluster.nodes=1.")
    check_rewards(cfg.reward)
    tokenizer = load_tokenizer(cfg.model.path, chat=cfg.model.chat)  # type: ignore[arg-type]
    room = cfg.model.max_context_tokens - cfg.rollout.max_response_tokens

    def usable(prompt: Prompt) -> None:
        check_domains([prompt])
        check_prompt_lengths([replace(prompt, text=prompt.text + cfg.suffix)], tokenizer, room)

    prompts = load_datasets(cfg.data, cfg.seed, usable)[0][: cfg.limit]
    if cfg.sandbox.url is None and any(p.domain == "code" for p in prompts):
        raise ConfigError("the prompts ask for code, which needs a running sandbox: sandbox.url=http://... (k15 sandbox serve).")
    if cfg.sandbox.url is not None:
        Access.of(cfg.sandbox.url, cfg.sandbox.token_file)
    return prompts


def answer_all(cfg: AnswersConfig, prompts: Sequence[Prompt], use: Callable[[Path, list[Answered]], str]) -> int:
    """Sample and judge what is missing, give all to `use(run_dir, answers)` and print what it says; the exit code."""
    if cfg.dry_run:
        print(to_yaml(cfg))
        return 0
    end_when_signalled()
    run_dir = Path(cfg.run_dir if cfg.run_dir is not None else f"runs/{cfg.name}").absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    chunks = [prompts[i : i + cfg.chunk_prompts] for i in range(0, len(prompts), cfg.chunk_prompts)]
    with closing(Journal(run_dir / "answers.sqlite")) as journal:
        weights = fingerprint(Path(cfg.model.path))  # type: ignore[arg-type]
        keys = [chunk_key(cfg, weights, chunk) for chunk in chunks]
        missing = [i for i, key in enumerate(keys) if journal.get(key) is None]
        if missing:
            atomic_write(run_dir / "config.yaml", to_yaml(cfg).encode())
            _fill(cfg, run_dir, journal, [(keys[i], chunks[i]) for i in missing], len(chunks))
        else:
            log.info("all %d prompts are answered already", len(prompts))
        groups = [Answered.from_json(row) for key in keys for row in journal.get(key)]
    print(use(run_dir, groups))
    return 0


def chunk_key(cfg: AnswersConfig, weights: str, chunk: Sequence[Prompt]) -> str:
    """Names all that an answer and its verdict depend on. `weights`: the fingerprint of the model's folder."""
    r = cfg.rollout
    sampling = (r.temperature, r.top_p, r.max_response_tokens, asdict(r.repetition))
    prompts = [asdict(p) for p in chunk]
    facts = (cfg.seed, cfg.samples, cfg.suffix, asdict(cfg.model), weights, asdict(cfg.reward), sampling, prompts)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _fill(cfg: AnswersConfig, run_dir: Path, journal: Journal, todo: Sequence[tuple[str, Sequence[Prompt]]], chunks: int) -> None:
    folder = Path(cfg.model.path).absolute()  # type: ignore[arg-type]
    asyncio.run(open_sandbox(cfg.sandbox, [p for _, chunk in todo for p in chunk], [], ""))  # before engines, which take long
    logs = [run_dir / f"engine-{i}.log" for i in range(cfg.rollout.engines_per_node)]
    log.info("starting %d engines; %d of %d chunks are done", len(logs), chunks - len(todo), chunks)
    with several_served(
        folder, logs, cfg.rollout, device=device(cfg.cluster.device), dtype=cfg.model.dtype,
        max_context_tokens=cfg.model.max_context_tokens, start_timeout_s=cfg.start_timeout_s,
    ) as (urls, token):  # fmt: skip
        asyncio.run(sample(cfg, urls, token, journal, todo, load_tokenizer(folder, chat=cfg.model.chat)))


async def sample(
    cfg: AnswersConfig, urls: Sequence[str], token: str, journal: Journal, todo: Sequence[tuple[str, Sequence[Prompt]]],
    tokenizer: TextTokenizer,
) -> None:  # fmt: skip
    """Ask the engines at `urls` for each chunk of `todo`, judge, and journal it under its key. Raises EngineError."""
    async with engine_session() as session:
        times = cfg.rollout.request_timeout_s, cfg.rollout.silence_timeout_s
        clients = [EngineClient(url, token, session, *times) for url in urls]
        worker = RolloutWorker(clients, cfg.rollout, cfg.seed, max_context_tokens=cfg.model.max_context_tokens)
        bar = Bar("answers: prompts", sum(len(chunk) for _, chunk in todo), "tok")
        with Rewards(cfg.reward, cfg.seed) as rewards:
            for number, (key, chunk) in enumerate(todo, 1):
                groups = await _answers(cfg, worker, rewards, tokenizer, chunk)
                journal.put(key, [g.to_json() for g in groups])
                right = fmean(a.correct for g in groups for a in g.answers)
                bar.add(len(chunk), sum(a.length for g in groups for a in g.answers))
                log.info("chunk %d of %d: %d prompts, %.0f %% of the answers right", number, len(todo), len(chunk), 100 * right)


async def _answers(
    cfg: AnswersConfig, worker: RolloutWorker, rewards: Rewards, tokenizer: TextTokenizer, chunk: Sequence[Prompt]
) -> list[Answered]:
    """`samples` judged answers to each prompt."""
    n = cfg.samples
    rollouts = await worker.sample(
        [tokenizer.encode_prompt(p.text + cfg.suffix) for p in chunk], n=n, temperature=cfg.rollout.temperature,
        max_tokens=cfg.rollout.max_response_tokens, seed=derive_seed(cfg.seed, "answers", *(p.id for p in chunk)),
    )  # fmt: skip
    found = []
    for i, prompt in enumerate(chunk):
        mine = tuple(rollouts[n * i : n * (i + 1)])
        texts = [tokenizer.decode(r.response_tokens) for r in mine]
        scores = await asyncio.to_thread(rewards.score_group, Group(prompt, mine), texts, 0, False)
        answers = [Answer(t, r.length, s.correct, r.finish == "stop") for t, r, s in zip(texts, mine, scores, strict=True)]
        found.append(Answered(prompt.text, tuple(answers)))
    return found
