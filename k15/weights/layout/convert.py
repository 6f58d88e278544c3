"""Megatron-core parameters (local layer spec) <-> Hugging Face tensors, by the tables.

Names are GLOBAL: `global_name` renumbers the layers and experts of a pipeline or expert rank. A tensor is one
tensor-parallel shard; `to_hf` only re-labels and re-orders that shard, so that no rank ever needs a full tensor.
Expert parameters are split by the EXPERT tensor-parallel group: pass its rank and size where `is_expert` is true.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from k15.errors import ConfigError, WeightsError

from .dims import Config, Dims, read_dims
from .tables import FAMILIES, Rule

_RULES = {family: {rule.megatron: rule for rule in rules} for family, rules in FAMILIES.items()}
_NUMBERS = re.compile(r"^decoder\.layers\.(\d+)\.|(?<=mlp\.experts\.local_experts\.)(\d+)\.")


@dataclass(frozen=True)
class Slice:
    """A box of one Hugging Face tensor: `tensor` lies at offset `starts` of the global `shape`."""

    name: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    tensor: torch.Tensor


def is_expert(name: str) -> bool:
    """Is this Megatron parameter a routed expert's (split by the expert tensor-parallel group)?"""
    return ".mlp.experts.local_experts." in name


def global_name(name: str, first_layer: int, first_expert: int) -> str:
    """The name in the whole model of a parameter of a rank whose layers and experts start at these numbers."""

    def renumber(match: re.Match[str]) -> str:
        layer, expert = match[1], match[2]
        return f"decoder.layers.{int(layer) + first_layer}." if layer is not None else f"{int(expert) + first_expert}."

    return _NUMBERS.sub(renumber, name)


def _find(config: Config, dims: Dims, name: str) -> tuple[Rule, dict[str, int]]:
    """The rule for a global Megatron name and its layer and expert numbers."""
    keys = {"n": 0, "e": 0}

    def template(match: re.Match[str]) -> str:
        key = "n" if match[1] is not None else "e"
        keys[key] = int(match[1] if match[1] is not None else match[2])
        return match[0].replace(str(match[1] if match[1] is not None else match[2]), "{" + key + "}")

    rule = _RULES[config["model_type"]].get(_NUMBERS.sub(template, name))
    if rule is None:
        raise WeightsError(f"parameter {name!r} has no rule in the {config['model_type']} layout; add it to the tables")
    if keys["n"] >= dims.layers or keys["e"] >= dims.size.get("X", 1) or not dims.has(rule, keys["n"]):
        raise WeightsError(
            f"parameter {name!r} is not in this model: {dims.layers} layers, {dims.size.get('X', 0)} experts, "
            f"expert layers {sorted(dims.moe_layers)}. Are layer and expert numbers global?"
        )
    return rule, keys


def _shapes(rule: Rule, dims: Dims, keys: dict[str, int]) -> list[tuple[str, tuple[int, ...]]]:
    """Hugging Face (name, global shape) of every tensor that the rule joins."""
    return [(hf.format(**keys), tuple(dims.size[d] for d in symbols)) for hf, symbols in zip(rule.hf, rule.dims, strict=True)]


def _check_tp(rule: Rule, dims: Dims, tp_rank: int, tp_size: int) -> None:
    if not 0 <= tp_rank < tp_size:
        raise ConfigError(f"tensor-parallel rank {tp_rank} must be in 0..{tp_size - 1}")
    if rule.kind == "qkv" and (dims.groups % tp_size or dims.heads % tp_size or dims.heads % dims.groups):
        raise ConfigError(
            f"tensor parallel size {tp_size} must divide {dims.heads} attention heads and {dims.groups} key-value "
            f"heads (key-value heads are not replicated). Use a size that divides {dims.groups}."
        )
    if rule.kind == "rows" and dims.heads % tp_size:
        raise ConfigError(f"tensor parallel size {tp_size} must divide {dims.heads} attention heads ({rule.megatron}).")
    if rule.kind in ("gate_up", "columns"):
        split = dims.size[rule.dims[0][0 if rule.kind == "gate_up" else 1]]
        if split % tp_size:
            raise ConfigError(f"tensor parallel size {tp_size} must divide {split} ({rule.megatron}).")


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise WeightsError(f"{name} has shape {tuple(tensor.shape)}, but config.json implies {shape}")


def _qkv_parts(tensor: torch.Tensor, dims: Dims) -> list[torch.Tensor]:
    """[g/t * (q+2) * d, ...] -> this shard's q, k, v rows in Hugging Face order (heads in sequence)."""
    q, d = dims.heads // dims.groups, dims.size["D"]
    grouped = tensor.reshape(-1, q + 2, d, *tensor.shape[1:])
    return [part.reshape(-1, *tensor.shape[1:]) for part in (grouped[:, :q], grouped[:, q], grouped[:, q + 1])]


def _qkv_join(q_k_v: list[torch.Tensor], dims: Dims) -> torch.Tensor:
    """The inverse of `_qkv_parts`."""
    d, tail = dims.size["D"], q_k_v[0].shape[1:]
    groups = q_k_v[1].shape[0] // d
    grouped = [part.reshape(groups, -1, d, *tail) for part in q_k_v]
    return torch.cat(grouped, dim=1).reshape(-1, *tail)


