"""`algo.kernels`: one training step by Triton (in its interpreter where there is no GPU) equals the PyTorch path's."""

import pytest
import torch
from train_ranks import assemble, hf_config, hf_slices, make_samples, make_trainer, on_ranks

from k15.types import Batch


def measure() -> dict:
    """Loss, entropy, gradients, log-probs and a whole iteration with either code, on one rank."""
    samples = make_samples(groups=2)
    ref = -torch.rand(sum(len(s.loss_mask) for s in samples), generator=torch.Generator().manual_seed(3)) * 4
    result = {}
    for kernels in ("torch", "triton"):
        # eps well above rounding noise, so that a gradient that is zero but for noise does not decide a step
        trainer = make_trainer(hf_config("qwen2", num_hidden_layers=1), kernels=kernels, eps=1e-3, minibatches=2)
        assert trainer.kernels == kernels
        one = {"metrics": trainer.gradients("pmd", samples, ref), "gradients": hf_slices(trainer, lambda p: p.main_grad)}
        one["logprobs"] = [x for part in trainer.logprobs([s.tokens for s in samples]) for x in part]
        one["iteration"] = trainer.train_iteration(Batch(tuple(samples), 0), lr=1e-2)
        one["weights"] = hf_slices(trainer, lambda p: p)
        result[kernels] = one
    return result


@pytest.mark.megatron
def test_a_step_by_triton_is_the_step_by_pytorch(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # for the rank, which is a process of its own
    (result,) = on_ranks(1, measure, tmp_path)
    got, want = result["triton"], result["torch"]
    assert got["metrics"] == pytest.approx(want["metrics"], rel=1e-5)
    torch.testing.assert_close(torch.tensor(got["logprobs"]), torch.tensor(want["logprobs"]), rtol=0, atol=1e-5)
    for key in ("gradients", "weights"):
        ours, theirs = assemble([got[key]]), assemble([want[key]])
        assert ours.keys() == theirs.keys() and all(t.abs().sum() > 0 for t in theirs.values())
        worst = {n: e for n, t in theirs.items() if (e := float((ours[n] - t).norm() / t.norm())) > 1e-5}
        assert not worst, (key, worst)
    for key in (k for k in want["iteration"] if not k.startswith("seconds")):
        assert got["iteration"][key] == pytest.approx(want["iteration"][key], rel=1e-4, abs=1e-6), key


def refused() -> str:
    from k15.errors import ConfigError

    try:
        make_trainer(hf_config("qwen2", num_hidden_layers=1), kernels="triton")
    except ConfigError as error:
        return str(error)
    return "nothing"


@pytest.mark.megatron
def test_triton_on_a_cpu_is_refused_before_the_first_step(tmp_path):
    (message,) = on_ranks(1, refused, tmp_path)
    assert "algo.kernels=triton" in message and "Use 'auto' or 'torch'" in message
