"""The light tokenizer against transformers' AutoTokenizer on the same folder: ids, text, chat template."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.config.schema import TinyModelConfig
from k15.data.arithmetic import ALPHABET, warmup_examples
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), TinyModelConfig(), 192)


@pytest.fixture(scope="module")
def auto(folder):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


@settings(max_examples=60, deadline=None)
@given(st.text(ALPHABET, max_size=60))
def test_round_trip_and_same_ids_as_transformers(folder, auto, text: str) -> None:
    ours, chat = load_tokenizer(folder), load_tokenizer(folder, chat=True)
    ids = ours.encode_prompt(text)
    assert ids[0] == 1 and len(ids) == 1 + len(text)
    assert ids == auto.encode(text)
    assert ours.decode(ids) == text
    response = ours.encode_response(text)
    assert response == [*ids[1:], ours.eos_id] and ours.decode(response) == text
    message = [{"role": "user", "content": text}]
    theirs = auto.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert chat.encode_prompt(text) == theirs


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        st.one_of(
            st.sampled_from(ALPHABET),
            st.sampled_from("=\u0338e\u0301é日🙂\u200b\r\0 Z"),
            st.characters(exclude_categories=["Cs"]),
        ),
        max_size=40,
    )
)
def test_same_ids_as_transformers_outside_the_alphabet(folder, auto, text: str) -> None:
    """Such a character is nothing to both; `=` with a stroke through it (U+0338) is one of them, as `≠` is."""
    assert load_tokenizer(folder).encode_prompt(text) == auto.encode(text)


def test_tokenizer_names_every_character_of_the_warm_up(folder) -> None:
    tokenizer = load_tokenizer(folder)
    for text, response in warmup_examples(300, 0, 0.2, 0.2, 0.3):
        ids = tokenizer.encode_prompt(text) + tokenizer.encode_response(response)
        assert len(ids) == 1 + len(text) + len(response) + 1 and max(ids) < tokenizer.vocab_size == 32


def test_config_loads_as_qwen2_of_that_shape(folder, auto) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.vocab_size, config.num_key_value_heads) == ("qwen2", len(auto), 2)
    assert (config.eos_token_id, config.pad_token_id) == (auto.eos_token_id, auto.pad_token_id)
    assert config.max_position_embeddings == 192 and not config.tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "chat", "says"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), False, "tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{"), False, "is not JSON"),
        (lambda f: _edit(f, eos_token="<end>"), False, "'<end>', which is not a token"),
        (lambda f: _edit(f, chat_template=None), True, "no chat template"),
        (lambda f: (f / "tokenizer.json").write_text('{"model": 1}'), False, "tokenizer.json is no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_bytes(b"\xff"), False, "not UTF-8"),
        (lambda f: (f / "tokenizer_config.json").write_text("[1]"), False, "not a JSON object but a list"),
        (lambda f: _edit(f, chat_template=[1]), False, "chat_template of the type list"),
        (lambda f: _edit(f, chat_template=7), True, "chat_template of the type int"),
        (lambda f: _edit(f, "config.json", vocab_size=20), False, "has the id 31, but vocab_size in config.json is 20"),
    ],
)
def test_broken_folders_are_named(tmp_path, change, chat, says) -> None:
    change(write_tiny_model(tmp_path, TinyModelConfig(), 192))
    with pytest.raises(DataError, match=says):
        load_tokenizer(tmp_path, chat=chat)


def _edit(folder, name="tokenizer_config.json", **changes) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("template", "says"),
    [("{{ raise_exception('only assistants here') }}", "only assistants here"), ("{{ 1/0 }}", "ZeroDivisionError"),
     ("{% if %}", "Set model.chat=false or mend it")],
)  # fmt: skip
def test_a_template_that_fails_is_the_users_error(tmp_path, template, says) -> None:
    write_tiny_model(tmp_path, TinyModelConfig(), 192)
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=says):
        load_tokenizer(tmp_path, chat=True).encode_prompt("1+1=")


def test_impossible_shapes_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="num_kv_heads 3"):
        write_tiny_model(tmp_path, TinyModelConfig(num_kv_heads=3), 192)


def test_a_folder_whose_writing_failed_has_no_config(tmp_path) -> None:
    """config.json is what says that the folder is there."""
    write_tiny_model(tmp_path, TinyModelConfig(), 192)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_tiny_model(tmp_path, TinyModelConfig(hidden_size=256), 192)
    assert not (tmp_path / "config.json").exists()


def test_data_and_reward_import_without_torch() -> None:
    rooms = "k15.data.store, k15.data.sampler, k15.data.tiny, k15.reward.router"
    code = f"import sys, {rooms}; print([m for m in ('torch', 'transformers', 'sympy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
