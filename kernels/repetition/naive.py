"""The reference for `periodic_tail`: the definition, one comparison of lists a period."""

import itertools

import torch
from torch import Tensor


def periodic_tail_naive(
    tokens: Tensor, cu_seqlens: Tensor, *, max_period: int, min_repeats: int, min_period: int = 1
) -> tuple[Tensor, Tensor]:
    """See `k15.kernels.repetition.periodic_tail`, which must agree with this."""
    periods, starts = [], []
    bounds = cu_seqlens.tolist()
    for first, last in itertools.pairwise(bounds):
        x = tokens[first:last].tolist()
        found = 0
        for p in range(min_period, max_period + 1):
            matched = (min_repeats - 1) * p
            if matched + p <= len(x) and x[len(x) - matched :] == x[len(x) - matched - p : len(x) - p]:
                found = p
                break
        start = len(x)
        if found:
            start -= found
            while start > 0 and x[start - 1] == x[start - 1 + found]:
                start -= 1
        periods.append(found)
        starts.append(start)
    device = tokens.device
    return torch.tensor(periods, dtype=torch.int32, device=device), torch.tensor(starts, dtype=torch.int32, device=device)
