"""One batch, many layouts: loss, gradients, log-probs and steps of every layout equal those of a single rank.

Losses are those of RL, of fine-tuning and of preferences; all share the layouts' process starts.
"""

import pytest
import torch
from train_ranks import VOCAB, assemble, hf_config, hf_slices, make_samples, make_trainer, on_ranks

from k15.types import Batch

TOLERANCE = 1e-5
MODELS = {
    "dense": hf_config("qwen2"),
    "tied": hf_config("llama", tie_word_embeddings=True),
    "moe": hf_config("qwen3_moe"),
}
LAYOUTS = {  # ranks, model, layout
    "dp2": (2, "dense", {}),
    "dp2_ep2": (2, "moe", {"expert": 2}),
    "tp2_moe": (2, "moe", {"tensor": 2, "sequence_parallel": True}),
    "cp2_dp2": (4, "dense", {"context": 2}),
    "cp2_moe": (2, "moe", {"context": 2, "expert": 2, "recompute": True}),
    "tp2_pp2": (4, "tied", {"tensor": 2, "pipeline": 2, "recompute": True}),
    "tp2_pp2_ep2": (8, "moe", {"tensor": 2, "pipeline": 2, "expert": 2, "sequence_parallel": True}),
}


def measure(model: str, layout: dict, folder: str) -> dict:
    """Everything that must not depend on the layout."""
    from k15.train.preference import Preference

    config, samples = MODELS[model], make_samples()
    ref = -torch.rand(sum(len(s.loss_mask) for s in samples), generator=torch.Generator().manual_seed(3)) * 4
    plain = make_trainer(config, layout | {"distributed_optimizer": False})
    result = {"gradients": {}, "metrics": {}}
    for kind in ("pmd", "rest", "sft", "sft of one sample"):  # the last leaves data-parallel ranks without a sample
        chosen = samples[2:3] if "one" in kind else samples
        result["metrics"][kind] = plain.gradients(kind.split()[0], chosen, ref if kind == "pmd" else None)
        result["gradients"][kind] = hf_slices(plain, lambda p: p.main_grad)
    for kind, pairs in (("dpo", samples[:14]), ("dpo of one pair", samples[2:4])):
        reference = (-3.0 * torch.rand(len(pairs), generator=torch.Generator().manual_seed(4))).tolist()
        preference = Preference(beta=0.3, smoothing=0.1)
        metrics = plain.preference_gradients(pairs, reference, preference)
        forward = plain.preference_loss(pairs, reference, preference)
        result["metrics"][kind] = metrics | {f"forward_{name}": value for name, value in forward.items()}
        result["gradients"][kind] = hf_slices(plain, lambda p: p.main_grad)
    result["logprobs"] = plain.logprobs([s.tokens for s in samples] + [(3,)], temperature=0.8)
    # eps well above rounding noise, so that a gradient that is zero but for noise does not decide a step
    sharded = make_trainer(config, layout, minibatches=2, eps=1e-3, lr=1e-2)
    result["steps"] = [sharded.train_iteration(Batch(tuple(samples), v)) for v in range(2)]
    result["weights"] = hf_slices(sharded, lambda p: p)
    replicated = [(n, p.clone()) for n, p in sharded.named_parameters_local() if "norm" in n or "router" in n]
    result["replicated"] = dict(replicated)
    sharded.save(folder)
    result["continued"] = [sharded.sft_step(samples, 1e-2)["loss"] for _ in range(2)]
    sharded.load(folder)
    result["resumed"] = [sharded.sft_step(samples, 1e-2)["loss"] for _ in range(2)]
    return result


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm().clamp(min=1e-12))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Results of one rank, made once a model."""
    done = {}

    def get(model: str) -> dict:
        if model not in done:
            folder = tmp_path_factory.mktemp(model)
            done[model] = on_ranks(1, measure, folder, model, {}, str(folder / "checkpoint"))
        return done[model]

    return get


@pytest.mark.megatron
@pytest.mark.slow
@pytest.mark.timeout(1500)  # eight ranks on two busy cores
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_equals_one_rank(name, single, tmp_path):
    world, model, layout = LAYOUTS[name]
    ranks, one = on_ranks(world, measure, tmp_path, model, layout, str(tmp_path / "checkpoint")), single(model)
    for kind, want in one[0]["metrics"].items():
        for rank in ranks:
            near = pytest.approx(want, rel=TOLERANCE, abs=TOLERANCE if kind.startswith("dpo") else None)  # margins may cancel
            assert rank["metrics"][kind] == near, kind
        got = assemble([r["gradients"][kind] for r in ranks])
        expected = assemble([one[0]["gradients"][kind]])
        assert got.keys() == expected.keys()
        worst = {n: e for n in expected if (e := _error(got[n], expected[n])) > TOLERANCE}
        assert not worst, (kind, worst)
        assert "one" in kind or all(g.abs().sum() > 0 for g in expected.values())
    for rank in ranks:
        assert rank["logprobs"][-1] == []
        torch.testing.assert_close(_flat(rank["logprobs"]), _flat(one[0]["logprobs"]), rtol=0, atol=TOLERANCE)
        for got, want in zip(rank["steps"], one[0]["steps"], strict=True):
            for key in (k for k in want if not k.startswith("seconds")):
                assert got[key] == pytest.approx(want[key], rel=1e-4, abs=1e-6), key
        assert rank["continued"] == rank["resumed"]
        assert rank["continued"] == pytest.approx(one[0]["continued"], rel=1e-4)
    got, expected = assemble([r["weights"] for r in ranks]), assemble([one[0]["weights"]])
    assert max(_error(got[n], expected[n]) for n in expected) < 1e-4
    for parameter in {n for r in ranks for n in r["replicated"]}:
        copies = [r["replicated"][parameter] for r in ranks if parameter in r["replicated"]]
        assert all(torch.equal(c, copies[0]) for c in copies), parameter
    assert got["model.embed_tokens.weight"].shape[0] == VOCAB


def _flat(lists) -> torch.Tensor:
    return torch.tensor([x for part in lists for x in part])
