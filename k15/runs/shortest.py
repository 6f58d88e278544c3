"""`k15 shortest model.path=DIR data=jsonl data.path=train.jsonl`: shortest rejection sampling and preference pairs (report 2.4).

    prompts ─ engines ─▶ n answers each ─ rewards ─▶ verdicts ─▶ shortest.jsonl  (for k15 sft: the shortest right answers)
                                                             └─▶ pairs.jsonl     (for k15 dpo)

Answers and verdicts are kept in answers.sqlite, chunk by chunk: a run that was killed goes on with the rest.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import hydra
from omegaconf import DictConfig

from k15.config.compose import to_yaml
from k15.config.shortest import ShortestConfig, check_shortest
from k15.data.store import check_prompt_lengths, load_datasets
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import ConfigError
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.log.journal import Journal
from k15.long2short.answers import Answer, Answered
from k15.long2short.pairs import preference_pairs
from k15.long2short.shortest import shortest_correct
from k15.reward.router import Rewards, check_domains, check_rewards
from k15.rollout.client import EngineClient, engine_session
from k15.rollout.seeds import derive_seed
from k15.rollout.worker import RolloutWorker
from k15.runs.entry import enter
from k15.runs.job import device
from k15.runs.sandbox import open_sandbox
from k15.runs.serve import several_served
from k15.types import Group, Prompt

log = get_logger("shortest")


@hydra.main(config_path="pkg://k15.conf", config_name="shortest", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("shortest", config, run)


def preflight(cfg: ShortestConfig, nodes: int) -> list[Prompt]:
    """Settings, data and rewards, before a server is started; the prompts. Raises ConfigError and DataError."""
    check_shortest(cfg)
    if nodes != 1:
        raise ConfigError(f"k15 shortest works on one node, but there are {nodes}; set cluster.nodes=1.")
    check_rewards(cfg.reward)
    prompts = load_datasets(cfg.data, cfg.seed)[0][: cfg.limit]
    check_domains(prompts)
    if cfg.sandbox.url is None and any(p.domain == "code" for p in prompts):
        raise ConfigError("the prompts ask for code, which needs a running sandbox: sandbox.url=http://... (k15 sandbox serve).")
    tokenizer = load_tokenizer(cfg.model.path, chat=cfg.model.chat)  # type: ignore[arg-type]
    check_prompt_lengths(prompts, tokenizer, cfg.model.max_context_tokens - cfg.rollout.max_response_tokens)
    return prompts


def run(cfg: ShortestConfig) -> int:
    """Sample what is missing, judge it, write both files; the exit code."""
    prompts = preflight(cfg, nodes=1)
    if cfg.dry_run:
        print(to_yaml(cfg))
        return 0
    run_dir = Path(cfg.run_dir if cfg.run_dir is not None else f"runs/{cfg.name}").absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    chunks = [prompts[i : i + cfg.chunk_prompts] for i in range(0, len(prompts), cfg.chunk_prompts)]
    with closing(Journal(run_dir / "answers.sqlite")) as journal:
        keys = [_key(cfg, chunk) for chunk in chunks]
        missing = [i for i, key in enumerate(keys) if journal.get(key) is None]
        if missing:
            atomic_write(run_dir / "config.yaml", to_yaml(cfg).encode())
            _fill(cfg, run_dir, journal, [(keys[i], chunks[i]) for i in missing], len(chunks))
        else:
            log.info("all %d prompts are answered already", len(prompts))
        groups = [Answered.from_json(row) for key in keys for row in journal.get(key)]
    print(write(run_dir, groups, cfg.ratio))
    return 0


def _key(cfg: ShortestConfig, chunk: Sequence[Prompt]) -> str:
    """Names all that an answer and its verdict depend on."""
    r = cfg.rollout
    sampling = (r.temperature, r.top_p, r.max_response_tokens, asdict(r.repetition))
    facts = (cfg.seed, cfg.samples, asdict(cfg.model), asdict(cfg.reward), sampling, [asdict(p) for p in chunk])
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _fill(
    cfg: ShortestConfig, run_dir: Path, journal: Journal, todo: Sequence[tuple[str, Sequence[Prompt]]], chunks: int
) -> None:
    folder = Path(cfg.model.path).absolute()  # type: ignore[arg-type]
    logs = [run_dir / f"engine-{i}.log" for i in range(cfg.rollout.engines_per_node)]
    log.info("starting %d engines; %d of %d chunks are done", len(logs), chunks - len(todo), chunks)
    with several_served(
        folder, logs, cfg.rollout, device=device(cfg.cluster.device), dtype=cfg.model.dtype,
        max_context_tokens=cfg.model.max_context_tokens, start_timeout_s=cfg.start_timeout_s,
    ) as (urls, token):  # fmt: skip
        asyncio.run(_sample(cfg, urls, token, journal, todo, load_tokenizer(folder, chat=cfg.model.chat)))


async def _sample(
    cfg: ShortestConfig, urls: Sequence[str], token: str, journal: Journal, todo: Sequence[tuple[str, Sequence[Prompt]]],
    tokenizer: TextTokenizer,
) -> None:  # fmt: skip
    await open_sandbox(cfg.sandbox, [p for _, chunk in todo for p in chunk], [], token)
    async with engine_session() as session:
        clients = [EngineClient(url, token, session, cfg.rollout.request_timeout_s) for url in urls]
        worker = RolloutWorker(clients, cfg.rollout, cfg.seed, max_context_tokens=cfg.model.max_context_tokens)
        with Rewards(cfg.reward, cfg.seed) as rewards:
            for number, (key, chunk) in enumerate(todo, 1):
                groups = await _answers(cfg, worker, rewards, tokenizer, chunk)
                journal.put(key, [g.to_json() for g in groups])
                right = fmean(a.correct for g in groups for a in g.answers)
                log.info("chunk %d of %d: %d prompts, %.0f %% of the answers right", number, len(todo), len(chunk), 100 * right)


async def _answers(
    cfg: ShortestConfig, worker: RolloutWorker, rewards: Rewards, tokenizer: TextTokenizer, chunk: Sequence[Prompt]
) -> list[Answered]:
    """`samples` judged answers to each prompt."""
    n = cfg.samples
    rollouts = await worker.sample(
        [tokenizer.encode_prompt(p.text) for p in chunk], n=n, temperature=cfg.rollout.temperature,
        max_tokens=cfg.rollout.max_response_tokens, seed=derive_seed(cfg.seed, "shortest", *(p.id for p in chunk)),
    )  # fmt: skip
    found = []
    for i, prompt in enumerate(chunk):
        mine = tuple(rollouts[n * i : n * (i + 1)])
        texts = [tokenizer.decode(r.response_tokens) for r in mine]
        scores = await asyncio.to_thread(rewards.score_group, Group(prompt, mine), texts, 0, False)
        answers = [Answer(t, r.length, s.correct, r.finish == "stop") for t, r, s in zip(texts, mine, scores, strict=True)]
        found.append(Answered(prompt.text, tuple(answers)))
    return found


def write(run_dir: Path, groups: Sequence[Answered], ratio: float) -> str:
    """shortest.jsonl, pairs.jsonl and summary.json; what is in them, in words."""
    best = [(g, a) for g in groups if (a := shortest_correct(g)) is not None]
    pairs = [(g, c, r) for g in groups for c, r in preference_pairs(g, ratio)]
    sft = [{"prompt": g.prompt, "response": a.text, "tokens": a.length} for g, a in best]
    dpo = [{"prompt": g.prompt, "chosen": c.text, "rejected": r.text, "rejected_correct": r.correct} for g, c, r in pairs]
    for name, rows in (("shortest.jsonl", sft), ("pairs.jsonl", dpo)):
        atomic_write(run_dir / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    answers = [a for g in groups for a in g.answers]
    summary = {
        "prompts": len(groups), "answers": len(answers), "accuracy": fmean(a.correct for a in answers),
        "length_mean": fmean(a.length for a in answers), "shortest": len(best), "pairs": len(pairs),
        "shortest_length_mean": fmean(a.length for _, a in best) if best else None,
        "pairs_of_two_right_answers": sum(r.correct for _, _, r in pairs),
    }  # fmt: skip
    atomic_write(run_dir / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    short = f", {summary['shortest_length_mean']:.1f} tokens on average" if best else ""
    return (
        f"{len(groups)} prompts, {len(answers)} answers of {summary['length_mean']:.1f} tokens, "
        f"{100 * summary['accuracy']:.1f} % right\n"
        f"{run_dir / 'shortest.jsonl'}: {len(best)} shortest right answers{short}\n{run_dir / 'pairs.jsonl'}: {len(pairs)} pairs"
    )
