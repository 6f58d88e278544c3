"""Two GPUs: every kernel runs where its tensors are, whatever the current device is."""

import pytest
import torch
from k15.kernels.logprob import tuning
from k15.kernels.repetition import RepetitionState, periodic_tail, periodic_tail_naive
from logprob_cases import logprob_and_gradients, make, pmd_and_gradients, sequences
from triton_mode import INTERPRET


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRET or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_than_the_current_gpu():
    other = torch.device("cuda", 1)
    x, s = make(70, 64, 300, torch.bfloat16, other), sequences([30, 40], device=other)
    torch.cuda.set_device(0)
    for forward in ("blocks", "fused"):
        with tuning.changed(other, forward=forward):
            got = logprob_and_gradients(x, "ours", backend="triton"), pmd_and_gradients(x, s, "ours", backend="triton")
            with torch.cuda.device(other):
                want = logprob_and_gradients(x, "ours", backend="triton"), pmd_and_gradients(x, s, "ours", backend="triton")
        for ours, theirs in zip(got, want, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    tokens, cu = torch.arange(300) % 7, torch.tensor([0, 100, 300], dtype=torch.int32)
    rule = {"max_period": 16, "min_repeats": 4}
    got, want = periodic_tail(tokens.to(other), cu.to(other), **rule), periodic_tail_naive(tokens, cu, **rule)
    assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(got, want, strict=True))
    here, there = RepetitionState(3, 16, 4, backend="torch"), RepetitionState(3, 16, 4, device=other)
    for step in tokens.view(100, 3):
        assert torch.equal(there.update(step.to(other)).cpu(), here.update(step))
