"""What fine-tuning reads: JSONL rows as samples, kept as flat arrays (5 bytes a token), and the sides of a held-out split.

{"messages": [{"role": ..., "content": ...}, ...]}  or  {"prompt": ..., "response": ...}     k15 sft
{"text": ...}                                              k15 sft: continued pretraining, the loss is on all its tokens
{"prompt": ..., "chosen": ..., "rejected": ...}                                              k15 dpo
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from k15.data.chat import answer, conversation
from k15.data.jsonl import TOO_DEEP, Skipped, check_characters, json_object, text_field
from k15.data.tokenizer import TextTokenizer
from k15.errors import DataError
from k15.types import Sample

Row = TypeVar("Row")


class PlainText(Sample):
    """A whole text, or a piece of one: nothing in it was asked, its `prompt_len` of 1 is the token that nothing predicts."""

    __slots__ = ()


class Examples:
    """Samples by number. `lengths` int64 [n]: tokens of each."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._tokens, self._mask = array("i"), array("B")
        self._starts, self._prompts, self._plain = array("q", [0]), array("i"), array("B")
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        self._tokens.extend(sample.tokens)
        self._mask.extend((0,) * sample.prompt_len + tuple(sample.loss_mask))
        self._starts.append(len(self._tokens))
        self._prompts.append(sample.prompt_len)
        self._plain.append(isinstance(sample, PlainText))

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Sample:
        start, stop, prompt = self._starts[index], self._starts[index + 1], self._prompts[index]
        return Sample(tuple(self._tokens[start:stop]), prompt, tuple(self._mask[start + prompt : stop]))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(np.frombuffer(self._starts, dtype=np.int64))

    def prompt_key(self, index: int) -> bytes:
        """The bytes of the prompt's tokens; of a plain text, those of the text."""
        start = self._starts[index]
        return self._tokens[start : self._starts[index + 1] if self._plain[index] else start + self._prompts[index]].tobytes()

    def fingerprint(self) -> str:
        """Changes with any token, mask or order."""
        parts = (self._tokens, self._mask, self._starts, self._prompts, *((self._plain,) if any(self._plain) else ()))
        return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest()[:16]


def held_out(examples: Examples, fraction: float, units: int = 1) -> np.ndarray:
    """bool [n / units]: is the unit (`units` examples in a row, of one prompt) held out? By its prompt alone, so that adding
    rows moves none, and what is asked in training is never asked again in validation."""

    def side(index: int) -> bool:
        digest = hashlib.sha256(b"k15 eval split " + examples.prompt_key(index)).digest()
        return int.from_bytes(digest[:8], "big") < fraction * 2**64

    return np.array([side(i) for i in range(0, len(examples), units)], dtype=bool)


def read_examples(
    path: str | Path, tokenizer: TextTokenizer, *, turns: str = "all", on_bad_row: str = "error", limit: int | None = None
) -> Iterator[Sample]:
    """The samples of a file for supervised fine-tuning; at most the first `limit`. Raises DataError with path and line."""

    def parse(row: dict) -> Sample:
        if "text" in row and not {"messages", "prompt", "response"} & set(row):
            return plain(text_field(row, "text"), tokenizer)
        if "messages" not in row:
            return answer(text_field(row, "prompt"), text_field(row, "response"), tokenizer)
        if not isinstance(row["messages"], list) or not all(isinstance(m, dict) for m in row["messages"]):
            raise DataError("`messages` must be a list of objects with `role` and `content`")
        check_characters("messages", {"messages": row["messages"]})
        if not tokenizer.chat:
            raise DataError("`messages` need the model's chat template; set model.chat=true")
        return conversation(row["messages"], tokenizer, turns)

    return read_rows(path, parse, on_bad_row, limit)


def plain(document: str, tokenizer: TextTokenizer) -> PlainText:
    """A text as pretraining sees it (report B): the tokenizer's first token if it puts one, the text, the end token; each but
    the first counts. Raises DataError where the chat template would be put around it, and where no token would count."""
    if tokenizer.chat:
        raise DataError("`text` is learned as it is, not through the model's chat template; set model.chat=false")
    tokens = tokenizer.encode_prompt(document)
    tokens = tokens if tokens and tokens[-1] == tokenizer.eos_id else [*tokens, tokenizer.eos_id]
    if len(tokens) < 2:
        raise DataError(f"`text` is {document!r}, in which the tokenizer finds nothing but the end: nothing is left to learn")
    return PlainText(tuple(tokens), 1, (1,) * (len(tokens) - 1))


def pieces(samples: Iterable[Sample], most: int) -> Iterator[Sample]:
    """Plain texts of more than `most` tokens cut into pieces of at most that (a last single token is dropped); other samples
    as they are."""
    for sample in samples:
        if len(sample.tokens) <= most or not isinstance(sample, PlainText):
            yield sample
            continue
        for start in range(0, len(sample.tokens) - 1, most):
            cut = sample.tokens[start : start + most]
            if len(cut) > 1:
                yield PlainText(cut, 1, (1,) * (len(cut) - 1))


def read_pairs(
    path: str | Path, tokenizer: TextTokenizer, *, on_bad_row: str = "error", limit: int | None = None
) -> Iterator[tuple[Sample, Sample]]:
    """(chosen, rejected) of a file of preferences; at most the first `limit`. Raises DataError with path and line."""

    def parse(row: dict) -> tuple[Sample, Sample]:
        prompt, chosen, rejected = (text_field(row, key) for key in ("prompt", "chosen", "rejected"))
        whole = row.get("rejected_whole", True)  # one that was cut off has no end: its log-prob must not hold one
        if not isinstance(whole, bool):
            raise DataError(f"`rejected_whole` is {whole!r}; it must be true or false (was the answer cut off?)")
        if chosen == rejected:
            raise DataError("`chosen` and `rejected` are the same text, so there is nothing to prefer")
        return answer(prompt, chosen, tokenizer), answer(prompt, rejected, tokenizer, whole)

    return read_rows(path, parse, on_bad_row, limit)


def read_rows(path: str | Path, parse: Callable[[dict], Row], on_bad_row: str, limit: int | None) -> Iterator[Row]:
    """`parse` of each JSON object of a file. Bad rows raise DataError, or are counted, logged and left out (`skip`)."""
    kept, skipped = 0, Skipped(path)
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if limit is not None and kept >= limit:
                break
            if not raw.strip():
                continue
            try:
                row = parse(json_object(raw))
            except (DataError, RecursionError) as error:
                message = f"{path}:{number}: {error if isinstance(error, DataError) else TOO_DEEP}"
                if on_bad_row == "error":
                    raise DataError(f"{message}. Or leave such rows out with data.on_bad_row=skip.") from None
                skipped.add(number, message)
                continue
            kept += 1
            yield row
    skipped.summed_up(str(kept))
    if not kept:
        raise DataError(f"{path} has no usable row; each line must be a JSON object.")
