"""linear_logprob: against the naive reference, finite differences in float64, vocab-parallel against one rank."""

import pytest
import torch
from group_of_ranks import on_ranks
from k15.kernels.logprob import IGNORE, chunked, linear_logprob, linear_logprob_naive

TOKENS, HIDDEN, VOCAB = 13, 7, 11


def _case(dtype=torch.float64, tokens=TOKENS, vocab=VOCAB, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, HIDDEN, generator=g, dtype=dtype)
    weight = torch.randn(vocab, HIDDEN, generator=g, dtype=dtype)
    target = torch.randint(0, vocab, (tokens,), generator=g)
    target[3] = IGNORE
    return hidden, weight, target


@pytest.mark.parametrize("block", [1, 30, 1 << 22])
@pytest.mark.parametrize("vocab_size", [None, 9])
def test_values_and_gradients_equal_the_reference(monkeypatch, block, vocab_size):
    monkeypatch.setattr(chunked, "TILE_TOKENS", 5)  # tiles of one logit, of a few tokens and columns, of all columns
    monkeypatch.setattr(chunked, "TILE_ELEMENTS", block)
    hidden, weight, target = _case()
    target = torch.where(target >= (vocab_size or VOCAB), 0, target)
    grads = []
    for fn in (linear_logprob_naive, lambda *a, **k: linear_logprob(*a, return_entropy=True, **k)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprob, entropy = fn(h, w, target, temperature=0.7, vocab_size=vocab_size)
        (logprob.cos().sum() + (entropy * torch.arange(TOKENS)).sum()).backward()
        grads.append((logprob.detach(), entropy.detach(), h.grad, w.grad))
    for got, want in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert grads[1][0][3] == 0 and grads[1][2][3].abs().sum() == 0  # ignored: no value, no gradient


def test_finite_differences_in_float64():
    hidden, weight, target = _case()
    hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: linear_logprob(h, w, target, temperature=1.3), (hidden, weight))
    assert torch.autograd.gradcheck(lambda h, w: linear_logprob(h, w, target, return_entropy=True), (hidden, weight))


def test_half_precision_accumulates_in_fp32():
    hidden, weight, target = _case(torch.float64, tokens=64, vocab=501)
    want, _ = linear_logprob_naive(hidden.bfloat16().double(), weight.bfloat16().double(), target)
    got = linear_logprob(hidden.bfloat16(), weight.bfloat16(), target)
    assert got.dtype == torch.float32
    assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.full((TOKENS,), VOCAB)}, r"target\[0\] is 11; it must be in 0\.\.10"),
        ({"target": torch.full((TOKENS,), -1)}, r"target\[0\] is -1"),
        ({"target": torch.zeros(2, dtype=torch.long)}, "13 tokens need"),
        ({"temperature": 0.0}, "must be > 0"),
        ({"vocab_size": 12}, "vocab_size is 12"),
        ({"weight": torch.zeros(3, 2)}, r"must be \[T, H\]"),
    ],
)
def test_wrong_inputs_are_refused(change, message):
    hidden, weight, target = _case()
    args = {"hidden": hidden, "weight": weight, "target": target} | change
    with pytest.raises(ValueError, match=message):
        linear_logprob(args.pop("hidden"), args.pop("weight"), args.pop("target"), **args)


RANKS = 3  # 11 words in 3 x 6 rows: the second rank ends in padding, the third has nothing else


def _vocab_parallel_rank(rank, group):
    hidden, weight, target = _case()
    padded = torch.cat([weight, torch.full((RANKS * 6 - VOCAB, HIDDEN), 50.0, dtype=weight.dtype)])  # padding would dominate
    h, w = hidden.requires_grad_(), padded.chunk(RANKS)[rank].clone().requires_grad_()
    logprob, entropy = linear_logprob(h, w, target, temperature=0.7, tp_group=group, return_entropy=True, vocab_size=VOCAB)
    (logprob.cos().sum() + (entropy * torch.arange(TOKENS)).sum()).backward()
    return logprob.detach(), entropy.detach(), h.grad, w.grad


def test_vocab_parallel_equals_one_rank(tmp_path):
    out = on_ranks(RANKS, _vocab_parallel_rank, tmp_path)
    hidden, weight, target = _case()
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    logprob, entropy = linear_logprob_naive(h, w, target, temperature=0.7)
    (logprob.cos().sum() + (entropy * torch.arange(TOKENS)).sum()).backward()
    d_weight = torch.cat([of_rank[3] for of_rank in out])
    for of_rank in out:
        for got, want in zip(of_rank[:3], (logprob, entropy, h.grad), strict=True):
            torch.testing.assert_close(got, want.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d_weight[:VOCAB], w.grad, rtol=1e-12, atol=1e-12)
    assert d_weight[VOCAB:].abs().sum() == 0
