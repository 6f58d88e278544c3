"""Matrix products with an fp32 result: the library's where it has them (nothing is faster), else the Triton kernel."""

import functools

import torch
from torch import Tensor

from ..scratch import empty
from .tuning import Tuning

SCRATCH_BYTES = 64 << 20
"""Of the product that is added where the library multiplies into an fp32 matrix, but does not add onto one."""


def product_into(out: Tensor, a: Tensor, b: Tensor, *, accumulate: bool, tuning: Tuning, even_k: bool = False) -> None:
    """out [M, N] = a [M, K] @ b [K, N], or += with `accumulate`. out is fp32 (fp64 for fp64 inputs), rows contiguous.

    16-bit inputs are multiplied exactly and added in fp32; fp32 inputs follow torch's own float32_matmul_precision
    ("highest", no TF32, unless the user changed it). even_k: K does not depend on the batch (see kernel.product_into).
    """
    way = "library" if a.dtype == out.dtype else way_of(a.device, a.dtype, accumulate)
    if way == "scratch":
        step = max(1, SCRATCH_BYTES // (out.shape[1] * out.element_size()))
        step = step - step % 128 if step > 128 else step
        scratch = empty((min(step, out.shape[0]), out.shape[1]), out.dtype, out.device)
        for part, rows in zip(out.split(step), a.split(step), strict=True):
            product_into(scratch[: len(part)], rows, b, accumulate=False, tuning=tuning, even_k=even_k)
            part.add_(scratch[: len(part)])
    elif way == "triton":
        from . import kernel

        kernel.product_into(out, a, b, accumulate=accumulate, tuning=tuning, even_k=even_k)
    else:
        wider = {} if a.dtype == out.dtype else {"out_dtype": out.dtype}
        if accumulate:
            torch.addmm(out, a, b, out=out, **wider)
        else:
            torch.mm(a, b, out=out, **wider)


@functools.cache
def way_of(device: torch.device, dtype: torch.dtype, accumulate: bool) -> str:
    """How 16-bit matrices are multiplied into (or added onto) an fp32 one on this device: "library", "scratch" (the library's
    product into scratch, then added) or "triton". Releases of torch differ: some lack `out_dtype`, some have it for mm but
    refuse an fp32 addend, and it is CUDA only.
    """
    if _library_has_it(device, dtype, accumulate):
        return "library"
    return "scratch" if accumulate and _library_has_it(device, dtype, False) else "triton"


def _library_has_it(device: torch.device, dtype: torch.dtype, accumulate: bool) -> bool:
    """Tried on 16 x 16."""
    if device.type != "cuda":
        return False
    a = torch.ones(16, 16, dtype=dtype, device=device)
    a[:, 0] = 4096.0
    out = torch.ones(16, 16, device=device)
    want = 4096.0 + 15.0 + (1.0 if accumulate else 0.0)  # neither is a 16-bit number
    try:
        b = torch.ones_like(a)
        if accumulate:
            torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
        else:
            torch.mm(a, b, out_dtype=torch.float32, out=out)
    except (RuntimeError, TypeError):
        return False
    return bool((out == want).all())
