"""Names and shapes: Megatron-core parameters (local layer spec) <-> Hugging Face tensors, one table a family.

Names are GLOBAL: a pipeline or expert rank renumbers its layers and experts before it calls in here. A tensor is one
tensor-parallel shard; `to_hf` only re-labels and re-orders that shard, so that no rank ever needs a full tensor.
Expert parameters are split by the EXPERT tensor-parallel group: pass its rank and size where `is_expert` is true.

Megatron's layouts (t = tensor-parallel size, g = key-value groups, q = query heads a group, d = head size):
    linear_qkv   [g/t * (q + 2) * d, H]   group after group: its q query heads, its key head, its value head
    linear_fc1   [2 * F/t, H]             the gate shard on the up shard
    linear_proj, linear_fc2               split on dim 1
    embedding, output_layer               split on dim 0 of the PADDED vocabulary; padding rows exist in Megatron only
    norms, router                         replicated: rank 0 alone exports them

On disk transformers 5 writes and loads per-expert names for Qwen3-MoE (it fuses experts in memory only), as vLLM does.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from k15.config.hf import is_scalar
from k15.errors import ConfigError, WeightsError, unknown_name

Config = Mapping[str, Any]
Kind = Literal["vocab", "rows", "columns", "replicated", "qkv", "gate_up"]


@dataclass(frozen=True)
class Slice:
    """A box of one Hugging Face tensor: `tensor` lies at offset `starts` of the global `shape`."""

    name: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    tensor: torch.Tensor


@dataclass(frozen=True)
class Rule:
    """`megatron` <- `hf` names. {n}: layer, {e}: expert. `dims`: symbolic shape of each `hf` tensor (see `Dims`)."""

    megatron: str
    hf: tuple[str, ...]
    kind: Kind
    dims: tuple[tuple[str, ...], ...]
    only: Literal["all", "dense", "moe", "scalar"] = "all"


_L, _M = "decoder.layers.{n}.", "model.layers.{n}."
_EXPERT = "mlp.experts.local_experts.{e}."
_SELF, _ATTN = _L + "self_attention.", _M + "self_attn."
_QKV_DIMS = (("Q", "H"), ("K", "H"), ("K", "H"))

_TRUNK = (
    Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "vocab", (("V", "H"),)),
    Rule(_L + "input_layernorm.weight", (_M + "input_layernorm.weight",), "replicated", (("H",),)),
    Rule(
        _SELF + "linear_qkv.weight",
        (_ATTN + "q_proj.weight", _ATTN + "k_proj.weight", _ATTN + "v_proj.weight"),
        "qkv",
        _QKV_DIMS,
    ),
    Rule(_SELF + "linear_proj.weight", (_ATTN + "o_proj.weight",), "columns", (("H", "Q"),)),
    Rule(_L + "pre_mlp_layernorm.weight", (_M + "post_attention_layernorm.weight",), "replicated", (("H",),)),
    Rule("decoder.final_layernorm.weight", ("model.norm.weight",), "replicated", (("H",),)),
    Rule("output_layer.weight", ("lm_head.weight",), "vocab", (("V", "H"),)),
    Rule("score.weight", ("score.weight",), "replicated", (("1", "H"),), "scalar"),
)
_DENSE = (
    Rule(
        _L + "mlp.linear_fc1.weight",
        (_M + "mlp.gate_proj.weight", _M + "mlp.up_proj.weight"),
        "gate_up",
        (("F", "H"), ("F", "H")),
        "dense",
    ),
    Rule(_L + "mlp.linear_fc2.weight", (_M + "mlp.down_proj.weight",), "columns", (("H", "F"),), "dense"),
)
_MOE = (
    Rule(_L + "mlp.router.weight", (_M + "mlp.gate.weight",), "replicated", (("X", "H"),), "moe"),
    Rule(
        _L + _EXPERT + "linear_fc1.weight",
        (_M + "mlp.experts.{e}.gate_proj.weight", _M + "mlp.experts.{e}.up_proj.weight"),
        "gate_up",
        (("M", "H"), ("M", "H")),
        "moe",
    ),
    Rule(
        _L + _EXPERT + "linear_fc2.weight",
        (_M + "mlp.experts.{e}.down_proj.weight",),
        "columns",
        (("H", "M"),),
        "moe",
    ),
)
_QKV_BIAS = (
    Rule(
        _SELF + "linear_qkv.bias",
        (_ATTN + "q_proj.bias", _ATTN + "k_proj.bias", _ATTN + "v_proj.bias"),
        "qkv",
        (("Q",), ("K",), ("K",)),
    ),
)
_QK_NORM = (
    Rule(_SELF + "q_layernorm.weight", (_ATTN + "q_norm.weight",), "replicated", (("D",),)),
    Rule(_SELF + "k_layernorm.weight", (_ATTN + "k_norm.weight",), "replicated", (("D",),)),
)

FAMILIES: dict[str, tuple[Rule, ...]] = {
    "llama": _TRUNK + _DENSE,
    "qwen2": _TRUNK + _DENSE + _QKV_BIAS,
    "qwen3": _TRUNK + _DENSE + _QK_NORM,
    "qwen3_moe": _TRUNK + _DENSE + _MOE + _QK_NORM,
}
"""`model_type` of config.json -> its rules. A new family is a new row."""

_RULES = {family: {rule.megatron: rule for rule in rules} for family, rules in FAMILIES.items()}
_NUMBERS = re.compile(r"^decoder\.layers\.(\d+)\.|(?<=mlp\.experts\.local_experts\.)(\d+)\.")


@dataclass(frozen=True)
class Dims:
    """Sizes read from a config.json. `size` maps the table's symbols: V vocabulary, H hidden, Q query rows, K key rows,
    D head size, F dense and M expert intermediate size, X experts. `scalar`: one number a sequence, no vocabulary."""

    layers: int
    heads: int
    groups: int
    tied: bool
    size: dict[str, int]
    moe_layers: frozenset[int]
    scalar: bool = False


def _dims(config: Config) -> Dims:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise unknown_name("model_type", family, FAMILIES)
    if family != "qwen2" and config.get("attention_bias"):
        raise ConfigError(f"attention_bias is true, which the {family} layout has no rule for. Use a model without it.")
    if config.get("mlp_bias"):
        raise ConfigError("mlp_bias is true, which no layout has a rule for. Use a model without it.")
    layers, hidden, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
    groups, head_dim = config.get("num_key_value_heads"), config.get("head_dim")
    groups = heads if groups is None else groups
    if head_dim is None:
        head_dim = 128 if family == "qwen3" else hidden // heads  # the defaults of transformers
    experts = config.get("num_experts", config.get("num_local_experts"))  # transformers 5 writes num_local_experts
    sizes = {"V": config["vocab_size"], "H": hidden, "Q": heads * head_dim, "K": groups * head_dim, "D": head_dim, "1": 1}
    sizes["F"] = config["intermediate_size"]
    moe_layers: frozenset[int] = frozenset()
    if family == "qwen3_moe" and experts:
        sizes |= {"M": config["moe_intermediate_size"], "X": experts}
        dense, step = config.get("mlp_only_layers") or (), config.get("decoder_sparse_step", 1)
        moe_layers = frozenset(n for n in range(layers) if n not in dense and (n + 1) % step == 0)
    tied = bool(config.get("tie_word_embeddings", False))
    return Dims(layers, heads, groups, tied, sizes, moe_layers, is_scalar(config))


def is_expert(name: str) -> bool:
    """Is this Megatron parameter a routed expert's (split by the expert tensor-parallel group)?"""
    return ".mlp.experts.local_experts." in name


