"""`linear_logprob`: log-probabilities of given tokens straight from hidden states, without storing [T, V] logits.

Shapes: T tokens, H hidden, V vocabulary, n tensor-parallel ranks. Accumulation is fp32 (fp64 for fp64 inputs).

Forward reduces blocks of logits to three numbers a token; backward makes the logits again (8 T H V operations in all; the loss
that needs only 6 is `fused.linear_pmd`). With a tensor-parallel group each rank holds V/n rows of the weight, and only those
numbers and the gradient of hidden are exchanged.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from .. import backend as backends
from .blocks import finish, forward_stats, gradients, local_targets, make_head
from .check import check_arrived, check_shapes, check_targets
from .chunked import ChunkedLogprob
from .naive import IGNORE
from .tuning import for_device


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    tp_group: dist.ProcessGroup | None = None,
    return_entropy: bool = False,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(hidden @ weight.T / temperature)[target] -> logprob [T], and the entropy [T] if asked for.

    hidden [T, H]; weight [V, H], or this rank's [V/n, H] (rank r holds rows r*V/n ...) with `tp_group`; target [T]
    int64, global ids in 0..vocab_size-1, or -100 for "ignore" (gives 0 and no gradient). `vocab_size` (default V)
    excludes padding rows at the end of the weight. Differentiable in hidden and weight, once.

    backend: "triton", "torch", or "auto" (Triton on a GPU, else PyTorch). fp64 always takes PyTorch's path. fp32 products
    follow torch's float32_matmul_precision (no TF32 unless it was asked for).

    Tensor-parallel contract: hidden and target are the same on all ranks of the group; the gradient of hidden is
    complete (summed over the group) on every rank, that of the weight is this rank's. A caller with sequence
    parallelism gathers hidden first, with a backward that only takes its own slice.

    Raises ValueError for wrong shapes, dtypes or devices, a temperature that is not positive, or a target that is out of
    range (on a GPU: the token's log-probability is NaN, and the error comes with a later call; see `check.check_targets`).
    """
    size, rank = (1, 0) if tp_group is None else (tp_group.size(), tp_group.rank())
    total = weight.shape[0] * size if vocab_size is None else vocab_size
    check_shapes(hidden, weight, target, temperature, total, size)
    triton = choose_triton(backend, hidden, "logprob")
    bad = check_targets(target, total)
    group = tp_group if size > 1 else None
    if triton:
        logprob, entropy = _BlockLogprob.apply(hidden, weight, target, bad, temperature, group, total, return_entropy)
    else:
        start = rank * weight.shape[0]
        logprob, entropy = ChunkedLogprob.apply(hidden, weight, target, bad, temperature, group, start, total, return_entropy)
    return (logprob, entropy) if return_entropy else logprob


def choose_triton(backend: str, hidden: Tensor, op: str) -> bool:
    """Whether `op` runs its Triton kernels. ValueError for an unknown backend, or "triton" where it cannot run."""
    if hidden.dtype == torch.float64:
        if backend == "triton":
            raise ValueError(
                f"backend is 'triton' for {op}, but hidden is float64, which it does not compute. Use 'auto' or 'torch'."
            )
        backend = "torch" if backend == "auto" else backend
    return backends.choose(backend, hidden.device, op) == "triton"


class _BlockLogprob(torch.autograd.Function):
    """Forward keeps hidden, weight, log Z [T] and the entropy [T]; backward makes the logits again, block by block."""

    @staticmethod
    def forward(ctx, hidden, weight, target, bad, temperature, group, total, want_entropy):
        hidden = hidden.contiguous()
        head = make_head(weight, temperature, group, total, True, for_device(hidden.device))
        local, keep = local_targets(target, weight.shape[0], head), target != IGNORE
        stats = forward_stats(head, hidden, local, want_entropy)
        log_z, logprob, entropy = finish(head, stats, keep, bad)
        ctx.save_for_backward(hidden, weight, local, keep, log_z, entropy)
        ctx.rest = (temperature, group, total)
        ctx.set_materialize_grads(False)
        if entropy is None:
            entropy = logprob.new_zeros(0)
            ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    def backward(ctx, grad_logprob, grad_entropy):
        check_arrived()
        hidden, weight, local, keep, log_z, entropy = ctx.saved_tensors
        temperature, group, total = ctx.rest
        head = make_head(weight, temperature, group, total, True, for_device(hidden.device))
        g = log_z.new_zeros(log_z.shape) if grad_logprob is None else torch.where(keep, grad_logprob, 0.0).to(head.acc)
        ge = None if grad_entropy is None or entropy is None else torch.where(keep, grad_entropy, 0.0).to(head.acc)
        need = ctx.needs_input_grad[:2]
        d_hidden, d_weight = gradients(head, hidden, weight.shape[0], local, log_z, g, ge, entropy, need)
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, *[None] * 6
