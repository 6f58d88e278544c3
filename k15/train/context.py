"""Context parallelism: each of C ranks holds an equal run of a pack's tokens, so that long sequences fit.

Shapes: T packed tokens of all C ranks, N heads, D head size, R response tokens.

Linear layers, norms and experts see a rank's own T/C tokens only. Attention trades heads for tokens (all-to-all, as
DeepSpeed-Ulysses does): each rank attends over the whole pack with N/C of the heads, so packing, causality and load are
what they are without it. The log-probs [R] are joined before the loss, which every rank computes whole.
"""

import torch
import torch.distributed as dist
from torch import Tensor


class _Exchange(torch.autograd.Function):
    """[T/C, N, D] -> [T, N/C, D] (`gather_tokens`), or back; each is the other's gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup, gather_tokens: bool) -> Tensor:
        ctx.group, ctx.gather_tokens = group, gather_tokens
        size = group.size()
        tokens, heads, width = x.shape
        if gather_tokens:
            send = x.view(tokens, size, heads // size, width).transpose(0, 1).contiguous()
        else:
            send = x.contiguous().view(size, tokens // size, heads, width)
        received = torch.empty_like(send)
        dist.all_to_all_single(received, send, group=group)
        if gather_tokens:
            return received.view(size * tokens, heads // size, width)
        return received.transpose(0, 1).reshape(tokens // size, size * heads, width)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _Exchange.apply(grad, ctx.group, not ctx.gather_tokens), None, None


def gather_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This rank's tokens with all heads [T/C, N, D] -> all tokens with this rank's heads [T, N/C, D]; C divides N."""
    return x if group.size() == 1 else _Exchange.apply(x, group, True)


def gather_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Inverse of `gather_tokens`."""
    return x if group.size() == 1 else _Exchange.apply(x, group, False)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, part: slice, total: int, group: dist.ProcessGroup) -> Tensor:
        ctx.part = part
        whole = own.new_zeros(total)
        whole[part] = own
        dist.all_reduce(whole, group=group)  # each element is set by one rank and 0 elsewhere: exact
        return whole

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[ctx.part], None, None, None


def join(own: Tensor, part: slice, total: int, group: dist.ProcessGroup) -> Tensor:
    """The whole [R] of which each rank has `part`. Every rank goes on to compute the same loss from it, so the gradient of
    `own` is the rank's part of the whole's, not a sum over ranks."""
    return own if group.size() == 1 else _Join.apply(own, part, total, group)
