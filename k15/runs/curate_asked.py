"""The stages of `k15 curate` that ask a model: tags, guesses, pass rates. The engine is a vLLM server that is started here, or an
OpenAI-compatible endpoint; what it says is kept in the run folder's answers.sqlite."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from k15.config.curate import CurateConfig, EngineConfig
from k15.config.hf import fingerprint
from k15.curate import ask as asking
from k15.curate.ask import Ask, Asked, Checker
from k15.curate.funnel import Funnel, lost
from k15.curate.rows import Row
from k15.curate.tags import discipline, tag_prompt
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import DataError
from k15.eval.progress import Bar
from k15.log import get_logger
from k15.log.journal import Journal
from k15.reward.judge import PromptTooLong, endpoint_ask, endpoint_key, engine_ask
from k15.rollout.client import EngineClient, EngineFrozen, EngineUnavailable, engine_session
from k15.runs.job import device
from k15.runs.serve import served

log = get_logger("curate")
Reduce = Callable[[Sequence[int], list[list[str]]], Sequence]
Hits = list[bool] | PromptTooLong | None


def some_left(rows: Sequence[Row], funnel: Funnel) -> None:
    """Raises DataError with the funnel where a stage took all."""
    if not rows:
        raise DataError(f"no row is left after {funnel.stages[-1].name!r}:\n{funnel.table()}")


def engine_tokenizer(e: EngineConfig) -> TextTokenizer:
    """Of engine.path, as prompts are asked. Raises DataError."""
    return load_tokenizer(Path(str(e.path)), chat=e.chat, setting="engine.chat")


def asked(cfg: CurateConfig, run_dir: Path, rows: list[Row], funnel: Funnel):
    """(rows, tags, pass rates) after the stages that ask a model. Raises EngineError, and DataError where no row is left."""
    if cfg.engine.path is None and cfg.engine.url is None:
        return rows, [discipline(row) for row in rows], [None] * len(rows)
    if cfg.engine.path is not None:
        rows = _with_room(cfg, rows, funnel)
        some_left(rows, funnel)
    tags: list[str] = [discipline(row) for row in rows]
    rates: list[float | None] = [None] * len(rows)
    checker = Checker()

    def keep(kept: Sequence[int]) -> None:
        nonlocal rows, tags, rates
        rows, tags, rates = ([part[i] for i in kept] for part in (rows, tags, rates))
        some_left(rows, funnel)

    with ExitStack() as stack:
        journal = Journal(run_dir / "answers.sqlite")
        stack.callback(journal.close)
        url, token = _engine(cfg, run_dir, stack)

        def answers(how: Asked, texts: Sequence[str], reduce: Reduce) -> list:
            return asyncio.run(_answers(cfg, url, token, how, texts, journal, reduce))

        def hits(how: Asked) -> list[Hits]:
            """Which answers to each row are right. None: code, which tests judge, see `k15 testgen`."""
            math = [i for i, row in enumerate(rows) if row.domain != "code"]
            found: list[Hits] = [None] * len(rows)
            if math:
                texts = [rows[i].text for i in math]
                judged = answers(how, texts, lambda at, said: checker.right([rows[math[j]] for j in at], said))
                for i, right in zip(math, judged, strict=True):
                    found[i] = right
            kept = asking.with_room(rows, found, how, funnel)
            keep(kept)
            return [found[i] for i in kept]

        if cfg.tagger == "model":
            how = asking.how_tags()
            texts = asking.tag_texts(rows)
            named = answers(how, texts, lambda at, said: asking.tags_named([rows[i] for i in at], said, discipline))
            kept = asking.with_room(rows, named, how, funnel)
            keep(kept)
            tags = [named[i] for i in kept]
        if cfg.hack.enabled:
            found = hits(asking.how_guesses(cfg))
            keep(asking.without_guessed(rows, found, cfg, funnel))
        if cfg.difficulty.enabled:
            found = hits(asking.how_solutions(cfg))
            rates = [sum(right) / len(right) if right is not None else None for right in found]
            keep(asking.by_difficulty(rows, rates, cfg, funnel))
    if checker.failed:
        log.warning("%d verdicts failed and count as wrong answers", checker.failed)
    return rows, tags, rates


def _with_room(cfg: CurateConfig, rows: list[Row], funnel: Funnel) -> list[Row]:
    """The rows whose prompts leave room for an answer in engine.max_context_tokens; a server would refuse the others. Of code
    only the tag is asked."""
    tokenizer = engine_tokenizer(cfg.engine)
    all_of_them = [how for on, how in ((cfg.hack.enabled, asking.how_guesses(cfg)),
                                       (cfg.difficulty.enabled, asking.how_solutions(cfg)),
                                       (cfg.tagger == "model", asking.how_tags())) if on]  # fmt: skip
    kept, dropped = [], []
    for row in rows:
        needs = max(
            (how.max_tokens + len(tokenizer.encode_prompt((tag_prompt(row.text) if how.name == "tag" else row.text) + how.suffix))
             for how in all_of_them if how.name == "tag" or row.domain != "code"), default=0,
        )  # fmt: skip
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
    cfg: CurateConfig, url: str, token: str, how: Asked, texts: Sequence[str], journal: Journal, reduce: Reduce
) -> list:
    async with _ask(cfg, url, token, how) as ask:
        return await asking.reduced(
            texts, how, ask, journal, reduce, seed=cfg.seed, model=_model(cfg.engine),
            concurrency=cfg.engine.concurrency, shown=Bar(f"{how.name}: prompts", len(set(texts))).add,
        )  # fmt: skip


def _model(e: EngineConfig) -> str:
    """Names what answers: other weights in the same folder, or prompts without the chat template, are asked anew."""
    if e.path is None:
        return f"{e.url} {e.model}"
    return fingerprint(Path(e.path)) + ("" if e.chat else " without chat template")


@asynccontextmanager
async def _ask(cfg: CurateConfig, url: str, token: str, how: Asked) -> AsyncIterator[Ask]:
    e = cfg.engine
    async with engine_session() as session:
        if e.path is not None:
            tokenizer = engine_tokenizer(e)
            say = engine_ask([EngineClient(url, token, session, e.request_timeout_s)], tokenizer.encode_prompt, tokenizer.decode,
                             max_tokens=how.max_tokens, temperature=how.temperature, cut=True)  # fmt: skip
        else:
            assert e.url is not None
            key = endpoint_key(e.key_env, "engine.key_env")
            say = endpoint_ask(session, e.url, e.model, key=key, max_tokens=how.max_tokens, temperature=how.temperature,
                               timeout_s=e.request_timeout_s, cut=True, who="the engine")  # fmt: skip

        async def ask(text: str, seed: int, temperature: float, max_tokens: int) -> str | None:
            try:
                return await say(text, seed)
            except EngineUnavailable as error:
                if isinstance(error, EngineFrozen) or not isinstance(error.__cause__, TimeoutError):
                    raise
                raise EngineUnavailable(
                    f"{error}. Where answers take longer, raise engine.request_timeout_s={e.request_timeout_s:g}; what was "
                    "answered is kept, and the same words go on from there."
                ) from error

        yield ask