def to_hf(config: Config, name: str, tensor: torch.Tensor, tp_rank: int, tp_size: int) -> list[Slice]:
    """The Hugging Face slices that a rank's shard of the parameter `name` holds.

    Empty for what another rank exports (replicated parameters on ranks > 0), for a shard that is vocabulary padding
    only, and for the output layer of a model with tied embeddings. Slices may share memory with `tensor`.
    Raises ConfigError for a layout that cannot be, WeightsError for an unknown name or a shape that does not fit.
    """
    dims = read_dims(config)
    rule, keys = _find(config, dims, name)
    _check_tp(rule, dims, tp_rank, tp_size)
    if name == "output_layer.weight" and dims.tied:
        return []
    shapes = _shapes(rule, dims, keys)
    first_name, first = shapes[0]
    if rule.kind == "replicated":
        _check_shape(name, tensor, first)
        return [Slice(first_name, first, (0,) * len(first), tensor)] if tp_rank == 0 else []
    if rule.kind == "vocab":
        start = tp_rank * tensor.shape[0]
        if tensor.shape[0] * tp_size < first[0] or tuple(tensor.shape[1:]) != first[1:]:
            raise WeightsError(f"{name} has shape {tuple(tensor.shape)} x {tp_size} shards, too small for {first}")
        rows = min(first[0] - start, tensor.shape[0])
        return [Slice(first_name, first, (start, 0), tensor[:rows])] if rows > 0 else []
    if rule.kind == "columns":
        width = first[1] // tp_size
        _check_shape(name, tensor, (first[0], width))
        return [Slice(first_name, first, (0, tp_rank * width), tensor)]
    rows = [shape[0] // tp_size for _, shape in shapes]
    _check_shape(name, tensor, (sum(rows), *first[1:]))
    parts = _qkv_parts(tensor, dims) if rule.kind == "qkv" else list(tensor.chunk(len(shapes)))
    return [
        Slice(hf, shape, (tp_rank * part.shape[0],) + (0,) * (len(shape) - 1), part)
        for (hf, shape), part in zip(shapes, parts, strict=True)
    ]


def from_hf(
    config: Config, name: str, read: Callable[[str], torch.Tensor], tp_rank: int, tp_size: int, padded_vocab: int
) -> torch.Tensor:
    """A rank's shard of the Megatron parameter `name`; `read` returns a full Hugging Face tensor.

    `padded_vocab`: Megatron's vocabulary size, a multiple of `tp_size`; the padding rows are zero. With tied embeddings
    the output layer (Megatron keeps a copy on the last pipeline stage) reads the embedding. Raises as `to_hf` does.
    """
    dims = read_dims(config)
    rule, keys = _find(config, dims, name)
    _check_tp(rule, dims, tp_rank, tp_size)
    shapes = _shapes(rule, dims, keys)
    if name == "output_layer.weight" and dims.tied:
        shapes = [("model.embed_tokens.weight", shapes[0][1])]
    full = []
    for hf, shape in shapes:
        full.append(read(hf))
        _check_shape(hf, full[-1], shape)
    if rule.kind == "replicated":
        return full[0].clone()
    if rule.kind == "columns":
        return full[0].chunk(tp_size, dim=1)[tp_rank].clone(memory_format=torch.contiguous_format)
    if rule.kind == "vocab":
        if padded_vocab < dims.size["V"] or padded_vocab % tp_size:
            raise ConfigError(f"padded_vocab {padded_vocab} must be >= {dims.size['V']} and divide by {tp_size}")
        rows = padded_vocab // tp_size
        shard = full[0].new_zeros(rows, *full[0].shape[1:])
        mine = full[0][tp_rank * rows : (tp_rank + 1) * rows]
        shard[: mine.shape[0]] = mine
        return shard
    parts = [tensor.chunk(tp_size)[tp_rank] for tensor in full]
    return _qkv_join(parts, dims) if rule.kind == "qkv" else torch.cat(parts)


def _every(config: Config) -> list[tuple[Rule, Dims, dict[str, int]]]:
    """All rules of the model, bound to all their layers and experts."""
    dims = read_dims(config)
    bound = []
    for rule in FAMILIES[config["model_type"]]:
        if rule.megatron == "output_layer.weight" and (dims.tied or dims.scalar):
            continue
        layers = [n for n in range(dims.layers if "{n}" in rule.megatron else 1) if dims.has(rule, n)]
        experts = range(dims.size["X"]) if "{e}" in rule.megatron and layers else range(1)
        bound += [(rule, dims, {"n": n, "e": e}) for n in layers for e in experts]
    return bound


def megatron_names(config: Config) -> list[str]:
    """Every global Megatron parameter name of the model (tied embeddings: without the output layer's copy)."""
    return [rule.megatron.format(**keys) for rule, _, keys in _every(config)]


def hf_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every Hugging Face tensor of the model and its global shape."""
    return {hf: shape for rule, dims, keys in _every(config) for hf, shape in _shapes(rule, dims, keys)}
