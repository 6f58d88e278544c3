"""Rules that depend on the model's family: experts by any of their keys, latent attention on CPU engines."""

import json

import pytest

from k15.config.check import check
from k15.config.compose import compose_run
from k15.errors import ConfigError

COMMON = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 32}
COMMON |= {"max_position_embeddings": 256}
MIXTRAL = COMMON | {"model_type": "mixtral", "num_local_experts": 4}
DEEPSEEK = COMMON | {"model_type": "deepseek_v3", "n_routed_experts": 4, "first_k_dense_replace": 1}
DEEPSEEK |= {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 16, "v_head_dim": 16}


@pytest.fixture
def checked(tmp_path):
    """checked(config.json, words): compose and check a run on one node."""

    def run(config: dict, *words: str):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / "model.safetensors").write_text("")
        return check(compose_run([f"model.path={tmp_path}", "cluster.device=cpu", *words]))

    return run


@pytest.mark.parametrize("config", [MIXTRAL, DEEPSEEK])
def test_experts_are_found_under_every_key(config, checked):
    words = ["parallel.ranks_per_node=4", "rollout.block_size=16"]
    assert checked(config, *words, "parallel.expert=4")["model_type"] == config["model_type"]
    with pytest.raises(ConfigError, match=r"parallel\.expert=3 must divide the model's 4 experts"):
        checked(config, *words, "parallel.expert=3")


def test_latent_attention_on_cpu_engines(checked):
    with pytest.raises(ConfigError, match=r"rollout\.block_size=32.*Give rollout\.block_size=16"):
        checked(DEEPSEEK)
    with pytest.raises(ConfigError, match=r"kv_lora_rank .* is 32.*512 only.*cluster\.device=cuda"):
        checked(DEEPSEEK | {"kv_lora_rank": 32}, "rollout.block_size=16")
    # 2 layers of 576 numbers a token: one latent, not two times the heads.
    needed = 2 * 576 * 4 * 192
    checked(DEEPSEEK, "rollout.block_size=16", f"rollout.kv_cache_bytes={needed}")
    with pytest.raises(ConfigError, match=f"{needed} bytes"):
        checked(DEEPSEEK, "rollout.block_size=16", f"rollout.kv_cache_bytes={needed - 1}")
