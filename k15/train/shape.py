"""What a Hugging Face config.json says about a model, checked. Torch-free.

Families: those of `k15.config.hf`. A setting that the trainer would not honour is refused, never ignored: a model that
differs from the engine's in one detail trains on wrong log-probabilities.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k15.config import hf
from k15.config.schema import ParallelConfig
from k15.errors import ConfigError, unknown_name

ROPE_KINDS = ("default", "linear", "llama3")
LATENT_ROPE_KINDS = ("default", "yarn")
_NORM_EPS = {"mixtral": 1e-5}  # transformers' default where it is not the usual one


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: ranks of the compressed query (None: not compressed) and key-value, and the sizes of a
    head's unrotated and rotated query and key, and of its value."""

    query_rank: int | None
    kv_rank: int
    plain: int
    rotated: int
    value: int


@dataclass(frozen=True)
class Router:
    """How a token's experts are chosen. `normalise`: their weights sum to 1. `sigmoid`: scores are sigmoids, choice is by
    score + bias, in the best `groups_chosen` of `groups` groups (groups 0: anywhere), and weights are times `scale`."""

    normalise: bool
    sigmoid: bool = False
    groups: int = 0
    groups_chosen: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class ModelShape:
    """Sizes and switches of one decoder. `experts` 0: dense; `sparse`: the layers that have them. `rope`: kind and numbers
    of the rotary embedding. `softmax_scale` None: head_dim ** -0.5. `scalar`: a sequence classifier with one number as its
    output, in place of the vocabulary (a reward model)."""

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
    experts: int
    experts_per_token: int
    expert_intermediate: int
    shared_intermediate: int
    sparse: frozenset[int]
    router: Router
    latent: Latent | None
    softmax_scale: float | None
    scalar: bool

    @property
    def rotary_dim(self) -> int:
        """Entries of a head that are rotated."""
        return self.head_dim if self.latent is None else self.latent.rotated


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a config.json; ConfigError names the key, its value and what is supported."""
    family = config.get("model_type")
    if family not in hf.FAMILIES:
        raise unknown_name("model_type of config.json", family, hf.FAMILIES)
    _refuse(config, family)
    _require(config, family)
    theta, rope = _rope(config, family)
    sparse, latent = hf.sparse_layers(config), _latent(config)
    shared = config["moe_intermediate_size"] * config["n_shared_experts"] if latent is not None and sparse else 0
    return ModelShape(
        family=family,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=hf.kv_heads(config),
        head_dim=hf.head_dim(config),
        vocab=config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", _NORM_EPS.get(family, 1e-6)),
        tied=bool(config.get("tie_word_embeddings", False)) and not hf.is_scalar(config),
        qkv_bias=family == "qwen2",
        qk_norm=family in ("qwen3", "qwen3_moe"),
        rope_theta=theta,
        rope=rope,
        experts=hf.expert_count(config) if sparse else 0,
        experts_per_token=config["num_experts_per_tok"] if sparse else 0,
        expert_intermediate=hf.expert_size(config) if sparse else 0,
        shared_intermediate=shared,
        sparse=sparse,
        router=_router(config, family),
        latent=latent,
        softmax_scale=None if latent is None else _softmax_scale(hf.head_dim(config), rope),
        scalar=hf.is_scalar(config),
    )


def _rope(config: Mapping[str, Any], family: str) -> tuple[float, dict[str, Any]]:
    theta, rope = hf.rope(config)
    assert theta is not None, "one of our families"
    kinds = LATENT_ROPE_KINDS if hf.is_latent(config) else ROPE_KINDS
    if rope["rope_type"] not in kinds:
        raise unknown_name(f"rope_type of config.json, a {family} model,", rope["rope_type"], kinds)
    if rope["rope_type"] == "yarn":
        missing = [key for key in ("factor", "original_max_position_embeddings") if not rope.get(key)]
        if missing:
            raise ConfigError(
                f"the yarn rotary embedding of config.json has no {missing[0]}; give it as the checkpoint's authors do"
            )
    return theta, rope


def yarn_mscale(factor: float, mscale: float) -> float:
    """How yarn scales attention for a context `factor` times as long (its paper, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _softmax_scale(head_dim: int, rope: Mapping[str, Any]) -> float:
    """DeepSeek puts yarn's scale into the softmax where `mscale_all_dim` asks for it."""
    every = rope.get("mscale_all_dim", 0) if rope["rope_type"] == "yarn" else 0
    return head_dim**-0.5 * (yarn_mscale(rope["factor"], every) ** 2 if every else 1.0)


def _latent(config: Mapping[str, Any]) -> Latent | None:
    if not hf.is_latent(config):
        return None
    return Latent(
        query_rank=config.get("q_lora_rank"),
        kv_rank=config["kv_lora_rank"],
        plain=config["qk_nope_head_dim"],
        rotated=config["qk_rope_head_dim"],
        value=config["v_head_dim"],
    )


def _router(config: Mapping[str, Any], family: str) -> Router:
    if family != "deepseek_v3":
        return Router(normalise=family == "mixtral" or bool(config.get("norm_topk_prob", False)))
    groups, chosen = config["n_group"], config["topk_group"]
    limited = groups > chosen
    scale = float(config["routed_scaling_factor"])
    return Router(True, sigmoid=True, groups=groups if limited else 0, groups_chosen=chosen if limited else 0, scale=scale)


def _require(config: Mapping[str, Any], family: str) -> None:
    """Sizes that have no default."""
    needed = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"]
    if family in ("qwen3_moe", "mixtral", "deepseek_v3"):
        needed += ["num_experts_per_tok"]
        if not hf.expert_count(config):
            needed.append({"qwen3_moe": "num_experts", "mixtral": "num_local_experts"}.get(family, "n_routed_experts"))
    if family in ("qwen3_moe", "deepseek_v3"):
        needed += ["moe_intermediate_size"]
    if family == "deepseek_v3":
        needed += [
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "n_shared_experts",
            "n_group",
            "topk_group",
        ]
    for key in needed:
        value = config.get(key)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key} of config.json is {value!r}; a {family} model needs a positive whole number there.")


