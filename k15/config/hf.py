"""What rooms that may not import each other must read alike from a Hugging Face config.json. Torch-free."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k15.errors import ConfigError, DataError

CLASSIFIER = "ForSequenceClassification"
FAMILIES = ("deepseek_v3", "llama", "mixtral", "qwen2", "qwen3", "qwen3_moe")
"""`model_type`s that are trained and handed over. qwen2 is also Qwen2.5, deepseek_v3 also Moonlight."""

EXPORT_RECORD = "k15_export.json"
"""Beside an export's weights: after how many iterations (steps, in fine-tuning) they are. Nothing else reads it."""

_ROPE_THETA = {"mixtral": 1e6}  # transformers' default where it is not 10000
_EXPERT_KEYS = ("n_routed_experts", "num_experts", "num_local_experts")  # transformers writes any of them


def is_scalar(config: Mapping[str, Any]) -> bool:
    """Is the model a sequence classifier? Its head `score` [1, H] then stands in the place of the vocabulary's."""
    return any(str(name).endswith(CLASSIFIER) for name in config.get("architectures") or ())


def is_latent(config: Mapping[str, Any]) -> bool:
    """Does it attend through compressed keys and values (multi-head latent attention, DeepSeek-V2 report 2.1)?"""
    return config.get("model_type") == "deepseek_v3"


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of an attention head; of latent attention, of its queries and keys (the part without rotation first)."""
    if is_latent(config):
        return config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    found = config.get("head_dim")
    if found is not None:
        return found
    # The defaults of transformers.
    return 128 if config.get("model_type") == "qwen3" else config["hidden_size"] // config["num_attention_heads"]


def kv_heads(config: Mapping[str, Any]) -> int:
    """Key-value heads; as many as query heads where config.json does not say."""
    found = config.get("num_key_value_heads")
    return config["num_attention_heads"] if found is None else found


def expert_count(config: Mapping[str, Any]) -> int:
    """Routed experts of a sparse layer; 0 for a dense family."""
    if config["model_type"] not in ("deepseek_v3", "mixtral", "qwen3_moe"):
        return 0
    return next((config[key] for key in _EXPERT_KEYS if config.get(key) is not None), 0)


def expert_size(config: Mapping[str, Any]) -> int:
    """Intermediate size of one routed expert. Mixtral has no dense layers, and its only size is the experts'."""
    return config["intermediate_size" if config["model_type"] == "mixtral" else "moe_intermediate_size"]


def sparse_layers(config: Mapping[str, Any]) -> frozenset[int]:
    """Numbers of the layers that have experts."""
    layers = range(config["num_hidden_layers"])
    if not expert_count(config):
        return frozenset()
    if config["model_type"] == "deepseek_v3":
        return frozenset(layers[config.get("first_k_dense_replace", 3) :])
    if config["model_type"] == "mixtral":
        return frozenset(layers)
    dense, step = config.get("mlp_only_layers") or (), config.get("decoder_sparse_step", 1)
    return frozenset(n for n in layers if n not in dense and (n + 1) % step == 0)


def rope(config: Mapping[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """(base, kind and numbers) of the rotary embedding; the base is None where a family that is not ours does not say.

    transformers 5 writes both into `rope_parameters`. Before, `rope_theta` stood by itself, `rope_scaling` held the rest, and
    the kind was called `type`.
    """
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    older = found.pop("type", "default")
    found["rope_type"] = found.get("rope_type", older)
    base = found.pop("rope_theta", config.get("rope_theta"))
    if base is None and config.get("model_type") in FAMILIES:
        base = _ROPE_THETA.get(config["model_type"], 10000.0)
    return None if base is None else float(base), found


def spelled_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json in one spelling: transformers 5 writes keys that were left to their defaults, renames some, and empties
    those of a sliding window that is off. Files that say the same are equal here but for keys that hold nothing."""
    found = dict(config)
    found["rope_theta"], found["rope_parameters"] = rope(config)
    found.pop("rope_scaling", None)
    if set(config.get("layer_types") or ()) == {"full_attention"}:
        del found["layer_types"]
    if config.get("use_sliding_window") is False:
        for key in ("sliding_window", "max_window_layers"):
            found.pop(key, None)
    if config.get("model_type") in FAMILIES:
        found["head_dim"], found["num_key_value_heads"] = head_dim(config), kv_heads(config)
        for key in (*_EXPERT_KEYS, "qk_head_dim"):
            found.pop(key, None)
        found |= {"experts": expert_count(config), "pretraining_tp": config.get("pretraining_tp", 1)}
        found["rope_interleave"] = config.get("rope_interleave", True)
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: those that its index names, else all. Raises DataError where the index is none
    and where one of them, or any, is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
            files = sorted(folder / name for name in names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{index} is no index of weights (an object whose `weight_map` names the file of each tensor): {error!r}. "
                "Copy it again, or take it away where one file holds all tensors."
            ) from None
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [f.name for f in files if not f.is_file()]
    if missing or not files:
        more = f" (nor {len(missing) - 1} more that {index.name} names)" if missing[1:] else ""
        raise DataError(
            f"{folder} has no {missing[0] if missing else '*.safetensors file'}{more}; it is no complete Hugging Face folder. "
            "Copy or download it again."
        )
    return files


def hf_folder(setting: str, path: str) -> dict[str, Any]:
    """The config.json of a complete Hugging Face folder, which `setting` names. Raises ConfigError, DataError for others."""
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(
            f"{setting} is {path!r}, which is no folder on this machine. Give the folder that holds config.json "
            "and the safetensors files (a hub name must be downloaded first, e.g. with `hf download`)."
        )
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise ConfigError(f"{setting}={path} has no {needed}; it must be a complete Hugging Face folder.")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{setting}={path} has no *.safetensors file; convert the weights to safetensors first.")
    weight_files(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ConfigError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / 'config.json'} is not an object.")
    return config


def export_record(iteration: int) -> str:
    """What stands in EXPORT_RECORD."""
    return json.dumps({"iteration": iteration}) + "\n"


def exported_iteration(folder: Path) -> int | None:
    """The iteration whose weights an export holds; None where it does not say: no export, or one of a version that did not.
    Raises DataError where what it says is none."""
    path = folder / EXPORT_RECORD
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    iteration = found.get("iteration") if isinstance(found, dict) else None
    if isinstance(iteration, bool) or not isinstance(iteration, int):
        raise DataError(f'{path} is broken: it must be {{"iteration": N}}. Copy the export again, or remove that file.')
    return iteration


def fingerprint(folder: Path) -> str:
    """16 hex digits that change when the weights, the tokenizer or the chat template do: names, sizes and times of the files
    (their content is too long to read). Of a folder that was copied without its times they change too."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json", ".jinja"))
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
