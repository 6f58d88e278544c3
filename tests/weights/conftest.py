"""Helpers: tiny random models and segments as a TP x PP trainer would write them."""

import json
from pathlib import Path

import pytest
import torch

from k15.weights import layout, segments

# Head size 32 is the least that vLLM's CPU attention has.
TINY = {"vocab_size": 97, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 4}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
_MLA = {"num_key_value_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
_MLA |= {"q_lora_rank": 24, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
_MLA |= {"moe_intermediate_size": 32, "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5}
_MLA |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
OF_FAMILY = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "mlp_only_layers": [1]},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": _MLA,
    "moonlight": _MLA | {"q_lora_rank": None, "n_group": 1},  # a DeepSeek-V3 by another name
}


@pytest.fixture(scope="session")
def make_model():
    """make_model(folder, family, seed, **sizes): save a random transformers model; returns (model, config.json)."""

    def make(folder: Path, family: str = "qwen2", seed: int = 0, **sizes):
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(seed)
        kind = "deepseek_v3" if family == "moonlight" else family
        config = AutoConfig.for_model(kind, **{**TINY, **OF_FAMILY.get(family, {}), **sizes})
        model = AutoModelForCausalLM.from_config(config)
        biases = [b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
        with torch.no_grad():
            for parameter in [*model.parameters(), *biases]:
                parameter.normal_(0.0, 0.15)  # norms and biases too: a swapped or stale one must show
        model.save_pretrained(folder)
        return model.float().eval(), json.loads((folder / "config.json").read_text())

    return make


@pytest.fixture(scope="session")
def write_version():
    """write_version(directory, config, read, version, tp, pp): segments of tp x pp ranks; returns their manifests."""

    def write(directory: Path, config, read, version: int, tp: int = 2, pp: int = 2, skip=lambda name, rank: False):
        padded = -(-config["vocab_size"] // (8 * tp)) * 8 * tp
        layers = config["num_hidden_layers"]

        def stage(name: str) -> int:
            if name.startswith("decoder.layers."):
                return int(name.split(".")[2]) * pp // layers
            return 0 if name.startswith("embedding.") else pp - 1

        manifests = []
        for rank in range(tp * pp):
            mine = [n for n in layout.megatron_names(config) if stage(n) == rank // tp and not skip(n, rank)]

            def slices(mine=mine, rank=rank % tp):
                for name in mine:
                    yield from layout.to_hf(config, name, layout.from_hf(config, name, read, rank, tp, padded), rank, tp)

            manifests.append(segments.write_segment(directory, version, rank, slices(), iteration=version, node="n0"))
        return manifests

    return write


@pytest.fixture
def random_weights():
    """random_weights(config, seed): every Hugging Face tensor of the model."""

    def make(config, seed: int = 0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        return {n: torch.randn(*s, generator=generator).to(dtype) for n, s in layout.hf_shapes(config).items()}

    return make
