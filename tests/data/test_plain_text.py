"""Rows of {"text": ...}: continued pretraining on all tokens, packed, and cut where they are long."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.config.compose import compose_as
from k15.config.schema import TinyModelConfig
from k15.config.sft import SftConfig
from k15.data.examples import Examples, PlainText, held_out, pieces, plain, read_examples
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.errors import DataError
from k15.runs.fit_command import sft_rows
from k15.types import Sample


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), TinyModelConfig(), 192)


def test_every_token_but_the_first_counts_and_the_text_ends(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    sample = plain("1+1=2", tokenizer)
    assert tokenizer.decode(sample.tokens) == "1+1=2" and sample.tokens[-1] == tokenizer.eos_id
    assert sample.prompt_len == 1 and sum(sample.loss_mask) == len(sample.tokens) - 1 == 6


@given(length=st.integers(2, 400), most=st.integers(2, 100))
def test_pieces_hold_the_text_and_fit(length: int, most: int) -> None:
    whole = PlainText(tuple(range(length)), 1, (1,) * (length - 1))
    cut = list(pieces([whole], most))
    tokens = tuple(t for piece in cut for t in piece.tokens)
    assert tokens == whole.tokens[: len(tokens)] and length - len(tokens) <= 1
    assert all(2 <= len(p.tokens) <= most and p.prompt_len == 1 and all(p.loss_mask) for p in cut)
    for prompt in (1, 2):
        answered = Sample(tuple(range(length + prompt)), prompt, (1,) * length)
        assert list(pieces([answered], most)) == [answered], "what was asked cannot be cut off from its answer"


def test_a_file_of_long_texts_becomes_pieces_of_the_longest_stage(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}+{i}={2 * i}, " * 60}) + "\n" for i in range(40)))
    words = ["experiment=pretrain_tiny", f"model.path={model}", f"data.paths=[{path}]"]
    cfg, tokenizer = compose_as(SftConfig, "sft", words), load_tokenizer(model)
    found = Examples(sft_rows(cfg, str(path), tokenizer))
    assert len(found) > 80 and found.lengths.max() == 192
    side = held_out(Examples(read_examples(path, tokenizer)), 0.5)
    assert 5 < side.sum() < 35, "texts that begin alike are held out each by itself"
    cfg.model.max_context_tokens = 100
    assert Examples(sft_rows(cfg, str(path), tokenizer)).lengths.max() == 100, "the model's context is the limit too"
    cfg.model.chat = tokenizer.chat = True
    with pytest.raises(DataError, match=r"text.jsonl:1: `text`.*model.chat=false"):
        list(sft_rows(cfg, str(path), tokenizer))


def test_answers_to_a_prompt_of_one_token_lie_on_one_side() -> None:
    examples = Examples(Sample((5, i), 1, (1,)) for i in range(40))
    assert len(set(held_out(examples, 0.5))) == 1
    texts = Examples(PlainText((5, i), 1, (1,)) for i in range(40))
    assert set(held_out(texts, 0.5)) == {True, False} and texts.fingerprint() != examples.fingerprint()


@pytest.mark.parametrize("document", ["<eos>", "\u00ad"])
def test_a_text_of_no_token_is_a_bad_row(document: str, tmp_path: Path) -> None:
    class Words:
        """A tokenizer at the edge: no first token, and it drops what it does not know."""

        chat, eos_id = False, 7

        def encode_prompt(self, text: str) -> list[int]:
            return [7 if w == "<eos>" else 1 for w in text.split() if w.isascii()]

    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in (document, "one two")))
    with pytest.raises(DataError, match=r"text.jsonl:1: `text` is .* nothing but the end"):
        list(read_examples(path, Words()))  # type: ignore[arg-type]
    kept = list(read_examples(path, Words(), on_bad_row="skip"))  # type: ignore[arg-type]
    assert [s.tokens for s in kept] == [(1, 1, 7)]
