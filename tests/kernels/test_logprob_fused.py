"""linear_pmd: the same as log-probs and then the loss, for every way the tokens fall into groups, at 6 T H V operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from k15.kernels.logprob import linear_pmd, tuning
from logprob_cases import make, pmd_and_gradients, sequences
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")
WIDTH, VOCAB = 6, 24


def _budgets(group: int, chunk: int, vocab: int = VOCAB, itemsize: int = 8):
    """Groups of that many tokens, blocks of logits of that many."""
    return tuning.changed(CPU, d_bytes=group * vocab * itemsize, logits_bytes=chunk * vocab * itemsize)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    group=st.integers(1, 20),
    chunk=st.integers(1, 20),
    first_step=st.booleans(),
    spare=st.booleans(),
    seed=st.integers(0, 5),
)
def test_equals_separate_steps_however_tokens_are_grouped(lengths, group, chunk, first_step, spare, seed):
    x = make(sum(lengths), WIDTH, VOCAB, torch.float64, seed=seed)
    s = sequences(lengths, seed=seed, first_step=first_step)
    with _budgets(group, chunk):
        ours = pmd_and_gradients(x, s, "ours", spare_sum=spare)
    exact = pmd_and_gradients(x, s, "exact")
    for name, value in ours.items():
        torch.testing.assert_close(value, exact[name], rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("first_step", [False, True])
def test_triton_is_as_accurate_as_plain_arithmetic_allows(dtype, first_step, device, as_good):
    # Groups of 8: 10 alone and first (too long: its factor comes last), then [5, 1], 9 (too long: two passes), 7.
    lengths = [5, 1, 10, 9, 7]
    x, s = make(32, 131, 257, dtype, device), sequences(lengths, first_step=first_step, device=device)
    row = 257 * dtype.itemsize
    with tuning.changed(device, d_bytes=8 * row, logits_bytes=5 * 257 * 4):
        ours = pmd_and_gradients(x, s, "ours", backend="triton")
        again = pmd_and_gradients(x, s, "ours", backend="triton") if dtype == torch.float32 and not first_step else ours
    exact, plain = pmd_and_gradients(x, s, "exact"), pmd_and_gradients(x, s, "plain")
    for name, value in ours.items():
        assert torch.equal(value, again[name]), f"{name} does not repeat bit for bit"
        as_good(value, plain[name], exact[name], what=name)


def test_finite_differences():
    x, s = make(8, 3, 5, torch.float64, padding=0), sequences([3, 4, 1])

    def loss(hidden, weight):
        return linear_pmd(hidden, weight, x.target, s.ref, s.reward, s.baseline, s.cu_seqlens, tau=0.3, temperature=1.2)[0]

    with _budgets(3, 2, vocab=5):
        found = loss(x.hidden.requires_grad_(), x.weight.requires_grad_())
        for tensor, grad in zip(
            (x.hidden, x.weight), torch.autograd.grad(found, (x.hidden, x.weight), retain_graph=True), strict=True
        ):
            flat = tensor.detach().view(-1)
            for i in range(flat.numel()):
                old, ends = float(flat[i]), []
                for step in (1e-6, -1e-6):
                    flat[i] = old + step
                    ends.append(loss(x.hidden, x.weight).item())
                flat[i] = old
                assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(grad.view(-1)[i]), rel=1e-6, abs=1e-8)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # gradients are scaled where they lie
        torch.autograd.grad(found, x.hidden)


def _flops(lengths: list[int], group: int, *, grad: bool, **kwargs) -> float:
    """Matrix-product operations in units of T H V."""
    x, s = (
        make(sum(lengths), WIDTH, VOCAB, torch.float64, padding=0),
        sequences(lengths, first_step=kwargs.pop("first_step", False)),
    )
    hidden, weight = x.hidden.requires_grad_(grad), x.weight.requires_grad_(grad)
    with _budgets(group, 3), FlopCounterMode(display=False) as counter:
        loss, *_ = linear_pmd(hidden, weight, x.target, s.ref, s.reward, s.baseline, s.cu_seqlens, tau=0.3, **kwargs)
        if grad:
            loss.backward()
    return counter.get_total_flops() / (sum(lengths) * WIDTH * VOCAB)


def test_operations_are_those_promised():
    assert _flops([4, 7, 2], 8, grad=True) == 6
    assert _flops([4, 7, 2], 8, grad=False) == 2  # nobody asks for a gradient: the forward only
    assert _flops([4, 10, 2], 8, grad=True) == 6  # the first that is longer than a group: its factor comes last
    assert _flops([10, 10, 10], 8, grad=True) == (6 + 8 + 8) / 3  # the others: log-probs first
    assert _flops([10, 10, 10], 8, grad=True, spare_sum=True) == 6
    assert _flops([10, 10], 8, grad=True, first_step=True) == 6  # coefficients are known beforehand


def test_gradient_added_to_a_main_gradient():
    x, s = make(20, WIDTH, VOCAB, torch.float32), sequences([8, 5, 7])
    want = pmd_and_gradients(x, s, "ours")["d_weight"] / 2  # of 2 x loss
    main = torch.full((VOCAB, WIDTH), 3.0)  # something to add to: no sequence may be summed before its factor is known
    hidden = x.hidden.detach().requires_grad_()
    weight = x.weight.detach().requires_grad_()
    with _budgets(6, 4, itemsize=4):
        loss, *_ = linear_pmd(
            hidden, weight, x.target, s.ref, s.reward, s.baseline, s.cu_seqlens,
            tau=0.3, temperature=x.temperature, mask=s.mask, weight_s=s.weight, vocab_size=x.vocab_size, weight_grad=main,
        )  # fmt: skip
    loss.backward()
    torch.testing.assert_close(main, want + 3.0, rtol=1e-5, atol=1e-5)
    assert weight.grad is None and hidden.grad is not None
    with torch.no_grad():
        linear_pmd(hidden, weight, x.target, s.ref, s.reward, s.baseline, s.cu_seqlens, tau=0.3, weight_grad=main)
    torch.testing.assert_close(main, want + 3.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 0.0}, "tau is 0.0; it must be > 0"),
        ({"cu_seqlens": torch.tensor([0, 4, 4, 13])}, "sequence 1 is empty"),
        ({"cu_seqlens": torch.tensor([0, 9, 4, 13])}, "falls from 9 to 4 at sequence 1"),
        ({"cu_seqlens": torch.tensor([0, 4, 9, 12])}, "goes from 0 to 12; it must go from 0 to 13"),
        ({"ref_logprob": torch.zeros(12)}, r"ref_logprob has shape \(12,\); 13 tokens in 3 sequences need \[13\]"),
        ({"reward": torch.zeros(0)}, "reward is empty"),
        (
            {"weight_grad": torch.zeros(VOCAB, WIDTH, dtype=torch.bfloat16)},
            "weight_grad is torch.bfloat16 .* must be torch.float32",
        ),
        ({"target": torch.full((13,), VOCAB)}, "it must be in 0..23"),
    ],
)
def test_refusals(changes, message):
    x, s = make(13, WIDTH, VOCAB, torch.float32), sequences([4, 7, 2])
    args = {"hidden": x.hidden, "weight": x.weight, "target": x.target, "ref_logprob": s.ref, "reward": s.reward}
    args |= {"baseline": s.baseline, "cu_seqlens": s.cu_seqlens, "tau": 0.3} | changes
    with pytest.raises(ValueError, match=message):
        linear_pmd(**args)
