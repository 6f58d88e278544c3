"""One table a model family: which Hugging Face tensors each Megatron-core parameter (local layer spec) holds, and how.

Sizes are symbols (see `dims.Dims`). Megatron's layouts, for t tensor-parallel ranks, g key-value groups, q query heads a
group, d head size:
    qkv         [g/t * (q + 2) * d, H]   group after group: its q query heads, its key head, its value head
    gate_up     [2 * F/t, H]             the gate shard on the up shard
    rows        split on dim 0           columns   split on dim 1
    vocab       split on dim 0 of the PADDED vocabulary; padding rows exist in Megatron only
    replicated  on every rank: rank 0 alone exports it

On disk transformers 5 writes and loads per-expert names (it fuses experts in memory only), as vLLM does. The last `layers`
of a DeepSeek checkpoint that predict further tokens (num_nextn_predict_layers) are not trained and not handed over.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["vocab", "rows", "columns", "replicated", "qkv", "gate_up"]
Condition = Literal["", "dense", "moe", "scalar", "query_lora", "query_plain"]


@dataclass(frozen=True)
class Rule:
    """`megatron` <- `hf` names. {n}: layer, {e}: expert. `dims`: symbolic shape of each `hf` tensor (see `Dims`).

    `only`: the layers (dense, moe) or models (the others) that have it; "" is all.
    """

    megatron: str
    hf: tuple[str, ...]
    kind: Kind
    dims: tuple[tuple[str, ...], ...]
    only: Condition = ""


_L, _M = "decoder.layers.{n}.", "model.layers.{n}."
_SELF, _ATTN = _L + "self_attention.", _M + "self_attn."
_EXPERT = _L + "mlp.experts.local_experts.{e}."


def _one(megatron: str, hf: str, kind: Kind, *dims: str, only: Condition = "") -> Rule:
    return Rule(megatron, (hf,), kind, (dims,), only)


def _pair(megatron: str, gate: str, up: str, size: str, only: Condition) -> Rule:
    return Rule(megatron, (gate, up), "gate_up", ((size, "H"), (size, "H")), only)


_TRUNK = (
    _one("embedding.word_embeddings.weight", "model.embed_tokens.weight", "vocab", "V", "H"),
    _one(_L + "input_layernorm.weight", _M + "input_layernorm.weight", "replicated", "H"),
    _one(_L + "pre_mlp_layernorm.weight", _M + "post_attention_layernorm.weight", "replicated", "H"),
    _one("decoder.final_layernorm.weight", "model.norm.weight", "replicated", "H"),
    _one("output_layer.weight", "lm_head.weight", "vocab", "V", "H"),
    _one("score.weight", "score.weight", "replicated", "1", "H", only="scalar"),
)
_ATTENTION = (
    Rule(
        _SELF + "linear_qkv.weight",
        (_ATTN + "q_proj.weight", _ATTN + "k_proj.weight", _ATTN + "v_proj.weight"),
        "qkv",
        (("Q", "H"), ("K", "H"), ("K", "H")),
    ),
    _one(_SELF + "linear_proj.weight", _ATTN + "o_proj.weight", "columns", "H", "Q"),
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
    _one(_SELF + "q_layernorm.weight", _ATTN + "q_norm.weight", "replicated", "D"),
    _one(_SELF + "k_layernorm.weight", _ATTN + "k_norm.weight", "replicated", "D"),
)
# Down projections are on every rank, as in Megatron with Transformer Engine and in vLLM; up projections split by heads.
_LATENT = (
    _one(_SELF + "linear_q_proj.weight", _ATTN + "q_proj.weight", "rows", "Q", "H", only="query_plain"),
    _one(_SELF + "linear_q_down_proj.weight", _ATTN + "q_a_proj.weight", "replicated", "QL", "H", only="query_lora"),
    _one(_SELF + "q_layernorm.weight", _ATTN + "q_a_layernorm.weight", "replicated", "QL", only="query_lora"),
    _one(_SELF + "linear_q_up_proj.weight", _ATTN + "q_b_proj.weight", "rows", "Q", "QL", only="query_lora"),
    _one(_SELF + "linear_kv_down_proj.weight", _ATTN + "kv_a_proj_with_mqa.weight", "replicated", "KL+R", "H"),
    _one(_SELF + "kv_layernorm.weight", _ATTN + "kv_a_layernorm.weight", "replicated", "KL"),
    _one(_SELF + "linear_kv_up_proj.weight", _ATTN + "kv_b_proj.weight", "rows", "KV", "KL"),
    _one(_SELF + "linear_proj.weight", _ATTN + "o_proj.weight", "columns", "H", "O"),
)
_DENSE = (
    _pair(_L + "mlp.linear_fc1.weight", _M + "mlp.gate_proj.weight", _M + "mlp.up_proj.weight", "F", "dense"),
    _one(_L + "mlp.linear_fc2.weight", _M + "mlp.down_proj.weight", "columns", "H", "F", only="dense"),
)


def _experts(block: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """Router and routed experts of a sparse layer, under the family's names."""
    each = _M + block + ".experts.{e}."
    return (
        _one(_L + "mlp.router.weight", _M + block + ".gate.weight", "replicated", "X", "H", only="moe"),
        _pair(_EXPERT + "linear_fc1.weight", f"{each}{gate}.weight", f"{each}{up}.weight", "M", "moe"),
        _one(_EXPERT + "linear_fc2.weight", f"{each}{down}.weight", "columns", "H", "M", only="moe"),
    )


_MOE = _experts("mlp", "gate_proj", "up_proj", "down_proj")
_SHARED_L, _SHARED_M = _L + "mlp.shared_experts.", _M + "mlp.shared_experts."
_SHARED = (
    _pair(_SHARED_L + "linear_fc1.weight", _SHARED_M + "gate_proj.weight", _SHARED_M + "up_proj.weight", "S", "moe"),
    _one(_SHARED_L + "linear_fc2.weight", _SHARED_M + "down_proj.weight", "columns", "H", "S", only="moe"),
)
# A buffer of Megatron's router, in fp32 whatever the model's type is.
_ROUTER_BIAS = (_one(_L + "mlp.router.expert_bias", _M + "mlp.gate.e_score_correction_bias", "replicated", "X", only="moe"),)

FAMILIES: dict[str, tuple[Rule, ...]] = {
    "llama": _TRUNK + _ATTENTION + _DENSE,
    "qwen2": _TRUNK + _ATTENTION + _DENSE + _QKV_BIAS,
    "qwen3": _TRUNK + _ATTENTION + _DENSE + _QK_NORM,
    "qwen3_moe": _TRUNK + _ATTENTION + _DENSE + _MOE + _QK_NORM,
    "mixtral": _TRUNK + _ATTENTION + _experts("block_sparse_moe", "w1", "w3", "w2"),
    "deepseek_v3": _TRUNK + _LATENT + _DENSE + _MOE + _SHARED + _ROUTER_BIAS,
}
"""`model_type` of config.json -> its rules. A new family is a new row."""
