"""Latent attention, shared experts and the sigmoid router: gradients and steps of split layouts equal those of one rank."""

import pytest
import torch
from train_ranks import assemble, hf_config, hf_slices, make_samples, make_trainer, on_ranks

from k15.config.schema import ParallelConfig
from k15.errors import ConfigError
from k15.train.shape import check_layout, read_shape
from k15.types import Batch

DEEPSEEK = hf_config("deepseek_v3")
MODELS = {
    "experts": DEEPSEEK,
    "dense": DEEPSEEK | {"first_k_dense_replace": 4, "q_lora_rank": None},  # without experts, tensor parallelism may go alone
    "mixtral": hf_config("mixtral"),
}
LAYOUTS = {
    "experts tp2 ep2": ("experts", {"tensor": 2, "expert": 2, "sequence_parallel": True}),
    "experts cp2": ("experts", {"context": 2, "recompute": True}),
    "dense tp2": ("dense", {"tensor": 2}),
    "mixtral ep2": ("mixtral", {"expert": 2}),
}
TOLERANCE = 1e-5


def measure(layouts: dict[str, tuple[str, dict]]) -> dict[str, dict]:
    """{layout: what must not depend on it}; one set of process groups after the other."""
    from megatron.core import parallel_state

    results = {}
    for name, (model, layout) in layouts.items():
        samples = make_samples(4, 2)
        ref = -torch.rand(sum(len(s.loss_mask) for s in samples), generator=torch.Generator().manual_seed(3)) * 4
        trainer = make_trainer(MODELS[model], layout | {"distributed_optimizer": False}, minibatches=2, eps=1e-3, lr=1e-2)
        bias = torch.linspace(-0.01, 0.01, 8)  # near the scores' own spread, so that it decides some choices and not all
        for parameter, tensor in trainer.named_parameters_local():
            if parameter.endswith("expert_bias"):
                tensor.copy_(bias)
        result = {"metrics": trainer.gradients("pmd", samples, ref)}
        result["gradients"] = [(n, *rest) for n, *rest in hf_slices(trainer, _gradient) if "e_score" not in n]
        result["logprobs"] = torch.tensor([x for part in trainer.logprobs([s.tokens for s in samples]) for x in part])
        result["step"] = trainer.train_iteration(Batch(tuple(samples), 0))
        result["weights"] = hf_slices(trainer, lambda p: p)
        biases = [t for n, t in trainer.named_parameters_local() if n.endswith("expert_bias")]
        assert len(biases) == (3 if model == "experts" else 0) and all(torch.equal(b, bias) for b in biases)
        results[name] = result
        parallel_state.destroy_model_parallel()
    return results


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    return getattr(parameter, "main_grad", parameter)  # a router's bias has none


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm().clamp(min=1e-12))


@pytest.mark.megatron
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_layouts_equal_one_rank(tmp_path):
    one = on_ranks(1, measure, tmp_path / "one", {model: (model, {}) for model in MODELS})[0]
    both = on_ranks(2, measure, tmp_path / "two", LAYOUTS)
    for name, (model, _) in LAYOUTS.items():
        want = one[model]
        expected = assemble([want["gradients"]])
        silent = [n for n, g in expected.items() if not g.any()]
        assert not silent, (name, silent)
        got = assemble([rank[name]["gradients"] for rank in both])
        assert got.keys() == expected.keys()
        worst = {n: e for n in expected if (e := _error(got[n], expected[n])) > TOLERANCE}
        assert not worst, (name, worst)
        for rank in both:
            assert rank[name]["metrics"] == pytest.approx(want["metrics"], rel=TOLERANCE), name
            torch.testing.assert_close(rank[name]["logprobs"], want["logprobs"], rtol=0, atol=TOLERANCE)
            for key in ("loss", "grad_norm", "log_ratio_mean"):
                assert rank[name]["step"][key] == pytest.approx(want["step"][key], rel=1e-4, abs=1e-6), (name, key)
        weights, final = assemble([rank[name]["weights"] for rank in both]), assemble([want["weights"]])
        assert max(_error(weights[n], final[n]) for n in final) < 1e-4, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\).*Convert the folder to bfloat16"),
        ({"scoring_func": "softmax"}, "scoring_func of config.json is 'softmax'.*Supported: sigmoid"),
        ({"scoring_func": None}, "scoring_func of config.json is None.*Supported: sigmoid"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"num_key_value_heads": 2}, "num_key_value_heads of config.json is 2.*num_attention_heads, 4"),
        ({"topk_group": 1, "num_experts_per_tok": 3}, "best two experts"),
        ({"n_group": 3}, "a divisor of the 8 experts"),
        ({"rope_scaling": {"type": "llama3"}}, "Allowed: default, yarn"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "has no original_max_position_embeddings"),
        ({"kv_lora_rank": None}, "kv_lora_rank of config.json is None"),
        ({"n_routed_experts": 0}, "n_routed_experts of config.json is 0"),
    ],
)
def test_models_that_are_not_built_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        read_shape(DEEPSEEK | change)


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (DEEPSEEK, {"tensor": 2}, "need parallel.sequence_parallel"),
        (
            DEEPSEEK | {"moe_intermediate_size": 3, "n_shared_experts": 1},
            {"tensor": 2, "sequence_parallel": True},
            "shared experts",
        ),
        (hf_config("mixtral", sliding_window=None), {"expert": 3}, "must divide the model's 4 experts"),
    ],
)
def test_layouts_that_cannot_be_are_refused(config, layout, message):
    with pytest.raises(ConfigError, match=message):
        check_layout(read_shape(config), ParallelConfig(**layout), 6)