def _refuse(config: Mapping[str, Any], family: str) -> None:
    """Settings that change the forward pass in a way that is not built."""
    if config.get("quantization_config") is not None:
        method = dict(config["quantization_config"]).get("quant_method")
        raise ConfigError(
            f"quantization_config of config.json says that the weights are quantised ({method}), and training needs them "
            "plain. Convert the folder to bfloat16 (its authors publish a script, as for DeepSeek-V3) and remove the key."
        )
    wrong = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": family != "qwen2" and bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "sliding_window": family == "mixtral" and config.get("sliding_window") is not None,
        "attention_dropout": bool(config.get("attention_dropout")),
    }
    for key, refused in wrong.items():
        if refused:
            raise ConfigError(
                f"{key} of config.json is {config[key]!r}, which the trainer does not support for {family}. "
                "Supported: SiLU, no attention or MLP bias beyond Qwen2's, no sliding window, no dropout."
            )
    if family == "deepseek_v3":
        _refuse_deepseek(config)


def _refuse_deepseek(config: Mapping[str, Any]) -> None:
    """What Megatron's router and vLLM's attention do in one way only. The router's keys must be there: transformers takes
    them for granted and does not write them, but vLLM reads a file without them as another router."""
    heads, groups = config.get("num_attention_heads"), config.get("n_group") or 1
    chosen, experts = config.get("topk_group") or 1, hf.expert_count(config)
    rules = {
        "scoring_func": (config.get("scoring_func") == "sigmoid", "sigmoid"),
        "topk_method": (config.get("topk_method") == "noaux_tc", "noaux_tc"),
        "norm_topk_prob": (config.get("norm_topk_prob", True) is True, "true"),
        "moe_layer_freq": (config.get("moe_layer_freq", 1) == 1, "1"),
        "rope_interleave": (config.get("rope_interleave", True) is True, "true"),
        "num_key_value_heads": (config.get("num_key_value_heads", heads) == heads, f"num_attention_heads, {heads}"),
        "num_experts_per_tok": (config.get("num_experts_per_tok", 0) > 1, "more than 1"),
        "routed_scaling_factor": (isinstance(config.get("routed_scaling_factor"), int | float), "a number"),
        "n_group": (groups <= chosen or experts % groups == 0, f"a divisor of the {experts} experts"),
        "topk_group": (
            groups <= chosen or config.get("num_experts_per_tok", 0) // chosen == 2,
            "half of num_experts_per_tok: a group is ranked by its best two experts",
        ),
    }
    for key, (right, supported) in rules.items():
        if not right:
            raise ConfigError(
                f"{key} of config.json is {config.get(key)!r}, which the trainer does not support for deepseek_v3. "
                f"Supported: {supported}."
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
    dense = shape.intermediate if len(shape.sparse) < shape.layers else 0
    for name, value in (("intermediate_size", dense), ("shared experts' size", shape.shared_intermediate)):
        need(value % tp == 0, f"parallel.tensor is {tp}; it must divide the model's {name} {value}")
    need(shape.layers % pp == 0, f"parallel.pipeline is {pp}; it must divide the model's {shape.layers} layers")
    need(not parallel.sequence_parallel or tp > 1, "parallel.sequence_parallel needs parallel.tensor > 1; switch it off")
    if shape.experts == 0:
        need(ep == 1, f"parallel.expert is {ep}, but {shape.family} has no experts; it must be 1")
        return
    need(shape.experts % ep == 0, f"parallel.expert is {ep}; it must divide the model's {shape.experts} experts")
    need(world % (pp * ep) == 0, f"{world} ranks do not divide by parallel.pipeline x parallel.expert = {pp} x {ep}")
    need(tp == 1 or parallel.sequence_parallel, "experts with parallel.tensor > 1 need parallel.sequence_parallel=true")
    need(
        shape.experts_per_token > 1 or not shape.router.normalise,
        "num_experts_per_tok 1 with norm_topk_prob makes every router weight 1, so that the router never learns",
    )
