"""`periodic_tail` and `warm_up`. Shapes: T packed tokens, S sequences, cu_seqlens [S+1] from 0 to T."""

import torch
from torch import Tensor

from ..backend import choose
from .check import check_bounds, check_packed
from .plain import periodic_tail_torch
from .state import RepetitionState


def periodic_tail(
    tokens: Tensor, cu_seqlens: Tensor, *, max_period: int, min_repeats: int, min_period: int = 1, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(period [S] int32, start [S] int32) of each sequence's repeated tail (report 2.6.2).

    The tail has period p repeated c = min_repeats times iff the last (c-1)p tokens equal those p before them. `period`:
    the smallest such p in min_period..max_period, 0 where there is none. `start`: the first position, counted within the
    sequence, of the longest tail that has that period; the sequence's length (an empty tail) where there is none.
    tokens [T], cu_seqlens [S+1]: int32 or int64, on one device. Sequences may be empty. `backend`: auto | triton | torch.

    Raises ValueError for bounds out of order, other dtypes, two devices, and boundaries that fall or do not span 0..T
    (their values are not looked at while a CUDA graph is being captured).
    """
    check_bounds(max_period, min_repeats, min_period)
    check_packed(tokens, cu_seqlens)
    tokens, cu_seqlens = tokens.contiguous(), cu_seqlens.contiguous()
    kwargs = {"max_period": max_period, "min_repeats": min_repeats, "min_period": min_period}
    if choose(backend, tokens.device, "repetition") == "torch":
        return periodic_tail_torch(tokens, cu_seqlens, **kwargs)
    from .kernel import periodic_tail_triton

    return periodic_tail_triton(tokens, cu_seqlens, **kwargs)


def warm_up(device: torch.device | str, *, max_period: int, min_repeats: int, min_period: int = 1, batch: int = 1) -> None:
    """Compiles on `device` what `periodic_tail` and a RepetitionState of these parameters run. On a CPU it does nothing."""
    device = torch.device(device)
    check_bounds(max_period, min_repeats, min_period)
    if device.type != "cuda":
        return
    kwargs = {"max_period": max_period, "min_repeats": min_repeats, "min_period": min_period}
    cu_seqlens = torch.tensor([0, 4], dtype=torch.int32, device=device)
    for dtype in (torch.int32, torch.int64):
        tokens = torch.zeros(4, dtype=dtype, device=device)
        periodic_tail(tokens, cu_seqlens, **kwargs)
        RepetitionState(batch, device=device, **kwargs).update(tokens.new_zeros(batch))
    torch.cuda.synchronize(device)
