"""Matrix products with an fp32 result: the library's where it has them (nothing is faster), else the Triton kernel."""

import functools

import torch
from torch import Tensor

from .tuning import Tuning


def product_into(out: Tensor, a: Tensor, b: Tensor, *, accumulate: bool, tuning: Tuning, even_k: bool = False) -> None:
    """out [M, N] = a [M, K] @ b [K, N], or += with `accumulate`. out is fp32 (fp64 for fp64 inputs), rows contiguous.

    16-bit inputs are multiplied exactly and added in fp32; fp32 inputs follow torch's own float32_matmul_precision
    ("highest", no TF32, unless the user changed it). even_k: K does not depend on the batch (see kernel.product_into).
    """
    if a.dtype == out.dtype:
        if accumulate:
            torch.addmm(out, a, b, out=out)
        else:
            torch.mm(a, b, out=out)
    elif library_has_fp32_output(a.device, a.dtype, accumulate):
        if accumulate:
            torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
        else:
            torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:
        from . import kernel

        kernel.product_into(out, a, b, accumulate=accumulate, tuning=tuning, even_k=even_k)


@functools.cache
def library_has_fp32_output(device: torch.device, dtype: torch.dtype, accumulate: bool) -> bool:
    """Whether torch multiplies 16-bit matrices into (or adds onto) an fp32 one on this device: tried once, on 16 x 16.

    Releases differ: some lack `out_dtype`, some have it for mm but refuse an fp32 addend, and it is CUDA only.
    """
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
