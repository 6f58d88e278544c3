"""`periodic_tail` in PyTorch, for any device: only lags that still match are looked at further.

Nearly every (sequence, lag) pair fails at its first token, so the work is one gather over S x max_period pairs and then
little. Periods are taken in doubling classes, and a sequence that has its answer leaves before the next class.
"""

import torch
from torch import Tensor

_ELEMENTS = 1 << 21  # compared at once, at most
_NONE = torch.iinfo(torch.int64).max


def matching_runs(tokens: Tensor, end: Tensor, lag: Tensor, limit: Tensor) -> Tensor:
    """run [N] int64: how many tokens before position `end` equal, one after the other, the token `lag` before them.

    tokens [T]; end, lag, limit [N] int64, a pair each. Counts to `limit` at most; needs end - limit - lag >= 0.
    """
    run = torch.zeros_like(end)
    alive = torch.nonzero(limit > 0).squeeze(1)
    done, size = 0, 1
    while alive.numel() > 0:
        size = max(1, min(size, _ELEMENTS // alive.numel()))
        j = torch.arange(done, done + size, device=end.device)
        here = end[alive, None] - 1 - j
        inside = j < limit[alive, None]
        here = torch.where(inside, here, lag[alive, None])  # any place that can be read
        same = (tokens[here] == tokens[here - lag[alive, None]]) & inside
        matched = torch.where(same, size, j - done).amin(1) if size > 1 else same.squeeze(1).long()
        run[alive] += matched
        alive = alive[(matched == size) & (run[alive] < limit[alive])]
        done += size
        size *= 4
    return run


def periodic_tail_torch(
    tokens: Tensor, cu_seqlens: Tensor, *, max_period: int, min_repeats: int, min_period: int
) -> tuple[Tensor, Tensor]:
    """See `k15.kernels.repetition.periodic_tail`; arguments are checked there."""
    end = cu_seqlens[1:].long()
    length = end - cu_seqlens[:-1].long()
    period = torch.zeros_like(end)
    low = min_period
    while low <= max_period:
        rows = torch.nonzero((period == 0) & (length >= min_repeats * low)).squeeze(1)
        if rows.numel() == 0:
            break  # found, or too short for this and all longer periods
        lags = torch.arange(low, min(2 * low, max_period + 1), device=tokens.device)
        fits = lags * min_repeats <= length[rows, None]
        need = torch.where(fits, (min_repeats - 1) * lags, 0)
        ends, all_lags = end[rows, None].expand_as(need), lags.expand_as(need)
        run = matching_runs(tokens, ends.flatten(), all_lags.flatten(), need.flatten()).view_as(need)
        best = torch.where(fits & (run == need), lags, _NONE).amin(1)
        period[rows] = torch.where(best == _NONE, 0, best)
        low *= 2
    start = length.clone()
    rows = torch.nonzero(period).squeeze(1)
    run = matching_runs(tokens, end[rows], period[rows], length[rows] - period[rows])
    start[rows] -= period[rows] + run
    return period.int(), start.int()
