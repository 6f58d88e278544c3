"""Prompts asked and judged on engines of this machine: what `k15 shortest` and `k15 long_cot` choose from.

Answers and verdicts are kept in answers.sqlite, each prompt's under a key of its own and saved chunk by chunk: a run that was
killed, or that the signal before the time limit ended (85), goes on with the rest. So does one whose prompts have changed since
(rows added, another `limit`): an answer depends on its prompt alone, not on the others or the place among them. Another model,
other data or another way of sampling would replace what the folder holds: that is refused.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from k15.config.answers import AnswersConfig
from k15.config.compose import from_yaml, to_yaml
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
from k15.rollout.seeds import new_group
from k15.rollout.worker import RolloutWorker
from k15.runs.job import device, differing
from k15.runs.sandbox import open_sandbox
from k15.runs.serve import several_served
from k15.runs.signalled import end_when_signalled
from k15.sandbox.client import Access
from k15.types import Prompt

CONFIG, JOURNAL, MODEL = "config.yaml", "answers.sqlite", "model.txt"  # the last: the fingerprint of the model that was asked
DECIDE = (
    "seed", "suffix", "model", "data", "rollout.temperature", "rollout.top_p", "rollout.max_response_tokens",
    "rollout.repetition", "reward.template", "reward.timeout_s",
)  # fmt: skip
"""What a folder's answers were made with; `limit` and `samples` may grow, and what is chosen from them may change."""
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
        check_prompt_lengths([prompt], tokenizer, room, cfg.suffix)

    prompts = load_datasets(cfg.data, cfg.seed, usable)[0][: cfg.limit]
    if cfg.sandbox.url is None and any(p.domain == "code" for p in prompts):
        raise ConfigError("the prompts ask for code, which needs a running sandbox: sandbox.url=http://... (k15 sandbox serve).")
    if cfg.sandbox.url is not None:
        Access.of(cfg.sandbox.url, cfg.sandbox.token_file)
    return prompts


def answer_all(cfg: AnswersConfig, prompts: Sequence[Prompt], use: Callable[[Path, Iterable[Answered]], str]) -> int:
    """Sample and judge what is missing, give all to `use(run_dir, answers)` and print what it says; the exit code.

    The answers come one prompt's at a time, in the order of `prompts`, once: all together may be more than fits in memory.
    """
    run_dir = Path(cfg.run_dir if cfg.run_dir is not None else f"runs/{cfg.name}").absolute()
    weights = fingerprint(Path(cfg.model.path))  # type: ignore[arg-type]
    check_folder(cfg, run_dir, weights)
    if cfg.dry_run:
        print(to_yaml(cfg))
        return 0
    end_when_signalled()
    run_dir.mkdir(parents=True, exist_ok=True)
    with closing(Journal(run_dir / JOURNAL)) as journal:
        keys = [prompt_key(cfg, weights, prompt) for prompt in prompts]
        todo = [(key, prompt) for key, prompt in zip(keys, prompts, strict=True) if key not in journal]
        if todo:
            atomic_write(run_dir / MODEL, weights.encode())
            atomic_write(run_dir / CONFIG, to_yaml(cfg).encode())
            log.info("%d of %d prompts are answered already", len(prompts) - len(todo), len(prompts))
            try:
                _fill(cfg, run_dir, journal, todo)
            except KeyboardInterrupt:
                log.warning("what was answered is kept in %s: the same words go on from there", run_dir)
                raise
        else:
            log.info("all %d prompts are answered already", len(prompts))
        print(use(run_dir, (Answered.from_json(journal.get(key)) for key in keys)))
    return 0


def check_folder(cfg: AnswersConfig, run_dir: Path, weights: str) -> None:
    """Raises ConfigError where `run_dir` has answers of another model or other settings: what was made of them would be lost."""
    if not (run_dir / CONFIG).is_file() or not (run_dir / JOURNAL).is_file():
        return
    with closing(Journal(run_dir / JOURNAL)) as journal:
        if not len(journal):
            return
    try:
        before = from_yaml((run_dir / CONFIG).read_text(), type(cfg))
    except ConfigError as error:
        raise ConfigError(f"{run_dir} holds answers of another command or version: {error}. Give another run_dir=.") from error
    changed = [key for key in differing(before, cfg) if any(key == d or key.startswith(f"{d}.") for d in DECIDE)]
    if not changed and (run_dir / MODEL).is_file() and (run_dir / MODEL).read_text() != weights:
        changed = [f"model.path={cfg.model.path}, whose files have changed"]
    if changed:
        raise ConfigError(
            f"{run_dir} holds answers with other settings ({', '.join(changed[:5])}), and what was made of them would be "
            "replaced. Give another run_dir=, or the same settings to go on."
        )


