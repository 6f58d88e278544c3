"""What `periodic_tail` and `RepetitionState` refuse: bounds, shapes, types, devices, boundaries that do not rise."""

import itertools

import torch
from torch import Tensor

INTEGERS = (torch.int32, torch.int64)
LARGEST = 2**31 - 1  # positions and run lengths are int32


def check_bounds(max_period: int, min_repeats: int, min_period: int) -> None:
    """Raises ValueError unless 1 <= min_period <= max_period, min_repeats >= 2, and their product fits int32."""
    if not 1 <= min_period <= max_period:
        raise ValueError(f"min_period is {min_period} and max_period {max_period}; needed: 1 <= min_period <= max_period")
    if min_repeats < 2:
        raise ValueError(f"min_repeats is {min_repeats}; it must be at least 2 (one copy of a pattern is no repetition)")
    if max_period * min_repeats > LARGEST:
        raise ValueError(f"max_period * min_repeats is {max_period * min_repeats}; it must be at most {LARGEST}")


def check_tokens(name: str, tokens: Tensor, device: torch.device, length: int | None = None) -> None:
    """Raises ValueError unless `tokens` is a 1-D int32 or int64 tensor on `device` (of `length`, where given)."""
    if tokens.ndim != 1 or (length is not None and tokens.shape[0] != length):
        raise ValueError(f"{name} has shape {tuple(tokens.shape)}; needed: [{length if length is not None else 'T'}]")
    if tokens.dtype not in INTEGERS:
        raise ValueError(f"{name} has dtype {tokens.dtype}; needed: torch.int32 or torch.int64")
    if tokens.device != device:
        raise ValueError(f"{name} is on {tokens.device}, but on {device} is needed")


def check_packed(tokens: Tensor, cu_seqlens: Tensor) -> None:
    """Raises ValueError for a pack that is none. The values of cu_seqlens are looked at too (one read from the device),
    but not while a CUDA graph is being captured, when nothing can be read."""
    check_tokens("tokens", tokens, tokens.device)
    check_tokens("cu_seqlens", cu_seqlens, tokens.device)
    if tokens.shape[0] > LARGEST:
        raise ValueError(f"tokens has {tokens.shape[0]} elements; at most {LARGEST} fit one pack")
    if cu_seqlens.shape[0] < 2:
        raise ValueError("cu_seqlens has no sequence: it needs S + 1 >= 2 boundaries")
    if cu_seqlens.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != tokens.shape[0]:
        raise ValueError(f"cu_seqlens goes from {bounds[0]} to {bounds[-1]}; it must go from 0 to {tokens.shape[0]} (tokens)")
    for s, (a, b) in enumerate(itertools.pairwise(bounds)):
        if b < a:
            raise ValueError(f"cu_seqlens falls from {a} to {b} at sequence {s}; it must not fall")
