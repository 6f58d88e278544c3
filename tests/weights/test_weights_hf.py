"""Segments of a TP x PP trainer -> a Hugging Face folder that transformers loads, for every family."""

import itertools
import json

import pytest
import torch

from k15.config.hf import exported_iteration
from k15.errors import DataError, WeightsError
from k15.weights import layout
from k15.weights.hf import save_hf
from k15.weights.segments import read_segment


@pytest.mark.parametrize("family", [*sorted(layout.FAMILIES), "moonlight"])
@pytest.mark.parametrize("tied", [False, True])
def test_folder_gives_the_same_logits_in_transformers(family, tied, make_model, write_version, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model, config = make_model(tmp_path / "a", family, tie_word_embeddings=tied)
    saved = load_file(tmp_path / "a" / "model.safetensors")
    manifests = write_version(tmp_path, config, saved.__getitem__, 1)
    slices = itertools.chain.from_iterable(read_segment(tmp_path / m.file, m) for m in manifests)
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    target = tmp_path / "b"
    target.mkdir()
    (target / "stale").write_text("replaced")
    save_hf(target, config, tmp_path / "a", slices, iteration=7, shard_bytes=200_000)
    assert not (target / "stale").exists() and (target / "tokenizer.json").read_text() == "{}"
    assert exported_iteration(target) == 7
    assert len(list(target.glob("*.safetensors"))) > 1
    again, info = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(again.eval()(tokens).logits, model(tokens).logits)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_bf16_single_file_and_refusals(random_weights, tmp_path):
    from safetensors.torch import load_file

    config = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "torch_dtype": "float32"}
    hf = random_weights(config, dtype=torch.bfloat16)
    slices = [layout.Slice(n, tuple(t.shape), (0,) * t.ndim, t) for n, t in hf.items()]
    save_hf(tmp_path / "m", config, None, slices)
    assert exported_iteration(tmp_path / "m") is None
    loaded = load_file(tmp_path / "m" / "model.safetensors")
    assert loaded.keys() == hf.keys() and all(torch.equal(loaded[n], hf[n]) for n in hf)
    text = json.loads((tmp_path / "m" / "config.json").read_text())
    assert text["dtype"] == "bfloat16" and "torch_dtype" not in text
    with pytest.raises(WeightsError, match=r"lm_head\.weight is missing"):
        save_hf(tmp_path / "m", config, None, [s for s in slices if s.name != "lm_head.weight"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no tokenizer"):
        save_hf(tmp_path / "m", config, tmp_path / "empty", slices)
    assert (tmp_path / "m" / "model.safetensors").exists(), "a refused export leaves the old folder"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "m"]