def prompt_key(cfg: AnswersConfig, weights: str, prompt: Prompt) -> str:
    """Names all that the answers to `prompt` and their verdicts depend on. `weights`: the fingerprint of the model's folder.

    Of `reward` that is the template and the time of a check (one that takes longer is wrong); no other part of it decides what
    is right, since judge, Classic model and custom function are refused (`check_answers`).
    """
    m, r = cfg.model, cfg.rollout
    model = (weights, m.dtype, m.max_context_tokens, m.chat)
    sampling = (cfg.seed, cfg.samples, cfg.suffix, r.temperature, r.top_p, r.max_response_tokens, asdict(r.repetition))
    verdict = (cfg.reward.template, cfg.reward.timeout_s)
    facts = (model, sampling, verdict, prompt.id, prompt.text, prompt.answer, prompt.domain)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _fill(cfg: AnswersConfig, run_dir: Path, journal: Journal, todo: Sequence[tuple[str, Prompt]]) -> None:
    folder = Path(cfg.model.path).absolute()  # type: ignore[arg-type]
    asyncio.run(open_sandbox(cfg.sandbox, [p for _, p in todo], [], ""))  # before engines, which take long
    logs = [run_dir / f"engine-{i}.log" for i in range(cfg.rollout.engines_per_node)]
    log.info("starting %d engines", len(logs))
    with several_served(
        folder, logs, cfg.rollout, device=device(cfg.cluster.device), dtype=cfg.model.dtype,
        max_context_tokens=cfg.model.max_context_tokens, start_timeout_s=cfg.start_timeout_s,
    ) as (urls, token):  # fmt: skip
        asyncio.run(sample(cfg, urls, token, journal, todo, load_tokenizer(folder, chat=cfg.model.chat)))


async def sample(
    cfg: AnswersConfig, urls: Sequence[str], token: str, journal: Journal, todo: Sequence[tuple[str, Prompt]],
    tokenizer: TextTokenizer,
) -> None:  # fmt: skip
    """Ask the engines at `urls` for the (key, prompt) of `todo`, judge, and journal each prompt's answers under its key, chunk by
    chunk. Raises EngineError."""
    chunks = [todo[i : i + cfg.chunk_prompts] for i in range(0, len(todo), cfg.chunk_prompts)]
    whole = replace(cfg.rollout, budget_tokens=cfg.rollout.max_response_tokens)
    async with engine_session() as session:
        times = cfg.rollout.request_timeout_s, cfg.rollout.silence_timeout_s
        clients = [EngineClient(url, token, session, *times) for url in urls]
        worker = RolloutWorker(clients, whole, cfg.seed, max_context_tokens=cfg.model.max_context_tokens)
        bar = Bar("answers: prompts", len(todo), "tok")
        with Rewards(cfg.reward, cfg.seed) as rewards:
            for number, chunk in enumerate(chunks, 1):
                found = await _answers(cfg, worker, rewards, tokenizer, [p for _, p in chunk])
                journal.put_all((key, group.to_json()) for (key, _), group in zip(chunk, found, strict=True))
                answers = [a for group in found for a in group.answers]
                bar.add(len(chunk), sum(a.length for a in answers))
                right = sum(a.correct for a in answers) / len(answers)
                log.info("chunk %d of %d: %d prompts, %.0f %% of the answers right", number, len(chunks), len(chunk), 100 * right)


async def _answers(
    cfg: AnswersConfig, worker: RolloutWorker, rewards: Rewards, tokenizer: TextTokenizer, chunk: Sequence[Prompt]
) -> list[Answered]:
    """`samples` judged answers to each prompt. Their seeds come from the run's, the prompt's id and the answer's number."""
    tokens = [tuple(tokenizer.encode_prompt(p.text + cfg.suffix)) for p in chunk]
    groups = [new_group(p, t, cfg.samples, run_seed=cfg.seed, draw=0) for p, t in zip(chunk, tokens, strict=True)]
    found = []
    for group in await worker.run(groups, version=0):
        texts = [tokenizer.decode(r.response_tokens) for r in group.rollouts]
        scores = await asyncio.to_thread(rewards.score_group, group, texts, 0, False)
        judged = zip(texts, group.rollouts, scores, strict=True)
        found.append(Answered(group.prompt.text, tuple(Answer(t, r.length, s.correct, r.finish == "stop") for t, r, s in judged)))
    return found


def row(**fields: object) -> bytes:
    """A line of JSON, as the files are made of that fine-tuning reads."""
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode()
