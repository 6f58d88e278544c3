"""Prompt stores: what a bad row says, and a split that stays where it is."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.config.schema import DataConfig, TinyModelConfig
from k15.data.store import check_prompt_lengths, load_datasets, load_prompts, split_by_hash
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.errors import ConfigError, DataError
from k15.types import Prompt

GOOD = '{"prompt": "2+2=", "answer": "4"}'


def test_fields_defaults_and_ids(tmp_path) -> None:
    file = tmp_path / "d.jsonl"
    rows = [
        {"prompt": "2+2=", "answer": 4, "source": "mine"},
        {"prompt": "3+3=", "answer": "6", "domain": "math", "difficulty": 2, "id": 17},
    ]
    file.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)))
    first, second = load_prompts(file)
    assert (first.answer, first.domain, first.difficulty, dict(first.meta)) == ("4", "math", None, {"source": "mine"})
    assert (second.id, second.difficulty) == ("17", 2.0)
    file.write_text("\n".join(map(json.dumps, reversed(rows))))
    assert {p.id for p in load_prompts(file)} == {first.id, "17"}, "ids depend on the content only"


BAD = {
    "{": "not JSON",
    "[1]": "a list, but each line must be an object",
    '{"answer": "4"}': "field `prompt` is missing",
    '{"prompt": " ", "answer": "4"}': "field `prompt` is ' '",
    '{"prompt": "x"}': "field `answer` is missing",
    '{"prompt": "x", "answer": true}': "field `answer` is True",
    '{"prompt": "x", "answer": "4", "difficulty": "hard"}': "field `difficulty` is 'hard'",
    '{"prompt": "x", "answer": "4", "difficulty": NaN}': "field `difficulty` is nan",
    '{"prompt": "x", "answer": "4", "id": [1]}': "field `id` is",
    '{"prompt": "x", "answer": "4", "domain": 3}': "field `domain` is 3",
    '{"prompt": "x", "answer": "4", "difficulty": ' + "9" * 400 + "}": "field `difficulty` is 999",
    '{"prompt": "x", "answer": NaN}': "field `answer` is nan",
    '{"prompt": "x", "answer": -1e999}': "field `answer` is -inf",
    '{"prompt": "x", "answer": ' + "9" * 5000 + "}": "not JSON (Exceeds the limit",
    '{"prompt": "x", "answer": "4", "more": ' + "[" * 9000 + "]" * 9000 + "}": "nested too deeply",
    '{"prompt": "x", "answer": {"tests": [["\\ud83d", "1"]]}}': "field `answer` holds half a character",
    GOOD: "was used on line 1 already",
}


@pytest.mark.parametrize(("row", "says"), BAD.items(), ids=[row[:50] for row in BAD])
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path, caplog, row: str, says: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(f"{GOOD}\n\n{row}\n")
    with pytest.raises(DataError) as caught:
        load_prompts(file)
    assert f"{file}:3: " in str(caught.value) and says in str(caught.value) and "data.on_bad_row=skip" in str(caught.value)
    with caplog.at_level("WARNING", logger="k15"):
        assert [p.text for p in load_prompts(file, "skip")] == ["2+2="]
    assert "1 bad rows skipped, 1 prompts kept" in caplog.text


def test_every_skipped_line_can_be_found(tmp_path, caplog) -> None:
    """However many there are: the first with their reasons, all by their numbers."""
    bad = {1, 2, 3, 7, *range(20, 60, 2), 80, 81}
    file = tmp_path / "d.jsonl"
    rows = [json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) for i in range(1, 91)]
    file.write_text("\n".join("{" if i in bad else row for i, row in enumerate(rows, 1)))
    assert len(load_prompts(file, "skip")) == 90 - len(bad)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 21 and all(f"{file}:{line}: not JSON" in text for line, text in zip(sorted(bad), said[:20], strict=False))
    lines = ", ".join(map(str, range(20, 60, 2)))
    assert said[20] == f"{file}: 26 bad rows skipped, 64 prompts kept; skipped lines: 1-3, 7, {lines}, 80-81"
    file.write_text("\n".join(x for row in rows[:1] * 1001 for x in ("{", "", row)) + "\n" + rows[1])
    with pytest.raises(DataError):
        load_prompts(file)
    load_prompts(file, "skip")
    assert caplog.records[-1].getMessage().endswith(" and more, the last of them 3003")


def test_files_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(DataError, match=r"does not exist"):
        load_prompts(tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n \n")
    with pytest.raises(DataError, match=r"no usable row"):
        load_prompts(empty)
    empty.write_bytes(b'{"prompt": "\xff", "answer": "1"}')
    with pytest.raises(DataError, match=r"empty.jsonl:1: not UTF-8"):
        load_prompts(empty)
    with pytest.raises(ConfigError, match=r"data.path=train.jsonl"):
        load_datasets(DataConfig(kind="jsonl"), 0)
    with pytest.raises(ConfigError, match=r"Allowed: arithmetic, jsonl"):
        load_datasets(DataConfig(kind="json"), 0)


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"id{i}", f"problem number {i}", str(i)) for i in range(n)]


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.1, 0.5]), st.randoms(use_true_random=False))
def test_adding_rows_moves_no_row_across_the_split(n: int, more: int, fraction: float, rng: random.Random) -> None:
    before = split_by_hash(prompts(n), fraction)
    grown = prompts(n + more)
    rng.shuffle(grown)
    after = split_by_hash(grown, fraction)
    for old, new in zip(before, after, strict=True):
        assert {p.id for p in old} <= {p.id for p in new}


def test_the_split_has_the_fraction_asked_for() -> None:
    train, held_out = split_by_hash(prompts(4000), 0.1)
    assert len(train) + len(held_out) == 4000 and abs(len(held_out) - 400) < 5 * (4000 * 0.1 * 0.9) ** 0.5


def test_training_rows_that_are_held_out_are_taken_out(tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "2+2=", "answer": "4"}\n{"prompt": "3+3=", "answer": "6"}')
    (tmp_path / "eval.jsonl").write_text('{"prompt": " 2+2= ", "answer": "4", "id": "other"}')
    cfg = DataConfig(kind="jsonl", path=str(tmp_path / "train.jsonl"), eval_path=str(tmp_path / "eval.jsonl"))
    train, held_out = load_datasets(cfg, 0)
    assert [p.text for p in train] == ["3+3="] and len(held_out) == 1
    cfg.path = cfg.eval_path
    with pytest.raises(DataError, match=r"no training prompt is left"):
        load_datasets(cfg, 0)


def test_a_prompt_longer_than_the_context_is_named(tmp_path) -> None:
    tokenizer = load_tokenizer(write_tiny_model(tmp_path, TinyModelConfig(), 192))
    long = Prompt("long", "1+" * 20, "20")
    check_prompt_lengths([long], tokenizer, 41)
    with pytest.raises(DataError, match=r"'long' has 41 tokens, but at most 40 fit"):
        check_prompt_lengths([long], tokenizer, 40)
    check_prompt_lengths([long], tokenizer, 43, "!!")
    with pytest.raises(DataError, match=r"'long' with the `suffix` behind it has 43 tokens, .* or give a shorter suffix"):
        check_prompt_lengths([long], tokenizer, 42, "!!")
