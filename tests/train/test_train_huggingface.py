"""Trainer and transformers agree: log-probs from a folder that transformers saved, and the export that it loads."""

from pathlib import Path

import pytest
import torch
from train_ranks import assemble, hf_config, hf_slices, make_samples, make_trainer, on_ranks

FAMILIES = {
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "qwen3_moe_raw": {"norm_topk_prob": False, "mlp_only_layers": [2]},
    "mixtral": {},
    "deepseek_v3": {
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,  # so that 40 positions turn in every regime
            "beta_fast": 4,
            "beta_slow": 1,
            "mscale": 0.7,
            "mscale_all_dim": 1.0,
        }
    },
    "deepseek_v3_moonlight": {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 3},
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,  # a short period, so that 40 positions reach every branch of the scaling
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}
SEQUENCES = [s.tokens for s in make_samples(4, 3, seed=7, longest=40)]


def _save_with_transformers(folder: Path, name: str) -> dict:
    """A random model of the family, its norms and biases away from 1 and 0; returns its config.json."""
    import json

    from transformers import AutoConfig, AutoModelForCausalLM

    config = hf_config(name.removesuffix("_raw").removesuffix("_moonlight"), **FAMILIES[name])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    with torch.no_grad():
        biases = [b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
        for parameter in [*model.parameters(), *biases]:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.float().save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def _transformers_logprobs(folder: Path) -> list[list[float]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    result = []
    with torch.no_grad():
        for tokens in SEQUENCES:
            logp = model(torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)
            result.append(logp.gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1).tolist())
    return result


def one_rank(folder: str) -> dict:
    """{family: (trainer's, transformers', transformers' from our export)}"""
    from safetensors.torch import save_file

    result = {}
    for name in FAMILIES:
        source, target = Path(folder) / name, Path(folder) / f"{name}_export"
        config = _save_with_transformers(source, name)
        trainer = make_trainer(config)
        trainer.load_hf(source)
        target.mkdir()
        save_file(
            {k: v.contiguous() for k, v in assemble([hf_slices(trainer, lambda p: p)]).items()},
            target / "model.safetensors",
        )
        (target / "config.json").write_text((source / "config.json").read_text())
        result[name] = (trainer.logprobs(SEQUENCES), _transformers_logprobs(source), _transformers_logprobs(target))
    return result


def split_ranks(folder: str, families: list[str], layout: dict) -> dict:
    """{family: (log-probs, this rank's export)} of a split trainer."""
    import json

    result = {}
    for name in families:
        source = Path(folder) / name
        trainer = make_trainer(json.loads((source / "config.json").read_text()), layout)
        trainer.load_hf(source)
        result[name] = (trainer.logprobs(SEQUENCES), hf_slices(trainer, lambda p: p))
    return result


@pytest.fixture(scope="module")
def agreed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    return folder, on_ranks(1, one_rank, folder, str(folder))[0]


@pytest.mark.megatron
@pytest.mark.parametrize("name", FAMILIES)
def test_logprobs_equal_transformers(name, agreed):
    ours, theirs, exported = agreed[1][name]
    assert _difference(ours, theirs) < 1e-5
    assert exported == theirs  # the export holds the same bits


SPLIT = {
    "dense": (["qwen2", "qwen3", "llama"], {"tensor": 2, "pipeline": 2}),
    "experts": (
        [n for n in FAMILIES if n not in ("qwen2", "qwen3", "llama")],
        {"tensor": 2, "pipeline": 2, "expert": 2, "sequence_parallel": True},
    ),
}


@pytest.mark.megatron
@pytest.mark.parametrize("kind", SPLIT)
def test_a_split_model_and_its_export_equal_transformers(kind, agreed, tmp_path):
    """TP2 x PP2 (x EP2): the trainer's log-probs, and those of transformers on the folder that the ranks export."""
    from safetensors.torch import load_file, save_file

    folder, results = agreed
    families, layout = SPLIT[kind]
    ranks = on_ranks(4, split_ranks, tmp_path, str(folder), families, layout)
    for name in families:
        theirs = results[name][1]
        for rank in ranks:
            assert _difference(rank[name][0], theirs) < 1e-5
        target = tmp_path / name
        target.mkdir()
        whole = assemble([rank[name][1] for rank in ranks])
        save_file({k: v.contiguous() for k, v in whole.items()}, target / "model.safetensors")
        (target / "config.json").write_text((folder / name / "config.json").read_text())
        source = load_file(folder / name / "model.safetensors")
        assert source.keys() == whole.keys() and all(torch.equal(source[k], whole[k]) for k in source)  # the same bits
        assert _difference(_transformers_logprobs(target), theirs) < 1e-6  # another process: other thread counts


def _difference(a: list[list[float]], b: list[list[float]]) -> float:
    assert [len(x) for x in a] == [len(x) for x in b]
    return max(abs(p - q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True))
