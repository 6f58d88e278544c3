"""Sizes and switches of a model, read from its config.json for the layout tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k15.config import hf
from k15.errors import ConfigError, unknown_name

from .tables import FAMILIES, Rule

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Dims:
    """`size` maps the tables' symbols to numbers:

    V vocabulary, H hidden, Q query rows, K key rows, D head size, F dense, M expert and S shared experts' intermediate size,
    X experts; of latent attention QL and KL: ranks of the compressed query and key-value, KL+R with the rotated key, KV rows
    of keys (unrotated) and values, O columns of the output projection. `scalar`: one number a sequence, no vocabulary.
    """

    layers: int
    heads: int
    groups: int
    tied: bool
    size: dict[str, int]
    moe_layers: frozenset[int]
    scalar: bool

    def has(self, rule: Rule, layer: int) -> bool:
        """Does this model have the rule's parameter in `layer` (any number where the rule names none)?"""
        sparse = layer in self.moe_layers
        lora = "QL" in self.size
        return {
            "": True,
            "dense": not sparse,
            "moe": sparse,
            "scalar": self.scalar,
            "query_lora": lora,
            "query_plain": not lora,
        }[rule.only]


def read_dims(config: Config) -> Dims:
    """Raises ConfigError for a family or setting that no table covers."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise unknown_name("model_type", family, FAMILIES)
    if family != "qwen2" and config.get("attention_bias"):
        raise ConfigError(f"attention_bias is true, which the {family} layout has no rule for. Use a model without it.")
    if config.get("mlp_bias"):
        raise ConfigError("mlp_bias is true, which no layout has a rule for. Use a model without it.")
    heads, groups, head = config["num_attention_heads"], hf.kv_heads(config), hf.head_dim(config)
    size = {"V": config["vocab_size"], "H": config["hidden_size"], "F": config["intermediate_size"], "1": 1}
    size |= {"Q": heads * head, "K": groups * head, "D": head}
    moe_layers = hf.sparse_layers(config)
    if moe_layers:
        size |= {"M": hf.expert_size(config), "X": hf.expert_count(config)}
    if hf.is_latent(config):
        size |= _latent_sizes(config, heads)
    tied = bool(config.get("tie_word_embeddings", False))
    return Dims(config["num_hidden_layers"], heads, groups, tied, size, moe_layers, hf.is_scalar(config))


def _latent_sizes(config: Config, heads: int) -> dict[str, int]:
    rank, value = config["kv_lora_rank"], config["v_head_dim"]
    sizes = {"KL": rank, "KL+R": rank + config["qk_rope_head_dim"], "O": heads * value}
    sizes["KV"] = heads * (config["qk_nope_head_dim"] + value)
    sizes["S"] = config["moe_intermediate_size"] * config["n_shared_experts"]
    query = config.get("q_lora_rank")
    return sizes if query is None else sizes | {"QL": query}
