"""The ablation `pmd_per_token`: a square for every token that counts, and its gradient by finite differences."""

import pytest
import torch

from k15.config.schema import AlgoConfig
from k15.train.attention import PackedLayout
from k15.train.batch import MicroBatch
from k15.train.loss import micro_batch_loss

LENGTHS, TAU = (3, 1, 4), 0.3


def _micro(ref: torch.Tensor | None) -> MicroBatch:
    """Three sequences of 8 response tokens in all, fp64; one token in the middle does not count."""
    total, none = sum(LENGTHS), torch.zeros(0, dtype=torch.int64)
    mask = torch.ones(total, dtype=torch.float64)
    mask[1] = 0
    per_sequence = [torch.tensor(v, dtype=torch.float64) for v in ((1.0, 0.0, 1.0), (0.5, 0.5, 0.25), (0.2, 0.3, 0.5))]
    bounds = torch.tensor([0, 3, 4, 8], dtype=torch.int32)
    layout = PackedLayout.__new__(PackedLayout)  # the loss does not look at it
    return MicroBatch(none, layout, none, none, slice(0, total), none, bounds, mask, *per_sequence, ref)


def _algo(loss: str) -> AlgoConfig:
    return AlgoConfig(loss=loss, tau=TAU)


@pytest.mark.megatron
def test_loss_per_token_is_its_formula_and_its_gradient_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logprob, ref = -torch.rand(2, 8, generator=generator, dtype=torch.float64)
    micro = _micro(ref)
    expected = sum(
        float(
            micro.weight[s] * micro.mask[t] / (2 * TAU) * (micro.reward[s] - micro.baseline[s] - TAU * (logprob[t] - ref[t])) ** 2
        )
        for s, (start, stop) in enumerate(((0, 3), (3, 4), (4, 8)))
        for t in range(start, stop)
    )
    algo = _algo("pmd_per_token")
    assert float(micro_batch_loss("pmd_per_token", logprob, micro, algo)) == pytest.approx(expected, rel=1e-12)
    leaf = logprob.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: micro_batch_loss("pmd_per_token", x, micro, algo), leaf)


@pytest.mark.megatron
def test_the_squares_differ_only_away_from_the_reference():
    """At theta_i both have the policy gradient; one step away the sequence's square pulls every token by the sum."""
    start = -torch.rand(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ref, same in ((None, True), (start - 0.5, False)):
        gradients = []
        for loss in ("pmd", "pmd_per_token"):
            leaf = start.clone().requires_grad_()
            micro_batch_loss(loss, leaf, _micro(ref), _algo(loss)).backward()
            gradients.append(leaf.grad)
        assert torch.allclose(*gradients, rtol=1e-12) == same
