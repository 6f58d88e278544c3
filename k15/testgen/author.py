"""The model writes a generator from the statement and CYaRon's usage. Report, section 2.3.5.

The answer's last fenced block is the generator. It is parsed here, never run here.
"""

import ast
import asyncio
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files as resources
from typing import Protocol

from k15.errors import ConfigError
from k15.rollout.client import EngineClient, engine_session
from k15.testgen.problems import Problem
from k15.testgen.settings import TestgenSettings

_FENCE = re.compile(r"^```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL | re.IGNORECASE)


class Encoder(Protocol):
    """What of a tokenizer is needed (`k15.data.tokenizer.TextTokenizer`)."""

    def encode_prompt(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class EngineAuthor:
    """Asks vLLM engines in turn; safe to use from many threads. `model` names the weights in the journal."""

    def __init__(
        self, urls: Sequence[str], token: str, encoder: Encoder, settings: TestgenSettings, model: str, timeout_s: float = 1800.0
    ) -> None:
        if not urls:
            raise ConfigError("No engine is given to write generators: --engine-url http://HOST:PORT")
        self._urls, self._token, self._encoder, self._settings, self._timeout_s = urls, token, encoder, settings, timeout_s
        sampling = f"T={settings.temperature} p={settings.top_p} max={settings.max_tokens} of {settings.context_tokens}"
        self.identity = f"{model} {sampling} {_template_digest()}"

    def write(self, problem: Problem, attempt: int) -> tuple[str | None, str]:
        """(generator, "") or (None, why not). The seed is derived from the problem and the attempt. Raises EngineError."""
        tokens = self._encoder.encode_prompt(prompt(problem))
        if len(tokens) + self._settings.max_tokens > self._settings.context_tokens:
            room = f"max_tokens={self._settings.max_tokens} in context_tokens={self._settings.context_tokens}"
            return None, f"the statement is too long for the model: {len(tokens)} tokens beside {room}"
        seed = int.from_bytes(hashlib.sha256(f"{self._settings.seed}/{problem.id}/{attempt}".encode()).digest()[:4]) >> 1
        return generator_in(asyncio.run(self._ask(tokens, seed)))

    async def _ask(self, tokens: Sequence[int], seed: int) -> str:
        s = self._settings
        async with engine_session() as session:
            client = EngineClient(self._urls[seed % len(self._urls)], self._token, session, self._timeout_s)
            done = await client.generate(tokens, max_tokens=s.max_tokens, seed=seed, temperature=s.temperature, top_p=s.top_p)
        return self._encoder.decode(done.tokens)


def prompt(problem: Problem) -> str:
    """What the model is asked."""
    return _template().replace("{statement}", problem.statement.strip())


def generator_in(answer: str) -> tuple[str | None, str]:
    """The generator of an answer, or None and what is wrong with it."""
    found = _FENCE.findall(answer)
    if not found:
        return None, "the model's answer has no fenced block"
    try:
        tree = ast.parse(found[-1])
    except (SyntaxError, ValueError, RecursionError) as error:
        return None, f"the model's generator does not parse: {error}"
    if not any(isinstance(node, ast.FunctionDef) and node.name == "generate" for node in tree.body):
        return None, "the model's generator defines no function `generate`"
    return found[-1], ""


def _template() -> str:
    return (resources("k15.testgen") / "generator_prompt.txt").read_text()


def _template_digest() -> str:
    return hashlib.sha256(_template().encode()).hexdigest()[:12]
