"""Tokenizers: the character-level one that k15 makes for its tiny model, and a light reader for Hugging Face folders.

`load_tokenizer(folder)` reads `tokenizer.json` with the `tokenizers` library (20 ms) instead of transformers (seconds),
so that controllers and samplers stay light. Token ids equal those of transformers' AutoTokenizer on the same folder.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from k15.config.hf import FAMILIES
from k15.errors import DataError

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_char_tokenizer(folder: str | Path, alphabet: str) -> None:
    """Write a character-level tokenizer that AutoTokenizer and vLLM load: ids 0, 1, 2 are pad, bos, eos, then the
    characters in the order given. `<bos>` is put before every text; a character outside the alphabet encodes to nothing."""
    if len(set(alphabet)) != len(alphabet):
        raise DataError(f"The tokenizer's alphabet {alphabet!r} names a character twice.")
    # Byte-level BPE without a merge, NFC before it and no unknown token: whatever the model type, AutoTokenizer's own class for
    # it (Qwen2Tokenizer replaces all these parts of tokenizer.json by its own, for one) still gives the same ids.
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [byte_level.pre_tokenize_str(c)[0][0] for c in alphabet]  # a blank is spelled `Ġ`
    if any(len(s) != 1 for s in spelled):
        raise DataError(f"The tokenizer's alphabet {alphabet!r} must be ASCII: a character is one byte.")
    vocab = {token: i for i, token in enumerate((PAD, BOS, EOS, *spelled))}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 1)])
    tokenizer.add_special_tokens([PAD, BOS, EOS])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


class TextTokenizer:
    """What the loop needs of a tokenizer. `chat`: prompts go through the folder's chat template as one user message; `setting`
    is what errors name as the one that says so."""

    def __init__(
        self, tokenizer: Tokenizer, eos_id: int, pad_id: int, template: str | None, names: dict[str, str], chat: bool,
        setting: str = "model.chat",
    ):  # fmt: skip
        self._tokenizer = tokenizer
        self._template = template
        self._names = names  # bos_token and friends, as the template sees them
        self.has_template = template is not None
        self.chat = chat
        self._setting = setting
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, special tokens included, ready for sampling to begin after the last."""
        if self.chat:
            return self.encode_plain(self.render([{"role": "user", "content": text}]))
        return self._tokenizer.encode(text).ids

    def encode_response(self, text: str, end: bool = True) -> list[int]:
        """Token ids of a response text: no special tokens, except `eos` last where `end`."""
        ids = self.encode_plain(text)
        return [*ids, self.eos_id] if end else ids

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a piece of text: special tokens where it spells them, none added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def render(self, messages: Sequence[Mapping[str, str]], generate: bool = True) -> str:
        """Messages through the folder's chat template; `generate`: up to where the assistant's answer begins.

        Raises DataError where the template does not take them.
        """
        try:
            return self._compiled.render(messages=list(messages), add_generation_prompt=generate, tools=None, **self._names)
        except DataError:
            raise
        except Exception as e:  # a template is a third party's program, which may fail in any way
            said = f"{type(e).__name__}: {e}"
            raise DataError(
                f"The tokenizer's chat template does not render: {said}. Set {self._setting}=false or mend it."
            ) from e

    @cached_property
    def _compiled(self):
        """The chat template; compiling takes milliseconds, which would add up over the rows of a dataset."""
        # The settings transformers renders chat templates with: templates are third-party text, hence the sandbox.
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        assert self._template is not None, "chat was checked when the tokenizer was loaded"
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False, **kw)
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self._template)


def _refuse(message: str) -> None:
    raise DataError(f"The chat template refused the messages: {message}")


def _content(value: object) -> str | None:
    """A special token's text: tokenizer_config.json holds a string or a dict with `content`."""
    if isinstance(value, dict):
        return value.get("content")
    return value if isinstance(value, str) else None


def _chat_template(folder: Path, settings: dict) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return _text(file)
    template = settings.get("chat_template")
    if isinstance(template, list) and all(isinstance(t, dict) for t in template):
        # several named ones; "default" is the one for plain chat
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise DataError(
            f"{folder}/tokenizer_config.json has a chat_template of the type {type(template).__name__}; it must be a text, or a "
            'list of {"name": ..., "template": ...}. Mend it, or put the template into chat_template.jinja.'
        )
    return template


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not UTF-8 text ({e}); copy the file again.") from None


def _json_file(path: Path) -> dict:
    try:
        found = json.loads(_text(path))
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing. A Hugging Face folder with tokenizer.json and tokenizer_config.json is needed; "
            "save a fast tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        ) from None
    except json.JSONDecodeError as e:
        raise DataError(f"{path} is not JSON (line {e.lineno}: {e.msg}); copy the file again.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a JSON object but a {type(found).__name__}; copy the file again.")
    return found


def _tokenizer(path: Path) -> Tokenizer:
    _json_file(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as e:  # the library has no type of its own for this
        raise DataError(f"{path} is no tokenizer ({e}); copy the file again.") from e


def _check_embedding(folder: Path, tokenizer: Tokenizer) -> None:
    """Every token has a row in the model's embedding, where config.json is beside it. Raises DataError."""
    config = _json_file(folder / "config.json") if (folder / "config.json").is_file() else {}
    rows = config.get("vocab_size")
    if config.get("model_type") not in FAMILIES or not isinstance(rows, int):
        return  # a model of another layout, which is at most evaluated
    token, last = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1], default=("", -1))
    if last >= rows:
        raise DataError(
            f"{folder}: the tokenizer's token {token!r} has the id {last}, but vocab_size in config.json is {rows}: the model "
            f"has no embedding for ids from {rows} on. Give the model's own tokenizer, or enlarge the embedding "
            "(resize_token_embeddings of transformers) and save both."
        )


def _eos_id(folder: Path, settings: dict, tokenizer: Tokenizer) -> int:
    name = _content(settings.get("eos_token"))
    found = tokenizer.token_to_id(name) if name is not None else None
    if found is None:
        raise DataError(
            f"{folder}/tokenizer_config.json has eos_token {name!r}, which is not a token of tokenizer.json; "
            "responses could not end. Name the model's end token there."
        )
    return found


def load_tokenizer(folder: str | Path, chat: bool = False, setting: str = "model.chat") -> TextTokenizer:
    """The tokenizer of a Hugging Face folder; `setting` names `chat` in errors. Raises DataError naming the file and what it
    lacks."""
    folder = Path(folder)
    settings = _json_file(folder / "tokenizer_config.json")
    tokenizer = _tokenizer(folder / "tokenizer.json")
    _check_embedding(folder, tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    template = _chat_template(folder, settings)
    if chat and template is None:
        raise DataError(f"{setting} is true but {folder} has no chat template; set {setting}=false or add chat_template.jinja.")
    eos = _eos_id(folder, settings, tokenizer)
    pad_name = _content(settings.get("pad_token"))
    pad = tokenizer.token_to_id(pad_name) if pad_name is not None else None
    names = {key: text for key in ("bos_token", "eos_token", "pad_token", "unk_token") if (text := _content(settings.get(key)))}
    return TextTokenizer(tokenizer, eos, pad if pad is not None else eos, template, names, chat, setting)
