"""Hugging Face -> tensor-parallel shards -> slices -> Hugging Face, bitwise; query-key-value order by an oracle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError, WeightsError
from k15.weights import layout

TP = (1, 2, 4)
MLA = {"num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6}
MLA |= {"v_head_dim": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
MLA |= {"moe_intermediate_size": 10, "first_k_dense_replace": 1, "n_shared_experts": 2}
OF_FAMILY = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "mlp_only_layers": [0]},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": MLA,
    "moonlight": MLA | {"q_lora_rank": None, "n_group": 1},
}


@st.composite
def configs(draw):
    """A config.json of any family whose heads and sizes divide by 4."""
    family = draw(st.sampled_from(sorted(layout.FAMILIES)))
    groups = 4 * draw(st.integers(1, 2))
    config = {
        "model_type": family,
        "vocab_size": draw(st.integers(5, 40)),
        "hidden_size": groups * 4,
        "intermediate_size": 4 * draw(st.integers(1, 4)),
        "num_hidden_layers": draw(st.sampled_from([1, 2, 3, 4, 6])),
        "num_attention_heads": groups * draw(st.integers(1, 3)),
        "num_key_value_heads": groups,
        "head_dim": draw(st.integers(1, 5)),
        "tie_word_embeddings": draw(st.booleans()),
    }
    if family == "qwen3_moe":
        experts = draw(st.sampled_from(["num_experts", "num_local_experts"]))
        config |= {experts: 4, "moe_intermediate_size": 8, "decoder_sparse_step": draw(st.integers(1, 2))}
        config["mlp_only_layers"] = draw(st.sampled_from([[], [0]]))
    if family == "mixtral":
        config["num_local_experts"] = 4
    if family == "deepseek_v3":
        config |= {"n_routed_experts": 4, "moe_intermediate_size": 8, "n_shared_experts": draw(st.integers(1, 2))}
        config |= {"first_k_dense_replace": draw(st.integers(0, 2)), "q_lora_rank": draw(st.sampled_from([None, 5]))}
        config |= {key: draw(st.integers(1, 4)) for key in ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim")}
        config |= {"qk_rope_head_dim": 2 * draw(st.integers(1, 2)), "num_key_value_heads": config["num_attention_heads"]}
    return config


def weights(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, generator=generator) for name, shape in layout.hf_shapes(config).items()}


def assemble(config, slices):
    """Full tensors from slices; every element must be covered exactly once."""
    full = {name: torch.full(shape, math.nan) for name, shape in layout.hf_shapes(config).items()}
    for piece in slices:
        box = tuple(slice(a, a + n) for a, n in zip(piece.starts, piece.tensor.shape, strict=True))
        target = full[piece.name][box]
        assert target.shape == piece.tensor.shape, f"{piece.name} runs out of its tensor"
        assert torch.isnan(target).all(), f"{piece.name} is covered twice"
        target.copy_(piece.tensor)
    return full


def ranks_of(config, pp, ep):
    """{(stage, expert rank): [global name]}: the parameters of each rank, named as its own Megatron modules name them."""
    layers = config["num_hidden_layers"] // pp
    experts = layout.read_dims(config).size.get("X", ep) // ep
    held = {(p, e): [] for p in range(pp) for e in range(ep)}
    for name in layout.megatron_names(config):
        words = name.split(".")
        layer = int(words[2]) if name.startswith("decoder.layers.") else None
        expert = int(words[6]) if layout.is_expert(name) else None
        stage = layer // layers if layer is not None else 0 if name.startswith("embedding.") else pp - 1
        if layer is not None:
            words[2] = str(layer % layers)
        if expert is not None:
            words[6] = str(expert % experts)
        for rank in range(ep) if expert is None else [expert // experts]:
            held[stage, rank].append(layout.global_name(".".join(words), stage * layers, rank * experts))
    return held


@settings(max_examples=80, deadline=None)
@given(config=configs(), tp=st.sampled_from(TP), etp=st.sampled_from((1, 2)), padding=st.integers(0, 3), data=st.data())
def test_round_trip_is_bitwise_and_covers_everything_once(config, tp, etp, padding, data):
    """HF -> the shards of TP x PP x EP ranks (experts with a tensor-parallel size of their own) -> HF."""
    pp = data.draw(st.sampled_from([n for n in (1, 2, 3) if config["num_hidden_layers"] % n == 0]))
    ep = data.draw(st.sampled_from((1, 2, 4)))
    hf = weights(config)
    padded = (math.ceil(config["vocab_size"] / tp) + padding) * tp
    slices = []
    for (_, expert_rank), names in ranks_of(config, pp, ep).items():
        for name in names:
            size = etp if layout.is_expert(name) else tp
            for rank in range(size):
                shard = layout.from_hf(config, name, hf.__getitem__, rank, size, padded)
                for piece in layout.to_hf(config, name, shard, rank, size):
                    assert piece.tensor.numel() > 0
                    if expert_rank == 0 or layout.is_expert(name):  # other expert ranks hold copies of the rest
                        slices.append(piece)
                if name == "embedding.word_embeddings.weight":
                    assert shard.shape[0] == padded // tp
                    first = max(0, config["vocab_size"] - rank * shard.shape[0])
                    assert not shard[first:].any(), "padding rows must be zero"
    for name, tensor in assemble(config, slices).items():
        assert torch.equal(tensor, hf[name]), name


@pytest.mark.parametrize("tp", TP)
@pytest.mark.parametrize("bias", [False, True])
def test_qkv_rows_follow_megatron_order(tp, bias):
    """Oracle: each row names its (projection, head, row); walk the groups in Megatron's documented order."""
    heads, groups, d = 8, 4, 3
    config = {"model_type": "qwen2", "vocab_size": 8, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 2}
    config |= {"num_attention_heads": heads, "num_key_value_heads": groups}
    code = {"q": 0, "k": 1000, "v": 2000}

    def read(name):
        kind = name.split(".")[4][0]
        count = heads if kind == "q" else groups
        rows = torch.tensor([float(code[kind] + head * 10 + r) for head in range(count) for r in range(d)])
        return rows if bias else rows[:, None].repeat(1, 24)

    expected = []
    for g in range(groups):
        expected += [h * 10 + r for h in range(g * 2, g * 2 + 2) for r in range(d)]
        expected += [1000 + g * 10 + r for r in range(d)] + [2000 + g * 10 + r for r in range(d)]
    name = f"decoder.layers.1.self_attention.linear_qkv.{'bias' if bias else 'weight'}"
    shards = [layout.from_hf(config, name, read, rank, tp, 8) for rank in range(tp)]
    rows = torch.cat(shards) if bias else torch.cat(shards)[:, 0]
    assert rows.tolist() == [float(v) for v in expected]


