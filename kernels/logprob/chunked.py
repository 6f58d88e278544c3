"""The PyTorch path of `linear_logprob`, for devices without Triton and for fp64.

Shapes: T tokens, H hidden, V vocabulary, n tensor-parallel ranks. Accumulation is fp32 (fp64 for fp64 inputs).

The logits of a block of tokens are made, reduced to three numbers a token and dropped; backward makes them again.
With a tensor-parallel group each rank holds V/n rows of the weight, and only those three numbers are exchanged.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from .naive import IGNORE

BLOCK_ELEMENTS = 1 << 22
"""Logits alive at once (16 MiB in fp32): the token block is this divided by the local vocabulary."""


class ChunkedLogprob(torch.autograd.Function):
    """apply(hidden, weight, target, bad, temperature, group, start, total, want_entropy) -> (logprob [T], entropy [T] or [0]).

    Targets in `bad` [T] (out of range) give NaN. Forward keeps hidden, weight, log Z [T] and the entropy [T]; backward makes
    the logits again, block by block.
    """

    @staticmethod
    def forward(ctx, hidden, weight, target, bad, temperature, group, start, total, want_entropy):
        acc = torch.promote_types(hidden.dtype, torch.float32)
        rows = weight[: max(0, min(weight.shape[0], total - start))].to(acc)
        tokens = hidden.shape[0]
        local = target - start
        mine = (target != IGNORE) & (local >= 0) & (local < rows.shape[0])
        local = torch.where(mine, local, 0)
        top = hidden.new_full((tokens,), float("-inf"), dtype=acc)
        stats = hidden.new_zeros((3, tokens), dtype=acc)  # sum of e = exp(. - top), target's logit, sum of e (. - top)
        if rows.shape[0] > 0:
            for a, b, logits in _logit_blocks(hidden, rows, temperature):
                top[a:b] = logits.amax(-1)
                picked = logits.gather(1, local[a:b, None]).squeeze(1)
                stats[1, a:b] = torch.where(mine[a:b], picked, 0.0)
                shifted = logits.sub_(top[a:b, None])
                e = shifted.exp() if want_entropy else shifted.exp_()
                stats[0, a:b] = e.sum(-1)
                if want_entropy:
                    stats[2, a:b] = e.mul_(shifted).sum(-1)
        if group is not None:
            local_top = top.clone()
            dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
            drop = (local_top - top).clamp(min=-1e30)  # -inf on a rank whose rows are all padding, where the sums are 0
            stats[2] += drop * stats[0]
            stats[0::2] *= drop.exp()
            dist.all_reduce(stats, group=group)
        log_z = top + stats[0].log()
        keep = target != IGNORE
        logprob = torch.where(keep, torch.where(bad, float("nan"), stats[1] - log_z), 0.0)
        entropy = torch.where(keep, stats[0].log() - stats[2] / stats[0], 0.0) if want_entropy else logprob.new_zeros(0)
        ctx.save_for_backward(hidden, weight, local, mine, keep, log_z, entropy)
        ctx.rest = (temperature, group, rows.shape[0], acc, want_entropy)
        if not want_entropy:
            ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    def backward(ctx, grad_logprob, grad_entropy):
        hidden, weight, local, mine, keep, log_z, entropy = ctx.saved_tensors
        temperature, group, valid, acc, want_entropy = ctx.rest
        g = torch.where(keep, grad_logprob, 0.0).to(acc)
        ge = torch.where(keep, grad_entropy, 0.0).to(acc) if want_entropy else None
        rows = weight[:valid].to(acc)
        d_hidden = torch.zeros_like(hidden, dtype=acc)
        d_weight = torch.zeros_like(weight, dtype=acc)
        if valid > 0:
            for a, b, logits in _logit_blocks(hidden, rows, temperature):
                logp = logits.sub_(log_z[a:b, None])
                p = logp.exp()
                if ge is None:
                    d = p.mul_(-g[a:b, None])
                else:  # d entropy / d logit_j = -p_j (log p_j + entropy)
                    d = p.mul_(-(g[a:b, None] + ge[a:b, None] * (logp + entropy[a:b, None])))
                d.scatter_add_(1, local[a:b, None], torch.where(mine[a:b], g[a:b], 0.0)[:, None])
                d.div_(temperature)
                d_hidden[a:b] = d @ rows
                d_weight[:valid].addmm_(d.T, hidden[a:b].to(acc))
        if group is not None:
            dist.all_reduce(d_hidden, group=group)
        return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype), *[None] * 7


def _logit_blocks(hidden: Tensor, rows: Tensor, temperature: float):
    """(start, stop, logits [stop-start, V_local]) for blocks of tokens; in rows.dtype, divided by temperature."""
    step = max(1, BLOCK_ELEMENTS // rows.shape[0])
    for a in range(0, hidden.shape[0], step):
        b = min(a + step, hidden.shape[0])
        logits = hidden[a:b].to(rows.dtype) @ rows.T
        yield a, b, logits if temperature == 1.0 else logits.div_(temperature)
