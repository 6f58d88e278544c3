"""Merged folders: exact averages whatever the sharding, memory that does not grow with the model, differences named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from k15.config.hf import EXPORT_RECORD, export_record
from k15.config.schema import TinyModelConfig
from k15.data.tiny import write_tiny_model
from k15.errors import ConfigError, DataError
from k15.long2short import merge as module
from k15.long2short.merge import merge
from k15.long2short.tensors import read_header

SHAPES = {"a.weight": (37, 11), "b.weight": (5,), "c.weight": (64, 33), "position_ids": (7,), "scale": ()}


def tensors(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    return made | {"position_ids": torch.arange(7)}


def folder(path: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> Path:
    """A Hugging Face folder with these weights in so many files."""
    write_tiny_model(path, TinyModelConfig(), 192)
    names = list(weights)
    files = {f"model-{i + 1:05d}-of-{shards:05d}.safetensors": names[i::shards] for i in range(shards)}
    files = files if shards > 1 else {"model.safetensors": names}
    for file, part in files.items():
        save_file({n: weights[n] for n in part}, path / file, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {}, "weight_map": {n: f for f, part in files.items() for n in part}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def loaded(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {n: opened.get_tensor(n) for n in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("shards", [(1, 3), (3, 1)])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
def test_the_average_is_exact_over_shards_and_pieces(tmp_path, shards, dtypes, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 100)  # a tensor takes several reads, the last one shorter
    parts = [tensors(i, d) for i, d in enumerate(dtypes)]
    dirs = [folder(tmp_path / str(i), p, n) for i, (p, n) in enumerate(zip(parts, shards, strict=True))]
    (dirs[0] / EXPORT_RECORD).write_text(export_record(3))
    for weights, shares in ((None, (0.5, 0.5)), ([3, 1], (0.75, 0.25)), ([0, 1], (0.0, 1.0))):
        got = loaded(merge(dirs, tmp_path / f"out{weights}", weights))
        assert got.keys() == SHAPES.keys()
        for name, tensor in got.items():
            if name == "position_ids":
                assert torch.equal(tensor, parts[0][name])
                continue
            want = (shares[0] * parts[0][name].float() + shares[1] * parts[1][name].float()).to(dtypes[0])
            assert tensor.dtype == dtypes[0] and torch.equal(tensor, want), name
    files = sorted(p.name for p in dirs[0].iterdir())
    assert EXPORT_RECORD in files
    files.remove(EXPORT_RECORD)  # the merge is no iteration
    assert sorted(p.name for p in (tmp_path / "outNone").iterdir()) == sorted([*files, "merge.json"])


def test_a_model_with_itself_is_itself_and_a_finished_merge_is_left_alone(tmp_path):
    a = folder(tmp_path / "a", tensors(0, torch.bfloat16), 2)
    out = merge([a, a], tmp_path / "out")
    for file in a.glob("*.safetensors"):
        assert (out / file.name).read_bytes() == file.read_bytes()
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    assert merge([a, a], out) == out and {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    with pytest.raises(ConfigError, match="exists and is not this merge"):
        merge([a, a], out, [1, 3])
    folder(a, tensors(1, torch.bfloat16), 2)  # trained on, in the same place
    with pytest.raises(ConfigError, match="models have changed since"):
        merge([a, a], out)


def test_the_first_difference_is_named(tmp_path, caplog):
    base = tensors(0, torch.float32)
    a = folder(tmp_path / "a", base)

    def other(name: str, weights: dict | None = None) -> Path:
        return folder(tmp_path / name, base if weights is None else weights)

    def edit(path: Path, file: str, change) -> Path:
        row = json.loads((path / file).read_text())
        change(row)
        (path / file).write_text(json.dumps(row))
        return path

    cases = {
        "`rope_theta` of config.json is 10000.0 in the one and 5.0": edit(
            other("r"), "config.json", lambda c: c.update(rope_theta=5.0)
        ),
        "`model.vocab` of tokenizer.json": edit(other("v"), "tokenizer.json", lambda t: t["model"]["vocab"].update(x=99)),
        "b.weight is in the first only": other("m", {k: v for k, v in base.items() if k != "b.weight"}),
        r"a.weight is of shape \[37, 11\] in the one and \[11, 37\]": other("s", base | {"a.weight": torch.zeros(11, 37)}),
        "position_ids is of type I64 in the one and F32": other("i", base | {"position_ids": torch.zeros(7)}),
    }
    alike = edit(other("e"), "config.json", lambda c: c.update(eos_token_id=7, use_mrope=False))
    caplog.clear()
    assert (merge([a, alike], tmp_path / "same") / "model.safetensors").is_file()  # no part of the shape
    assert "eos_token_id of config.json is" in caplog.text and "use_mrope" not in caplog.text
    for message, wrong in cases.items():
        with pytest.raises(DataError, match=message):
            merge([a, wrong], tmp_path / "out")
    with pytest.raises(DataError, match="position_ids holds whole numbers that differ"):
        merge([a, other("d", base | {"position_ids": torch.ones(7, dtype=torch.int64)})], tmp_path / "out")
    (tmp_path / "cut").mkdir()
    cut = folder(tmp_path / "cut", base)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(DataError, match="ends in the middle of a tensor"):
        merge([a, cut], tmp_path / "out")
    for dirs, weights, message in (
        ([a], None, "at least two folders"), ([a, a], [1], "1 weights for 2 folders"), ([a, a], [0, 0], "one above 0"),
        ([a, a], [-1, 2], "at least 0"), ([a, tmp_path], None, "no config.json"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            merge(dirs, tmp_path / "out", weights)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


BAD = {
    "[]": "its header is a list",
    '{"a": {"dtype": "F32", "shape": [2]}}': "does not say type, shape and place of a",
    '{"a": [1]}': "does not say type, shape and place of a",
    '{"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}': "a has 8 bytes, but .* of type F16 have 4",
    '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}': "ends in the middle of a tensor",
}


@pytest.mark.parametrize("header", BAD)
def test_a_header_that_does_not_fit_its_bytes_is_refused(header: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(DataError, match=BAD[header]) as error:
        read_header(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(error.value)


@pytest.mark.parametrize("name, text", [("config.json", b"[]"), ("config.json", b"\xff{}"), ("tokenizer.json", b"[1]"),
    ("config.json", b'{"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": "many"}'),
    ("config.json", b'{"model_type": "qwen2", "hidden_size": "64"}')])  # fmt: skip
def test_a_broken_folder_is_named(name: str, text: bytes, tmp_path: Path) -> None:
    a, b = (folder(tmp_path / n, tensors(0, torch.float32)) for n in "ab")
    (b / name).write_bytes(text)
    with pytest.raises(DataError, match=f"/b/{name} "):
        merge([a, b], tmp_path / "out")


def test_no_average_is_not_a_number(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", tensors(0, torch.float16))
    b = folder(tmp_path / "b", tensors(1, torch.float32) | {"b.weight": torch.tensor([0, 0, float("nan"), 0, 0])})
    c = folder(tmp_path / "c", tensors(1, torch.float32) | {"b.weight": torch.full((5,), 1e6)})
    with pytest.raises(DataError, match="b.weight of .*/b/model.safetensors holds NaN"):
        merge([a, b], tmp_path / "out")
    with pytest.raises(DataError, match="b.weight: the average is beyond what F16 holds"):
        merge([a, c], tmp_path / "out")
    with pytest.raises(ConfigError, match="their sum finite"):
        merge([a, a], tmp_path / "out", [1e308, 1e308])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_one_merge_at_a_time_writes_a_folder_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", tensors(0, torch.float32))
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "model-00007-of-00008.safetensors").touch()
    refused = []

    def meanwhile(tensors: int):
        def step() -> None:
            if not refused:
                with pytest.raises(ConfigError, match=r"another `k15 merge` writes .*/out; wait for its end") as error:
                    merge([a, a], tmp_path / "out")
                refused.append(error)

        return step

    out = merge([a, a], tmp_path / "out", progress=meanwhile)
    assert refused and sorted(p.name for p in tmp_path.iterdir()) == ["a", "out"]
    assert [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]
    (tmp_path / "link").symlink_to("nothing")
    for wrong, message in (("link", "exists and is not this merge"), ("a/config.json/x", "is no folder")):
        with pytest.raises(ConfigError, match=message):
            merge([a, a], tmp_path / wrong)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_model_that_stores_its_embedding_twice_merges_with_one_that_does_not(tied: bool, tmp_path: Path) -> None:
    parts = [{"model.embed_tokens.weight": torch.full((3, 2), float(value))} for value in (1, 3)]
    twice = parts[0] | {"lm_head.weight": parts[0]["model.embed_tokens.weight"].clone()}
    a, b, c = (
        folder(tmp_path / n, w) for n, w in (("a", twice), ("b", parts[1]), ("c", twice | {"lm_head.weight": torch.ones(3, 1)}))
    )
    for path in (a, b, c):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    with pytest.raises(DataError, match="lm_head.weight is in the first only"):
        merge([c, b] if tied else [a, b], tmp_path / "out")
    if tied:
        for dirs, names in (([a, b], twice.keys()), ([b, a], parts[1].keys())):
            got = loaded(merge(dirs, tmp_path / dirs[0].name / "out"))
            assert got.keys() == names and all(torch.equal(t, torch.full((3, 2), 2.0)) for t in got.values())


_SIZES = {"hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 128, "rms_norm_eps": 1e-5,
          "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 4, "tie_word_embeddings": False,
          "vocab_size": 1024}  # fmt: skip
_QWEN = _SIZES | {"num_key_value_heads": 2, "max_window_layers": 3, "use_sliding_window": False, "rope_theta": 1e6}
_EXPERTS = {"num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 32}
_LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
OLD = {
    "qwen2": _QWEN | {"sliding_window": 131072},
    "qwen2, yarn": _QWEN | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
    "qwen3": _QWEN | {"head_dim": 32, "sliding_window": None, "rope_scaling": None},
    "qwen3_moe": _QWEN | _EXPERTS | {"head_dim": 32, "num_experts": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
                                     "router_aux_loss_coef": 0.001},
    "llama": _SIZES | {"rope_theta": 5e5, "rope_scaling": _LLAMA3 | {"rope_type": "llama3"}},
    "llama, linear": _SIZES | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "mixtral": _SIZES | {"num_key_value_heads": 2, "num_experts_per_tok": 2, "num_local_experts": 8,
                         "router_aux_loss_coef": 0.02},
    "deepseek_v3": _SIZES | _EXPERTS | {"num_key_value_heads": 4, "num_nextn_predict_layers": 0,
        "kv_lora_rank": 32, "q_lora_rank": None, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_group": 1,
        "topk_group": 1, "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 2.4,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_theta": 50000.0,
    },
}  # fmt: skip
"""As published before transformers 5, keys left out that were left out then."""


@pytest.mark.parametrize("kind", OLD)
def test_a_config_that_transformers_saved_again_says_the_same(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    old = OLD[kind] | {"model_type": kind.split(",")[0], "torch_dtype": "bfloat16"}
    AutoConfig.for_model(**json.loads(json.dumps(old))).save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in new and module._config_difference(old, new) is None
    for key, value in (("rope_theta", 12345.0), ("num_hidden_layers", 5), ("head_dim", 48), ("num_key_value_heads", 1)):
        if key != "head_dim" or kind != "deepseek_v3":  # which has none
            assert module._config_difference(old | {key: value}, new).startswith(f"`{key}`"), key
    rope = (new["rope_parameters"] | {"rope_type": "linear", "factor": 3.0}) if "linear" in kind else {"rope_type": "linear"}
    assert "rope_parameters" in module._config_difference(old, new | {"rope_parameters": new["rope_parameters"] | rope})


def test_memory_does_not_grow_with_the_model(tmp_path):
    """Two models of 200 MB each, holes in their files: the merge takes less than half of one."""
    elements = 50_000_000
    header = {f"w{i}": {"dtype": "F32", "shape": [elements // 2], "data_offsets": [i * 2 * elements, (i + 1) * 2 * elements]}
              for i in range(2)}  # fmt: skip
    text = json.dumps(header).encode()
    for name in ("a", "b"):
        write_tiny_model(tmp_path / name, TinyModelConfig(), 192)
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + 4 * elements)
    code = (
        "import resource, sys; from k15.long2short.merge import merge\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "merge(sys.argv[1:3], sys.argv[3])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, tmp_path / "a", tmp_path / "b", tmp_path / "out"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert int(done.stdout) * 1024 < 100_000_000
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == 8 + len(text) + 4 * elements
