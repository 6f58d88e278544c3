"""`pmd_loss`: policy mirror descent on sequence log-ratios (report 2.3.2, the squared surrogate before Eq. 3).

Shapes: T packed response tokens, S sequences, cu_seqlens int32 [S+1] with cu_seqlens[0] = 0 and cu_seqlens[S] = T.

A sequence may be split over several packs; the square needs the log-ratio of the whole, so either
    ranks of a group   hold its parts at the same time: `cp_group`, the sums are added over the group; or
    micro-batches      hold them one after the other: `segment_log_ratio` of every part first, without gradients, then
                       `pmd_loss` of every part with `log_ratio_extra` = the sum of the OTHER parts.
In both cases a part's gradient is that of the whole loss, and the loss returned is that of the whole sequences, on every
rank and for every part: count it once. A part may have no token of a sequence.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backend import choose
from .check import check_inputs

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def pmd_loss(
    logprob: Tensor,
    ref_logprob: Tensor,
    reward: Tensor,
    baseline: Tensor,
    cu_seqlens: Tensor,
    *,
    tau: float,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    log_ratio_extra: Tensor | None = None,
    cp_group: dist.ProcessGroup | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(loss scalar, log_ratio [S]); differentiable in logprob (both results), once.

    log_ratio_s = sum_t mask_t (logprob_t - ref_logprob_t) over sequence s: the SUM is squared, not its terms;
    loss = sum_s weight_s / (2 tau) (reward_s - baseline_s - tau log_ratio_s)^2, weight 1/S by default.
    A caller that splits a mini-batch passes the weights of the whole, and the parts then add up to the same loss.
    logprob, ref_logprob, mask [T] (mask: any dtype, may hold fractions); reward, baseline, weight [S], and
    log_ratio_extra [S], what tokens elsewhere add to the log-ratio. Results are fp32 (fp64 for fp64 inputs).

    backend: "auto" | "triton" | "torch"; float64 always takes the PyTorch path. Every path repeats bit for bit.

    Raises ValueError for tau <= 0, lengths, dtypes or devices that differ, inputs other than logprob that require a
    gradient; on the CPU also for an empty sequence (unless split, see above) and cu_seqlens that do not rise from 0 to
    T. On a GPU, which is not waited for, a wrong cu_seqlens makes loss and log_ratio NaN.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be > 0 (it divides the loss and weighs the log-ratio)")
    split = cp_group is not None or log_ratio_extra is not None
    per_sequence = {"reward": reward, "baseline": baseline, "weight": weight, "log_ratio_extra": log_ratio_extra}
    check_inputs(logprob, ref_logprob, cu_seqlens, {"mask": mask}, per_sequence, allow_empty=split)
    if _path(logprob, backend) == "triton":
        return _TritonLoss.apply(
            logprob, ref_logprob, reward, baseline, cu_seqlens, tau, mask, weight, log_ratio_extra, cp_group, split
        )
    log_ratio = _log_ratio(logprob, ref_logprob, cu_seqlens, mask, allow_empty=split)
    if cp_group is not None:
        log_ratio = _SumOverGroup.apply(log_ratio, cp_group)
    acc = log_ratio.dtype
    if log_ratio_extra is not None:
        log_ratio = log_ratio + log_ratio_extra.to(acc)
    w = log_ratio.new_full(reward.shape, 1.0 / reward.shape[0]) if weight is None else weight.to(acc)
    gap = reward.to(acc) - baseline.to(acc) - tau * log_ratio
    return (w * gap.square()).sum() / (2 * tau), log_ratio


@torch.no_grad()
def segment_log_ratio(
    logprob: Tensor, ref_logprob: Tensor, cu_seqlens: Tensor, *, mask: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """log_ratio [S] of this pack's tokens alone, without gradients; a sequence without tokens here has 0.

    The first pass over sequences that micro-batches split. Arguments and errors as for `pmd_loss`.
    """
    check_inputs(logprob, ref_logprob, cu_seqlens, {"mask": mask}, {}, allow_empty=True)
    if _path(logprob, backend) == "torch":
        return _log_ratio(logprob, ref_logprob, cu_seqlens, mask, allow_empty=True)
    from . import launch

    cu = cu_seqlens.to(torch.int32).contiguous()
    return launch.own_log_ratio(launch.sums(logprob, ref_logprob, cu, mask).parts, cu, logprob.shape[0])


def warm_up(device: torch.device, dtype: torch.dtype = torch.float32, backend: str = "auto") -> str:
    """Compile the kernels that training on `device` will call (mask, weights, gradient); the path it will take.

    A few seconds on a GPU with a cold cache; returns "torch" at once where Triton is not used.
    """
    path = _path(torch.zeros(1, dtype=dtype, device=device), backend)
    if path == "triton":
        from . import launch

        for sequences in (1, launch.lanes(device) + 1):  # one program of _finish, and several
            logprob = torch.zeros(3 * sequences, dtype=dtype, device=device, requires_grad=True)
            one = torch.ones(sequences, device=device)
            cu = torch.arange(sequences + 1, dtype=torch.int32, device=device) * 3
            share = {"tau": 1.0, "mask": torch.ones(3 * sequences, device=device), "weight": one, "backend": backend}
            for with_ratio in (False, True):
                loss, ratio = pmd_loss(logprob, logprob.detach(), one, one, cu, **share)
                (loss + ratio.sum() if with_ratio else loss).backward()
    return path


def _path(logprob: Tensor, backend: str) -> str:
    from_float64 = backend == "auto" and logprob.dtype not in TRITON_DTYPES
    path = choose("torch" if from_float64 else backend, logprob.device, "pmd")
    if path == "triton" and logprob.dtype not in TRITON_DTYPES:
        raise ValueError(f"backend is 'triton' but logprob is {logprob.dtype}; use 'auto' or 'torch', or convert to float32")
    return path


def _log_ratio(logprob: Tensor, ref: Tensor, cu_seqlens: Tensor, mask: Tensor | None, allow_empty: bool) -> Tensor:
    acc = torch.promote_types(logprob.dtype, torch.float32)
    diff = logprob.to(acc) - ref.to(acc)
    if mask is not None:
        diff = diff * mask.to(acc)
    tokens, cu = diff.shape[0], cu_seqlens.long()
    if tokens == 0:
        return diff.new_zeros(cu.shape[0] - 1) + diff.sum()
    # segment_reduce adds in token order, so the result does not depend on where in the pack a sequence lies.
    log_ratio = torch.segment_reduce(diff, "sum", offsets=cu.clamp(0, tokens), initial=0.0)
    if cu.device.type == "cpu":
        return log_ratio  # checked before
    rises = cu.diff() >= 0 if allow_empty else cu.diff() > 0
    return log_ratio.where(rises.all() & (cu[0] == 0) & (cu[-1] == tokens), float("nan"))


class _SumOverGroup(torch.autograd.Function):
    """Adds over the ranks; every rank differentiates its own copy of the same loss, so the gradient passes unchanged."""

    @staticmethod
    def forward(ctx, part, group):
        whole = part.clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class _TritonLoss(torch.autograd.Function):
    """Forward reads the tokens once and keeps d loss / d log_ratio [S]; backward writes the gradient [T] once."""

    @staticmethod
    def forward(ctx, logprob, ref, reward, baseline, cu_seqlens, tau, mask, weight, extra, group, split):
        from . import launch

        cu = cu_seqlens.to(torch.int32).contiguous()
        reward, baseline, weight, extra = (
            None if t is None else t.to(torch.float32).contiguous() for t in (reward, baseline, weight, extra)
        )
        tokens = logprob.shape[0]
        sums = launch.sums(logprob, ref, cu, mask)
        parts = sums.parts
        if group is not None:
            whole = launch.own_log_ratio(parts, cu, tokens)  # rounded here, and again when the ranks' are added
            dist.all_reduce(whole, group=group)
            parts, extra = None, whole if extra is None else whole + extra
        results = launch.finish(parts, cu, reward, baseline, weight, extra, tau, tokens, split)
        ctx.save_for_backward(cu, results.coefficient, sums.first, mask)
        ctx.like = (tokens, logprob.dtype)
        ctx.set_materialize_grads(False)  # a gradient that nobody asked for costs no launch
        return results.loss, results.log_ratio

    @staticmethod
    @once_differentiable
    def backward(ctx, g_loss, g_ratio):
        from . import launch

        cu, coefficient, first, mask = ctx.saved_tensors
        grad = launch.gradient(coefficient, first, g_loss, g_ratio, cu, mask, *ctx.like)
        return grad, *[None] * 10
