"""The Chain-of-thought judge in the loop (report 2.3.5, 2.6): a synchronous face for the router and the audit.

    math: rule check ── no ──▶ reward.judge.rejected ──▶ judge: another written form? ──▶ correct after all, or wrong
    audit: accepted answers ──▶ reward.judge.audit ──▶ judge in place of math-verify

Rules are quick and cannot be talked into anything, so they go first; the judge is asked only where an answer was found
and the rule refused it. Scoring runs in a thread of its own, so each call has an event loop and connections of its own.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from k15.config.schema import JudgeConfig
from k15.errors import ConfigError
from k15.reward.asked import REFUSALS
from k15.reward.judge import Ask, CotJudge, check_judge, endpoint_ask, endpoint_key, engine_ask
from k15.reward.math import MathVerdict
from k15.rollout.client import EngineClient, engine_session
from k15.types import Prompt, Triple

OpenAsk = Callable[[], AbstractAsyncContextManager[Ask]]
ENGINES = "engines"  # reward.judge.url: the run's own engines, so that the policy judges itself
NO_QUESTION = "(not given: compare the final answer of the response with the reference)"


class LoopJudge:
    """Judges on behalf of `Rewards`. `open_ask` opens the run's engines, where `cfg.url` says so. Raises ConfigError.

    An outage raises EngineError out of every method: no reward is made up for it.
    """

    def __init__(self, cfg: JudgeConfig, seed: int, open_ask: OpenAsk | None = None) -> None:
        check_judge(cfg.votes, cfg.retries, cfg.concurrency, cfg.template)
        if not (cfg.rejected or cfg.audit):
            raise ConfigError("reward.judge.url is set, but nothing asks the judge; set reward.judge.rejected or .audit to true.")
        self._cfg, self._seed = cfg, seed
        self._open = open_ask if cfg.url == ENGINES else endpoint_opener(cfg)
        self._counted: Counter[str] = Counter()

    def opinions(self, triples: Sequence[Triple]) -> list[bool | None]:
        """Right, wrong, or None where neither has a majority; equal triples are judged once."""
        different = list(dict.fromkeys(triples))
        found = dict(zip(different, asyncio.run(self._judge(different)), strict=True)) if different else {}
        return [found[t] for t in triples]

    async def _judge(self, triples: Sequence[Triple]) -> list[bool | None]:
        cfg = self._cfg
        if self._open is None:
            raise ConfigError("reward.judge.url is 'engines', but no engine runs here; give the URL of an endpoint.")
        async with self._open() as ask:
            judge = CotJudge(
                ask, votes=cfg.votes, retries=cfg.retries, seed=self._seed, template=cfg.template, concurrency=cfg.concurrency
            )  # fmt: skip
            return [j.opinion for j in await judge.judge(triples)]

    def reconsider(self, prompt: Prompt, texts: Sequence[str], found: Sequence[MathVerdict]) -> list[MathVerdict]:
        """The rule's verdicts, those with an answer that it refused judged again; correct needs a majority."""
        open_ = [i for i, v in enumerate(found) if not v.correct and v.extracted is not None and v.reason not in REFUSALS]
        said = self.opinions([Triple(prompt.text, prompt.answer, texts[i]) for i in open_])
        verdicts = list(found)
        for i, opinion in zip(open_, said, strict=True):
            word = {True: "correct", False: "wrong", None: "undecided"}[opinion]
            self._counted[word] += 1
            verdicts[i] = replace(found[i], correct=opinion is True, reason=f"judge: {word} (rule: {found[i].reason})")
        return verdicts

    def take_metrics(self) -> dict[str, float]:
        """reward_judge_{n,accepted,undecided} of refused answers since the last call; nothing where none was judged."""
        counts, self._counted = self._counted, Counter()
        if not counts:
            return {}
        accepted, undecided = float(counts["correct"]), float(counts["undecided"])
        return {"reward_judge_n": float(counts.total()), "reward_judge_accepted": accepted, "reward_judge_undecided": undecided}

    def second(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """For the audit: (response, answer) pairs, which it has no question to."""
        return self.opinions([Triple(NO_QUESTION, answer, response) for response, answer in pairs])


def endpoint_opener(cfg: JudgeConfig) -> OpenAsk:
    """Asks the OpenAI-compatible endpoint of `cfg`. Raises ConfigError where its key or model is missing."""
    if cfg.url is None or not cfg.model:
        raise ConfigError(f"reward.judge.url is {cfg.url!r} and reward.judge.model {cfg.model!r}; an endpoint needs both.")
    url, key = cfg.url, endpoint_key(cfg.key_env)

    @asynccontextmanager
    async def open_ask() -> AsyncIterator[Ask]:
        async with engine_session() as session:
            yield endpoint_ask(
                session, url, cfg.model, key=key, max_tokens=cfg.max_tokens, temperature=cfg.sampling_temperature,
                timeout_s=cfg.timeout_s,
            )  # fmt: skip

    return open_ask


def engines_opener(
    cfg: JudgeConfig,
    urls: Callable[[], Sequence[str]],
    token: str,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
) -> OpenAsk:
    """Asks k15's own engines; `urls` is asked at each opening, since an engine that was healed has moved."""

    @asynccontextmanager
    async def open_ask() -> AsyncIterator[Ask]:
        async with engine_session() as session:
            clients = [EngineClient(url, token, session, cfg.timeout_s) for url in urls()]
            yield engine_ask(clients, encode, decode, max_tokens=cfg.max_tokens, temperature=cfg.sampling_temperature)

    return open_ask
