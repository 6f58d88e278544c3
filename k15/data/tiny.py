"""The folder of the tiny model that k15 makes itself: a Qwen2 `config.json` and the arithmetic tokenizer, no weights.

The trainer initialises the weights and the warm-up teaches them; both sides read the shape from this folder, so the
tiny model takes the same path as a downloaded one.
"""

import json
from pathlib import Path

from k15.config.schema import TinyModelConfig
from k15.data.arithmetic import ALPHABET
from k15.data.tokenizer import load_tokenizer, write_char_tokenizer
from k15.errors import ConfigError
from k15.log.files import atomic_write


def _check(tiny: TinyModelConfig) -> None:
    if tiny.hidden_size % tiny.num_heads or tiny.hidden_size // tiny.num_heads % 2:
        raise ConfigError(
            f"model.tiny.hidden_size {tiny.hidden_size} must be an even multiple of model.tiny.num_heads "
            f"{tiny.num_heads} (rotary embeddings turn pairs of channels)."
        )
    if tiny.num_heads % tiny.num_kv_heads:
        raise ConfigError(
            f"model.tiny.num_heads {tiny.num_heads} must be a multiple of model.tiny.num_kv_heads {tiny.num_kv_heads}."
        )


def write_tiny_model(
    folder: str | Path, tiny: TinyModelConfig, max_context_tokens: int, dtype: str = "float32", alphabet: str = ALPHABET
) -> Path:
    """Write `config.json`, `generation_config.json` and the tokenizer files for `tiny` into `folder`; returns it. `config.json`
    comes last, so that a folder with one is whole, and none of another shape outlives the files beside it."""
    _check(tiny)
    folder = Path(folder)
    (folder / "config.json").unlink(missing_ok=True)
    write_char_tokenizer(folder, alphabet)
    tokenizer = load_tokenizer(folder)
    bos, vocab_size = 1, tokenizer.vocab_size
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocab_size,
        "hidden_size": tiny.hidden_size,
        "intermediate_size": tiny.intermediate_size,
        "num_hidden_layers": tiny.num_layers,
        "num_attention_heads": tiny.num_heads,
        "num_key_value_heads": tiny.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": tiny.rope_theta,
        "max_position_embeddings": max_context_tokens,
        "max_window_layers": tiny.num_layers,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": tiny.tie_embeddings,
        "initializer_range": tiny.init_std,
        "torch_dtype": dtype,
        "bos_token_id": bos,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
    atomic_write(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    return folder
