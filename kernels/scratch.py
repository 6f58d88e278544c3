"""The one place where kernels allocate memory that they promise to fill: outputs and scratch, never initialised.

Tests allocate inside `poisoned()`: every byte that a kernel forgets to write is then a NaN (or a very negative integer)
in the result, and a write just outside the tensor is found.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

GUARD = 64  # elements before and after each tensor under `poisoned`; keeps the 16-byte alignment that kernels assume
LARGEST_GUARDED = 1 << 20  # elements; larger tensors are poisoned but not guarded, so that they can be freed
_KEPT = 256  # tensors whose guards are looked at again later
_guarded: deque[tuple[Tensor, int]] | None = None


def empty(shape: Sequence[int] | int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """An uninitialised contiguous tensor; the caller's kernel writes every element before anything reads it."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if _guarded is None:
        return torch.empty(shape, dtype=dtype, device=device)
    count = 1
    for size in shape:
        count *= size
    if count > LARGEST_GUARDED:
        return torch.full(shape, _poison(dtype), dtype=dtype, device=device)
    whole = torch.full((count + 2 * GUARD,), _poison(dtype), dtype=dtype, device=device)
    if len(_guarded) == _KEPT:
        _check(*_guarded.popleft())
    _guarded.append((whole, count))
    strides = torch.empty(shape, dtype=dtype, device="meta").stride()
    # Not a view of `whole` for autograd: the kernel's caller may return it from a Function.
    return torch.empty(0, dtype=dtype, device=device).set_(whole.untyped_storage(), GUARD, shape, strides)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it `empty` gives NaN-filled memory between guards. AssertionError at the end if a guard was overwritten."""
    global _guarded
    before, _guarded = _guarded, deque()
    try:
        yield
        for whole, count in _guarded:
            _check(whole, count)
    finally:
        _guarded = before


def _poison(dtype: torch.dtype) -> float | int:
    if dtype.is_floating_point:
        return float("nan")
    return True if dtype == torch.bool else torch.iinfo(dtype).max if dtype == torch.uint8 else torch.iinfo(dtype).min


def _check(whole: Tensor, count: int) -> None:
    for where, guard in (("before", whole[:GUARD]), ("after", whole[GUARD + count :])):
        intact = guard.isnan() if whole.dtype.is_floating_point else guard == _poison(whole.dtype)
        assert bool(intact.all()), f"a kernel wrote {where} its {whole.dtype} tensor of {count} elements"