def _find(config: Config, dims: Dims, name: str) -> tuple[Rule, dict[str, int]]:
    """The rule for a global Megatron name and its layer and expert numbers."""
    keys = {"n": 0, "e": 0}

    def template(match: re.Match[str]) -> str:
        key = "n" if match[1] is not None else "e"
        keys[key] = int(match[1] if match[1] is not None else match[2])
        return match[0].replace(str(match[1] if match[1] is not None else match[2]), "{" + key + "}")

    rule = _RULES[config["model_type"]].get(_NUMBERS.sub(template, name))
    if rule is None:
        raise WeightsError(f"parameter {name!r} has no rule in the {config['model_type']} layout; add it to FAMILIES")
    sparse = keys["n"] in dims.moe_layers
    fits = {"all": True, "moe": sparse, "dense": not sparse, "scalar": dims.scalar}[rule.only]
    if keys["n"] >= dims.layers or keys["e"] >= dims.size.get("X", 1) or not fits:
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
    if rule.kind == "qkv":
        if dims.groups % tp_size or dims.heads % tp_size or dims.heads % dims.groups:
            raise ConfigError(
                f"tensor parallel size {tp_size} must divide {dims.heads} attention heads and {dims.groups} key-value "
                f"heads (key-value heads are not replicated). Use a size that divides {dims.groups}."
            )
    elif rule.kind in ("gate_up", "columns"):
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
    dims = _dims(config)
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
    parts = _qkv_parts(tensor, dims) if rule.kind == "qkv" else list(tensor.chunk(2))
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
    dims = _dims(config)
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
    dims = _dims(config)
    bound = []
    for rule in FAMILIES[config["model_type"]]:
        if rule.megatron == "output_layer.weight" and (dims.tied or dims.scalar):
            continue
        if rule.only == "scalar" and not dims.scalar:
            continue
        layers = range(dims.layers) if "{n}" in rule.megatron else range(1)
        if rule.only in ("dense", "moe"):
            layers = [n for n in layers if (n in dims.moe_layers) == (rule.only == "moe")]
        experts = range(dims.size["X"]) if "{e}" in rule.megatron and layers else range(1)
        bound += [(rule, dims, {"n": n, "e": e}) for n in layers for e in experts]
    return bound


def megatron_names(config: Config) -> list[str]:
    """Every global Megatron parameter name of the model (tied embeddings: without the output layer's copy)."""
    return [rule.megatron.format(**keys) for rule, _, keys in _every(config)]


def hf_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every Hugging Face tensor of the model and its global shape."""
    return {hf: shape for rule, dims, keys in _every(config) for hf, shape in _shapes(rule, dims, keys)}
