"""What a call may be given. Shapes and dtypes are checked at once; token ids without stopping a GPU's queue."""

import torch
from torch import Tensor

from .naive import IGNORE

_pending: list[tuple[torch.cuda.Event, Tensor, int]] = []  # (recorded when the copy is done, pinned [index, id] or [-1, .], V)


def check_shapes(hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, total: int, size: int) -> None:
    """ValueError for wrong shapes, devices, dtypes, temperature or vocab_size. `size`: ranks of the tensor-parallel group."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be [T, H] and [V, H]")
    if target.shape != hidden.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}; {hidden.shape[0]} tokens need [{hidden.shape[0]}]")
    if hidden.dtype != weight.dtype or not hidden.dtype.is_floating_point:
        raise ValueError(
            f"hidden is {hidden.dtype} and weight {weight.dtype}; they must be the same floating-point type. Cast one."
        )
    if target.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"target is {target.dtype}; token ids must be int64 (or int32)")
    if not hidden.device == weight.device == target.device:
        raise ValueError(
            f"hidden is on {hidden.device}, weight on {weight.device}, target on {target.device}; move them together"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be > 0")
    if not 0 < total <= weight.shape[0] * size:
        raise ValueError(f"vocab_size is {total}; it must be in 1..{weight.shape[0] * size} (rows of the weight)")


def check_targets(target: Tensor, total: int) -> Tensor:
    """Mask [T] of targets that are neither IGNORE nor in 0..total-1, after raising what can be raised without waiting.

    On the CPU a bad id is a ValueError now. On a GPU that would wait for everything queued before: there the caller makes
    the token's log-probability NaN, so that nothing trains on it, and the ValueError with index and id is raised by the first
    later call or backward that finds the check's result arrived (or by `check_arrived(wait=True)`).
    """
    bad = (target != IGNORE) & ((target < 0) | (target >= total))
    if target.device.type != "cuda":
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            _refuse(at, int(target[at]), total)
        return bad
    check_arrived()
    if target.numel() == 0 or torch.cuda.is_current_stream_capturing():
        return bad  # a captured call keeps the NaN; it has no host side that could raise
    first = bad.int().argmax().view(1)  # index_select: indexing with a tensor of no dimension would wait for it
    found = torch.cat([torch.where(bad.index_select(0, first), first, -1), target.index_select(0, first).long()])
    answer = torch.empty(2, dtype=torch.int64, pin_memory=True)
    answer.copy_(found, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(target.device))
    _pending.append((event, answer, total))
    return bad


def check_arrived(*, wait: bool = False) -> None:
    """Raises the ValueError of an earlier GPU call whose target check has arrived and found a bad id. wait: for all of them.

    While a CUDA graph is captured, when asking an event would break the capture, only `wait` looks.
    """
    if _pending and not wait and torch.cuda.is_current_stream_capturing():
        return
    while _pending:
        event, answer, total = _pending[0]
        if wait:
            event.synchronize()
        elif not event.query():
            return
        _pending.pop(0)
        at, token = answer.tolist()
        if at >= 0:
            _refuse(at, token, total)


def _refuse(at: int, token: int, total: int) -> None:
    raise ValueError(f"target[{at}] is {token}; it must be in 0..{total - 1}, or {IGNORE} to ignore")
