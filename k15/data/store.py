"""Prompt stores: the user's JSONL, or generated arithmetic, as a training and a held-out set.

A JSONL row has `prompt` and `answer`, and optionally `domain`, `difficulty` and `id`; other fields are kept in
`Prompt.meta`. Which side of the split a row is on depends on its text alone, so adding rows moves none.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from k15.config.schema import DataConfig
from k15.data.arithmetic import make_problems
from k15.data.jsonl import TOO_DEEP, Skipped, check_characters, json_object, not_a_value, text_field
from k15.data.versions import prompts_file
from k15.errors import ConfigError, DataError, unknown_name
from k15.log import get_logger
from k15.types import Prompt

KINDS = ("arithmetic", "jsonl")
ON_BAD_ROW = ("error", "skip")

RowCheck = Callable[[Prompt], None]


class Encoder(Protocol):
    """What the length check needs of a tokenizer."""

    def encode_prompt(self, text: str) -> list[int]: ...


def load_datasets(cfg: DataConfig, seed: int, check: RowCheck | None = None) -> tuple[list[Prompt], list[Prompt]]:
    """(training prompts, held-out prompts) of a run. No held-out problem is in the training set.

    `check` raises DataError for a row that the run cannot use, which then is a bad row like any other.
    """
    if cfg.kind not in KINDS:
        raise unknown_name("data.kind", cfg.kind, KINDS)
    if cfg.kind == "arithmetic":
        made = [
            make_problems(n, seed, split, list(cfg.families)) for n, split in ((cfg.train_size, "train"), (cfg.eval_size, "eval"))
        ]
        for prompt in [*made[0], *made[1]] if check is not None else []:
            check(prompt)
        return made[0], made[1]
    if not cfg.path:
        raise ConfigError("data.kind is jsonl, so data.path must name a file: data.path=train.jsonl.")
    prompts = load_prompts(cfg.path, cfg.on_bad_row, check)
    if cfg.eval_path is None:
        train, held_out = split_by_hash(prompts, cfg.eval_fraction)
    else:
        held_out = load_prompts(cfg.eval_path, cfg.on_bad_row, check)
        train = _without(prompts, held_out, cfg.path, cfg.eval_path)
    if not train:
        raise DataError(f"{cfg.path}: no training prompt is left beside the held-out ones; add rows or lower data.eval_fraction.")
    return train, held_out


def load_prompts(path: str | Path, on_bad_row: str = "error", check: RowCheck | None = None) -> list[Prompt]:
    """The prompts of a JSONL file, in order. Bad rows raise DataError, or are counted, logged and left out (`skip`).

    Bad is also what `check` raises DataError for; the message names file and line either way.
    """
    if on_bad_row not in ON_BAD_ROW:
        raise unknown_name("data.on_bad_row", on_bad_row, ON_BAD_ROW)
    path = prompts_file(Path(path))
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file; data.path and data.eval_path name JSONL files.")
    found: dict[str, tuple[Prompt, int]] = {}
    skipped = Skipped(path)
    for number, raw in _lines(path):
        try:
            prompt = _prompt(json_object(raw))
            if prompt.id in found:
                raise DataError(
                    f"field `id`: {prompt.id!r} was used on line {found[prompt.id][1]} already; ids must be unique (rows "
                    "without an id are named by their content, so this may be the same row twice)."
                )
            if check is not None:
                check(prompt)
            found[prompt.id] = (prompt, number)
        except (DataError, RecursionError) as error:
            said = f"{path}:{number}: {error if isinstance(error, DataError) else TOO_DEEP}"
            if on_bad_row == "error":
                raise DataError(f"{said.removesuffix('.')}. Or leave such rows out with data.on_bad_row=skip.") from None
            skipped.add(number, said)
    skipped.summed_up(f"{len(found)} prompts")
    if not found:
        raise DataError(f'{path} has no usable row; each line must be JSON such as {{"prompt": "2+2=", "answer": "4"}}.')
    return [prompt for prompt, _ in found.values()]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of the lines that are not blank."""
    with path.open("rb") as file:
        yield from ((number, raw) for number, raw in enumerate(file, 1) if raw.strip())


def _prompt(row: dict[str, object]) -> Prompt:
    text = text_field(row, "prompt")
    given = row.get("answer")
    check_characters("answer", given)
    if isinstance(given, int | float | dict) and not isinstance(given, bool) and not not_a_value(given):
        row = {**row, "answer": json.dumps(given)}  # an object: tests of a code problem
    answer = text_field(row, "answer")
    domain = text_field(row, "domain") if row.get("domain") is not None else "math"
    identity = row.get("id")
    check_characters("id", identity)
    if identity is not None and (isinstance(identity, bool) or not isinstance(identity, str | int) or identity == ""):
        raise DataError(f"field `id` is {identity!r}; it must be a text or a whole number, or be left out.")
    known = {"prompt", "answer", "domain", "difficulty", "id"}
    return Prompt(
        id=str(identity) if identity is not None else content_id(text, answer, domain),
        text=text,
        answer=answer,
        domain=domain,
        difficulty=_difficulty(row.get("difficulty")),
        meta={k: v for k, v in row.items() if k not in known},
    )


def _difficulty(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise DataError(f"field `difficulty` is {value!r}; it must be a number (higher is harder), or be left out.")
    return float(value)


def content_id(text: str, answer: str, domain: str) -> str:
    """The id of a row that has none: a hash of its content, the same on every machine and in every order."""
    return hashlib.sha256(json.dumps([domain, text, answer]).encode()).hexdigest()[:16]


def _problem_key(prompt: Prompt) -> str:
    return " ".join(prompt.text.split())


def split_by_hash(prompts: Iterable[Prompt], eval_fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """(training, held-out) prompts. A prompt's side depends on its text and the fraction only; blanks do not count."""
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    for prompt in prompts:
        digest = hashlib.sha256(b"k15 eval split " + _problem_key(prompt).encode()).digest()
        sides[int.from_bytes(digest[:8], "big") < eval_fraction * 2**64].append(prompt)
    return sides


def _without(prompts: list[Prompt], held_out: Sequence[Prompt], path: str, eval_path: str) -> list[Prompt]:
    """Training prompts that are not in the held-out file, by text."""
    keys = {_problem_key(p) for p in held_out}
    kept = [p for p in prompts if _problem_key(p) not in keys]
    if len(kept) < len(prompts):
        get_logger("data").warning(
            "%s: %d prompts are in %s too and were taken out of training", path, len(prompts) - len(kept), eval_path
        )
    return kept


def check_prompt_lengths(prompts: Iterable[Prompt], tokenizer: Encoder, max_prompt_tokens: int, suffix: str = "") -> None:
    """Raises DataError for a prompt that leaves no room for a response. `max_prompt_tokens`: context less response; `suffix`:
    what stands behind each prompt when it is asked."""
    for prompt in prompts:
        length = len(tokenizer.encode_prompt(prompt.text + suffix))
        if length > max_prompt_tokens:
            raise DataError(
                f"Prompt {prompt.id!r}{' with the `suffix` behind it' if suffix else ''} has {length} tokens, but at most "
                f"{max_prompt_tokens} fit before a response "
                "(model.max_context_tokens - rollout.max_response_tokens). Shorten it, raise model.max_context_tokens, "
                f"or lower rollout.max_response_tokens{', or give a shorter suffix' if suffix else ''}."
            )
        if not length:
            raise DataError(f"Prompt {prompt.id!r} encodes to no token at all; sampling needs at least one.")
