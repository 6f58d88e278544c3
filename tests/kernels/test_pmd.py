"""pmd_loss: against the loop reference, finite differences, the report's gradient, and splits that add up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from k15.kernels.logprob import linear_logprob
from k15.kernels.pmd import pmd_loss, pmd_loss_naive


def _case(lengths, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens, sequences = sum(lengths), len(lengths)
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    logprob, ref = -torch.rand(2, tokens, generator=g, dtype=torch.float64) * 3
    reward, baseline = torch.rand(2, sequences, generator=g, dtype=torch.float64)
    mask = torch.randint(0, 2, (tokens,), generator=g)
    return logprob, ref, reward, baseline, cu, mask


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.01, 2.0), st.booleans(), st.booleans())
def test_equals_the_reference(lengths, tau, masked, weighted):
    logprob, ref, reward, baseline, cu, mask = _case(lengths)
    kwargs = {"tau": tau, "mask": mask if masked else None, "weight": reward + 0.5 if weighted else None}
    a, b = logprob.clone().requires_grad_(), logprob.clone().requires_grad_()
    got, want = pmd_loss(a, ref, reward, baseline, cu, **kwargs), pmd_loss_naive(b, ref, reward, baseline, cu, **kwargs)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12)
    got[0].backward(), want[0].backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_gradient_is_the_reports_equation_three():
    """d loss / d logprob_jt = -(1/k) [(r_j - b) - tau D_j] on unmasked tokens: the square is of the sequence's SUM."""
    logprob, ref, reward, baseline, cu, mask = _case([3, 5, 1, 4])
    logprob.requires_grad_()
    loss, log_ratio = pmd_loss(logprob, ref, reward, baseline, cu, tau=0.3, mask=mask)
    loss.backward()
    factor = -((reward - baseline) - 0.3 * log_ratio.detach()) / 4
    torch.testing.assert_close(logprob.grad, factor.repeat_interleave(cu.long().diff()) * mask, rtol=1e-12, atol=1e-12)


def test_finite_differences_from_hidden_states_to_the_loss():
    _, ref, reward, baseline, cu, mask = _case([3, 5, 2])
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(10, 6, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 6, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 8, (10,), generator=g)

    def loss(h, w):
        logprob = linear_logprob(h, w, target, temperature=0.8)
        return pmd_loss(logprob, ref, reward, baseline, cu, tau=0.1, mask=mask)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight))


def test_micro_batches_with_the_weights_of_the_whole_add_up():
    logprob, ref, reward, baseline, cu, _ = _case([3, 5, 2, 7])
    whole, ratios = pmd_loss(logprob, ref, reward, baseline, cu, tau=0.1)
    parts = []
    for a, b in ((0, 1), (1, 4)):
        t = slice(int(cu[a]), int(cu[b]))
        weight = torch.full((b - a,), 0.25, dtype=torch.float64)
        part = pmd_loss(logprob[t], ref[t], reward[a:b], baseline[a:b], cu[a : b + 1] - cu[a], tau=0.1, weight=weight)
        assert torch.equal(part[1], ratios[a:b])
        parts.append(part[0])
    torch.testing.assert_close(sum(parts), whole, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "tau is 0.0; it must be > 0"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"cu_seqlens": torch.tensor([0, 3, 3, 8])}, "sequence 1 is empty"),
        ({"cu_seqlens": torch.tensor([0, 5, 3, 8])}, "falls from 5 to 3"),
        ({"cu_seqlens": torch.tensor([0, 3, 5, 7])}, "must go from 0 to 8"),
        ({"cu_seqlens": torch.tensor([0, 8])}, r"cu_seqlens has shape \(2,\)"),
        ({"ref_logprob": torch.zeros(7)}, "ref_logprob has shape"),
        ({"mask": torch.zeros(9)}, "mask has shape"),
        ({"baseline": torch.zeros(1)}, "baseline has shape"),
        ({"reward": torch.zeros(0)}, "no sequence"),
    ],
)
def test_wrong_inputs_are_refused(change, message):
    logprob, ref, reward, baseline, cu, _ = _case([3, 3, 2])
    args = {"logprob": logprob, "ref_logprob": ref, "reward": reward, "baseline": baseline, "cu_seqlens": cu}
    args |= {"tau": 0.1} | change
    with pytest.raises(ValueError, match=message):
        pmd_loss(**args)