@pytest.mark.parametrize("family", [*sorted(layout.FAMILIES), "moonlight"])
@pytest.mark.parametrize("tied", [False, True])
def test_names_are_those_that_transformers_writes(family, tied, tmp_path):
    """hf_shapes equals the file that transformers saves, name by name and shape by shape."""
    import json

    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 33, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied} | OF_FAMILY.get(family, {})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.replace("moonlight", "deepseek_v3"), **sizes))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        written = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert layout.hf_shapes(config) == written


def test_tied_output_layer_reads_the_embedding_and_exports_nothing():
    config = {"model_type": "qwen2", "vocab_size": 6, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    hf = weights(config)
    shard = layout.from_hf(config, "output_layer.weight", hf.__getitem__, 1, 2, 8)
    assert torch.equal(shard[:2], hf["model.embed_tokens.weight"][4:])
    assert layout.to_hf(config, "output_layer.weight", shard, 1, 2) == []
    assert "lm_head.weight" not in layout.hf_shapes(config)


def test_errors_name_the_rule_and_the_remedy():
    config = {"model_type": "llama", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    qkv = "decoder.layers.0.self_attention.linear_qkv.weight"
    with pytest.raises(ConfigError, match="key-value heads are not replicated"):
        layout.to_hf(config, qkv, torch.zeros(8, 16), 0, 4)
    with pytest.raises(ConfigError, match="Did you mean 'llama'"):
        layout.hf_shapes(config | {"model_type": "lama"})
    with pytest.raises(WeightsError, match=r"config\.json implies"):
        layout.to_hf(config, qkv, torch.zeros(8, 16), 0, 1)
    with pytest.raises(WeightsError, match="not in this model"):
        layout.to_hf(config, "decoder.layers.2.input_layernorm.weight", torch.zeros(16), 0, 1)
    with pytest.raises(WeightsError, match="no rule"):
        layout.to_hf(config, "decoder.layers.0.mlp.linear_fc3.weight", torch.zeros(16), 0, 1)
