"""Cases of pmd_loss that several test files share; needs torch only."""

import torch
from k15.kernels.pmd import pmd_loss, pmd_loss_naive

TAU = 0.1


def make_case(lengths, device, dtype=torch.float32, seed=0, mask_dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    tokens, sequences = sum(lengths), len(lengths)
    case = {
        "logprob": (-torch.rand(tokens, generator=g) * 3).to(dtype),
        "ref_logprob": (-torch.rand(tokens, generator=g) * 3).to(dtype),
        "reward": torch.rand(sequences, generator=g),
        "baseline": torch.rand(sequences, generator=g),
        "cu_seqlens": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32),
        "mask": (torch.rand(tokens, generator=g) < 0.8).to(mask_dtype),
        "weight": torch.rand(sequences, generator=g),
    }
    return {name: tensor.to(device) for name, tensor in case.items()}


def in_double(case):
    return {n: t if t is None else t.cpu() if n == "cu_seqlens" else t.double().cpu() for n, t in case.items()}


def run(function, case, **more):
    """(loss, log_ratio, d (loss + 0.3 sum log_ratio cos(s)) / d logprob)"""
    case = dict(case)
    logprob = case.pop("logprob").detach().clone().requires_grad_()
    loss, ratio = function(logprob, **case, tau=TAU, **more)
    (loss + 0.3 * (ratio * torch.arange(ratio.shape[0], device=ratio.device).cos()).sum()).backward()
    return loss.detach(), ratio.detach(), logprob.grad


def compare(case, as_good):
    got, plain = run(pmd_loss, case, backend="triton"), run(pmd_loss, case, backend="torch")
    exact = run(pmd_loss_naive, in_double(case))
    for what, g, p, e in zip(("loss", "log_ratio", "gradient"), got, plain, exact, strict=True):
        # A token's gradient is a sum of two terms, of which `run`'s is up to 0.3: where they cancel, their roundings stay.
        terms = e.abs().max().item() + 0.6 if what == "gradient" else None
        as_good(g, p, e, what=what, tiny=None if terms is None else 2 * torch.finfo(g.dtype).eps * terms)
    return got
