"""`k15 curate sources=[train.jsonl,...] evaluation=[test.jsonl,...]`: raw rows to a versioned prompt store (report 2.1).

    rows ─▶ kind ─▶ leak ─▶ duplicate ─▶ contamination ─▶ tags ─▶ easy to hack ─▶ difficulty ─▶ balance ─▶ prompts/v1

Settings: conf/curate.yaml, k15/config/curate.py. What asks a model (hack.enabled, difficulty.enabled, tagger=model) takes
engine.path=<Hugging Face folder> or engine.url=...; its answers are kept in the run folder, so a run that was killed goes on.
The same sources, settings and seed give the same files, bit for bit.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from k15.config.curate import CurateConfig, check_curate
from k15.config.hf import fingerprint, hf_folder
from k15.curate import ask as asking
from k15.curate.ask import Ask, Asked
from k15.curate.funnel import Funnel, lost
from k15.curate.pipeline import read_sources, without_duplicates, without_evaluation, without_kinds, without_leaks
from k15.curate.rows import HUB, Row
from k15.curate.tags import balanced, discipline, tag_prompt
from k15.data.tokenizer import load_tokenizer
from k15.data.versions import PROMPTS, add_version
from k15.errors import ConfigError, DataError
from k15.eval.progress import Bar
from k15.log import get_logger
from k15.log.journal import Journal
from k15.reward.judge import endpoint_ask, endpoint_key, engine_ask
from k15.rollout.client import EngineClient, engine_session
from k15.runs.entry import enter
from k15.runs.job import device
from k15.runs.serve import served
from k15.runs.signalled import end_when_signalled

log = get_logger("curate")


@hydra.main(config_path="pkg://k15.conf", config_name="curate", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("curate", config, run)


def preflight(cfg: CurateConfig, nodes: int) -> None:
    """All that can be known before a row is read. Raises ConfigError and DataError."""
    check_curate(cfg)
    for source in [*cfg.sources, *cfg.evaluation]:
        if not source.startswith(HUB) and not Path(source).exists():
            raise DataError(f"{source} does not exist; sources and evaluation name files, folders, or hf:NAME:SPLIT.")
    if cfg.engine.path is not None:
        hf_folder("engine.path", cfg.engine.path)
        load_tokenizer(Path(cfg.engine.path), chat=True)
    if cfg.engine.url is not None:
        endpoint_key(cfg.engine.key_env)
    if nodes > 1:
        raise ConfigError(f"curate works on one node, but this job has {nodes}; set cluster.nodes=1.")


def run(cfg: CurateConfig) -> int:
    """The whole funnel; the exit code."""
    preflight(cfg, nodes=1)
    if cfg.dry_run:
        print(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
        return 0
    run_dir = Path(cfg.run_dir if cfg.run_dir is not None else f"runs/{cfg.name}").absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    end_when_signalled()
    funnel = Funnel()
    rows = read_sources(cfg, funnel)
    for stage in (without_kinds, without_leaks, without_duplicates, without_evaluation):
        rows = stage(rows, cfg, funnel)
        _left(rows, funnel)
    rows, tags, rates = _asked(cfg, run_dir, rows, funnel)
    chosen = _balance(cfg, rows, tags, funnel)
    folder, new = _store(cfg, [rows[i] for i in chosen], [tags[i] for i in chosen], [rates[i] for i in chosen], funnel)
    print(funnel.table())
    print(f"{len(chosen):,d} prompts: {folder}{'' if new else ' (as before: nothing has changed)'}; read them with data=jsonl "
          f"data.path={cfg.store}, see {folder / 'funnel.md'}")  # fmt: skip
    return 0


def _left(rows: Sequence[Row], funnel: Funnel) -> None:
    if not rows:
        raise DataError(f"no row is left after {funnel.stages[-1].name!r}:\n{funnel.table()}")


def _asked(cfg: CurateConfig, run_dir: Path, rows: list[Row], funnel: Funnel):
    """(rows, tags, pass rates) after the stages that ask a model."""
    tags = [discipline(row) for row in rows]
    rates: list[float | None] = [None] * len(rows)
    if cfg.engine.path is None and cfg.engine.url is None:
        return rows, tags, rates
    if cfg.engine.path is not None:
        rows = _with_room(cfg, rows, funnel)
        _left(rows, funnel)
        tags, rates = [discipline(row) for row in rows], [None] * len(rows)
    with ExitStack() as stack:
        journal = Journal(run_dir / "answers.sqlite")
        stack.callback(journal.close)
        url, token = _engine(cfg, run_dir, stack)

        def answers(how: Asked, texts: Sequence[str]) -> list[list[str]]:
            return asyncio.run(_answers(cfg, url, token, how, texts, journal))

        if cfg.tagger == "model":
            tags = asking.tags_named(rows, answers(asking.how_tags(), asking.tag_texts(rows)), discipline)
        if cfg.hack.enabled:
            said = answers(asking.how_guesses(cfg), [row.text for row in rows])
            kept = asking.without_guessed(rows, asking.right(rows, said), cfg, funnel)
            rows, tags, rates = ([part[i] for i in kept] for part in (rows, tags, rates))
            _left(rows, funnel)
        if cfg.difficulty.enabled:
            math = [i for i, row in enumerate(rows) if row.domain != "code"]  # tests judge code: see `k15 testgen`
            found = asking.right([rows[i] for i in math], answers(asking.how_solutions(cfg), [rows[i].text for i in math]))
            for i, hits in zip(math, found):
                rates[i] = sum(hits) / len(hits)
            kept = asking.by_difficulty(rows, rates, cfg, funnel)
            rows, tags, rates = ([part[i] for i in kept] for part in (rows, tags, rates))
            _left(rows, funnel)
    return rows, tags, rates


def _with_room(cfg: CurateConfig, rows: list[Row], funnel: Funnel) -> list[Row]:
    """The rows whose prompts leave room for an answer in engine.max_context_tokens; a server would refuse the others."""
    tokenizer = load_tokenizer(Path(str(cfg.engine.path)), chat=True)
    asked = [how for on, how in ((cfg.hack.enabled, asking.how_guesses(cfg)), (cfg.difficulty.enabled, asking.how_solutions(cfg)),
                                 (cfg.tagger == "model", asking.how_tags())) if on]  # fmt: skip
    kept, dropped = [], []
    for row in rows:
        needs = max(
            how.max_tokens + len(tokenizer.encode_prompt((tag_prompt(row.text) if how.name == "tag" else row.text) + how.suffix))
            for how in asked
        )
        if needs > cfg.engine.max_context_tokens:
            dropped.append(lost("no room", row, f"prompt and answer need {needs} tokens"))
        else:
            kept.append(row)
    funnel.add("room", f"prompt and answer within {cfg.engine.max_context_tokens:,d} tokens", len(kept), dropped)
    return kept


def _engine(cfg: CurateConfig, run_dir: Path, stack: ExitStack) -> tuple[str, str]:
    """(url, token) of the server on engine.path, which is started; ("", "") where engine.url is asked."""
    e = cfg.engine
    if e.path is None:
        return "", ""
    where = device(cfg.cluster.device)
    dtype = e.dtype if e.dtype != "auto" else "bfloat16" if where == "cuda" else "float32"
    log.info("starting a vLLM server on %s", e.path)
    return stack.enter_context(
        served(Path(e.path), run_dir / "engine.log", device=where, dtype=dtype, max_context_tokens=e.max_context_tokens,
               concurrency=e.concurrency, start_timeout_s=e.start_timeout_s)
    )  # fmt: skip


async def _answers(
    cfg: CurateConfig, url: str, token: str, how: Asked, texts: Sequence[str], journal: Journal
) -> list[list[str]]:
    async with _ask(cfg, url, token, how) as ask:
        return await asking.responses(
            texts, how, ask, journal, seed=cfg.seed, model=_model(cfg),
            concurrency=cfg.engine.concurrency, shown=Bar(f"{how.name}: prompts", len(set(texts))).add,
        )  # fmt: skip


def _model(cfg: CurateConfig) -> str:
    """Names the weights that answer: other weights in the same folder are asked anew."""
    return fingerprint(Path(cfg.engine.path)) if cfg.engine.path is not None else f"{cfg.engine.url} {cfg.engine.model}"


@asynccontextmanager
async def _ask(cfg: CurateConfig, url: str, token: str, how: Asked) -> AsyncIterator[Ask]:
    e = cfg.engine
    async with engine_session() as session:
        if e.path is not None:
            tokenizer = load_tokenizer(Path(e.path), chat=True)
            say = engine_ask([EngineClient(url, token, session)], tokenizer.encode_prompt, tokenizer.decode,
                             max_tokens=how.max_tokens, temperature=how.temperature, cut=True)  # fmt: skip
        else:
            assert e.url is not None
            say = endpoint_ask(session, e.url, e.model, key=endpoint_key(e.key_env), max_tokens=how.max_tokens,
                               temperature=how.temperature, cut=True)  # fmt: skip
        yield lambda text, seed, temperature, max_tokens: say(text, seed)


def _balance(cfg: CurateConfig, rows: Sequence[Row], tags: Sequence[str], funnel: Funnel) -> list[int]:
    if cfg.balance.size is None:
        return list(range(len(rows)))
    by = tags if cfg.balance.by == "discipline" else [row.domain for row in rows]
    chosen = balanced(by, cfg.balance.size, cfg.seed)
    out = set(range(len(rows))) - set(chosen)
    funnel.add("balance", f"at most {cfg.balance.size:,d}, alike by {cfg.balance.by}", len(chosen),
               [lost(by[i], rows[i], f"{by[i]} has more than its share") for i in sorted(out)])  # fmt: skip
    return chosen


def _store(
    cfg: CurateConfig, rows: Sequence[Row], tags: Sequence[str], rates: Sequence[float | None], funnel: Funnel
) -> tuple[Path, bool]:
    """Write the version; no dates, hosts or absolute paths, so that equal work gives equal bytes."""
    lines = []
    for row, tag, rate in zip(rows, tags, rates):
        record: dict[str, object] = {"id": row.id, "prompt": row.text, "answer": row.answer, "domain": row.domain}
        if row.domain == "code":
            record["answer"] = json.loads(row.answer)
        if rate is not None:
            record |= {"difficulty": round(1 - rate, 6), "pass_rate": rate}
        lines.append(json.dumps(record | {"discipline": tag}, ensure_ascii=False) + "\n")
    read = [*cfg.sources, *cfg.evaluation]
    settings = {k: v for k, v in asdict(cfg).items() if k not in ("name", "run_dir", "dry_run", "store", "cluster")}
    manifest = {
        "prompts": len(rows), "settings": settings,
        "files": {s: hashlib.sha256(Path(s).read_bytes()).hexdigest() for s in read if Path(s).is_file()},
    }  # fmt: skip
    files = {
        PROMPTS: "".join(lines),
        "funnel.json": json.dumps({"stages": funnel.as_dict(), "tags": dict(sorted(Counter(tags).items()))}, indent=1) + "\n",
        "funnel.md": funnel.markdown(dict(Counter(tags))),
    }
    return add_version(Path(cfg.store), files, manifest)
