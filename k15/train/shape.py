"""What a Hugging Face config.json says about a model, checked. Torch-free.

Families: llama, qwen2 (also Qwen2.5), qwen3, qwen3_moe. A setting that the trainer would not honour is refused, never
ignored: a model that differs from the engine's in one detail trains on wrong log-probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k15.config.hf import is_scalar
from k15.config.schema import ParallelConfig
from k15.errors import ConfigError, unknown_name

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe")
ROPE_KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class ModelShape:
    """Sizes and switches of one decoder. `experts` 0: dense. `rope`: kind and numbers of the rotary embedding.
    `scalar`: a sequence classifier with one number as its output, in place of the vocabulary (a reward model)."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    rope_theta: float
    rope: Mapping[str, Any]
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    normalise_router: bool = False
    scalar: bool = False


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a config.json; ConfigError names the key, its value and what is supported."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise unknown_name("model_type of config.json", family, FAMILIES)
    _refuse(config, family)
    _require(config, family)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim")
    if head_dim is None:
        head_dim = 128 if family == "qwen3" else config["hidden_size"] // heads  # the defaults of transformers
    kv_heads = config.get("num_key_value_heads")
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    if rope["rope_type"] not in ROPE_KINDS:
        raise unknown_name("rope_type of config.json", rope["rope_type"], ROPE_KINDS)
    theta = rope.get("rope_theta", config.get("rope_theta"))
    moe = family == "qwen3_moe"
    return ModelShape(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=head_dim,
        vocab=config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        tied=bool(config.get("tie_word_embeddings", False)) and not is_scalar(config),
        qkv_bias=family == "qwen2",
        qk_norm=family in ("qwen3", "qwen3_moe"),
        rope_theta=10000.0 if theta is None else float(theta),
        rope=rope,
        experts=config.get("num_experts", config.get("num_local_experts")) if moe else 0,
        experts_per_token=config["num_experts_per_tok"] if moe else 0,
        expert_intermediate=config["moe_intermediate_size"] if moe else 0,
        normalise_router=bool(config.get("norm_topk_prob", False)),
        scalar=is_scalar(config),
    )


def _require(config: Mapping[str, Any], family: str) -> None:
    """Sizes that have no default."""
    needed = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"]
    if family == "qwen3_moe":
        needed += ["num_experts_per_tok", "moe_intermediate_size"]
        if config.get("num_experts") is None and config.get("num_local_experts") is None:
            needed.append("num_experts")
    for key in needed:
        value = config.get(key)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key} of config.json is {value!r}; a {family} model needs a positive whole number there.")


def _refuse(config: Mapping[str, Any], family: str) -> None:
    """Settings that change the forward pass in a way that is not built."""
    wrong = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": family != "qwen2" and bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "attention_dropout": bool(config.get("attention_dropout")),
        "mlp_only_layers": family == "qwen3_moe" and bool(config.get("mlp_only_layers")),
        "decoder_sparse_step": family == "qwen3_moe" and config.get("decoder_sparse_step", 1) != 1,
    }
    for key, refused in wrong.items():
        if refused:
            raise ConfigError(
                f"{key} of config.json is {config[key]!r}, which the trainer does not support for {family}. "
                "Supported: SiLU, no attention or MLP bias beyond Qwen2's, no sliding window, no dropout, "
                "every layer of a mixture-of-experts model sparse."
            )


def check_layout(shape: ModelShape, parallel: ParallelConfig, world: int) -> None:
    """ConfigError where the layout cannot hold the model on `world` ranks."""

    def need(ok: bool, message: str) -> None:
        if not ok:
            raise ConfigError(message)

    tp, pp, ep, cp = parallel.tensor, parallel.pipeline, parallel.expert, parallel.context
    for name, value in (("tensor", tp), ("pipeline", pp), ("expert", ep), ("context", cp)):
        need(value >= 1, f"parallel.{name} is {value}; it must be at least 1")
    need(
        world % (tp * pp * cp) == 0,
        f"{world} ranks do not divide by parallel.tensor x parallel.pipeline x parallel.context = {tp} x {pp} x {cp}",
    )
    for name, value in (("attention heads", shape.heads), ("key-value heads", shape.kv_heads)):
        need(
            value % (tp * cp) == 0,
            f"parallel.tensor x parallel.context is {tp} x {cp}; it must divide the model's {value} {name}",
        )
    need(
        shape.intermediate % tp == 0,
        f"parallel.tensor is {tp}; it must divide the model's intermediate_size {shape.intermediate}",
    )
    need(shape.layers % pp == 0, f"parallel.pipeline is {pp}; it must divide the model's {shape.layers} layers")
    need(not parallel.sequence_parallel or tp > 1, "parallel.sequence_parallel needs parallel.tensor > 1; switch it off")
    if shape.experts == 0:
        need(ep == 1, f"parallel.expert is {ep}, but {shape.family} has no experts; it must be 1")
        return
    need(shape.experts % ep == 0, f"parallel.expert is {ep}; it must divide the model's {shape.experts} experts")
    need(world % (pp * ep) == 0, f"{world} ranks do not divide by parallel.pipeline x parallel.expert = {pp} x {ep}")
    need(tp == 1 or parallel.sequence_parallel, "experts with parallel.tensor > 1 need parallel.sequence_parallel=true")
    need(
        shape.experts_per_token > 1 or not shape.normalise_router,
        "num_experts_per_tok 1 with norm_topk_prob makes every router weight 1, so that the router never learns",
    )
