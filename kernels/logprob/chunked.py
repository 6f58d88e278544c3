"""The PyTorch path of `linear_logprob`, for devices without Triton and for fp64.

Shapes: T tokens, H hidden, V vocabulary, n tensor-parallel ranks. Accumulation is fp32 (fp64 for fp64 inputs).

A tile of logits, some tokens by some of the vocabulary, is made, reduced to three numbers a token and dropped; backward makes
it again. The vocabulary is the outer loop: a block of the weight is converted once and stays in the caches, and its gradient
is complete when its tokens are through. With a tensor-parallel group each rank holds V/n rows of the weight, and only the
three numbers are exchanged.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from .naive import IGNORE

TILE_TOKENS = 1024
TILE_ELEMENTS = 1 << 21
"""Logits alive at once (8 MiB in fp32)."""


class ChunkedLogprob(torch.autograd.Function):
    """apply(hidden, weight, target, bad, temperature, group, start, total, want_entropy) -> (logprob [T], entropy [T] or [0]).

    Targets in `bad` [T] (out of range) give NaN. Forward keeps hidden, weight, log Z [T] and the entropy [T]; backward makes
    the logits again, tile by tile.
    """

    @staticmethod
    def forward(ctx, hidden, weight, target, bad, temperature, group, start, total, want_entropy):
        acc = torch.promote_types(hidden.dtype, torch.float32)
        valid = max(0, min(weight.shape[0], total - start))
        local = target - start
        local = torch.where((target != IGNORE) & (local >= 0) & (local < valid), local, -1)
        top = hidden.new_full(target.shape, float("-inf"), dtype=acc)
        stats = hidden.new_zeros((3, *target.shape), dtype=acc)  # sum of e = exp(. - top), target's logit, sum of e (. - top)
        for cols, rows, tiles in _tiles(hidden, weight, valid, acc):
            for part, tokens in tiles:
                logits = _logits(tokens, rows, temperature)
                _pick(stats[1, part], logits, local[part] - cols.start)
                _merge(top[part], stats[0, part], stats[2, part] if want_entropy else None, logits)
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
        ctx.save_for_backward(hidden, weight, local, keep, log_z, entropy)
        ctx.rest = (temperature, group, valid, acc, want_entropy)
        if not want_entropy:
            ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    def backward(ctx, grad_logprob, grad_entropy):
        hidden, weight, local, keep, log_z, entropy = ctx.saved_tensors
        temperature, group, valid, acc, want_entropy = ctx.rest
        g = torch.where(keep, grad_logprob, 0.0).to(acc) / temperature
        ge = torch.where(keep, grad_entropy, 0.0).to(acc) / temperature if want_entropy else None
        d_hidden = torch.zeros_like(hidden, dtype=acc)
        d_weight = torch.zeros_like(weight)
        for cols, rows, tiles in _tiles(hidden, weight, valid, acc):
            d_rows = d_weight[cols] if weight.dtype == acc else torch.zeros_like(rows)  # added up in acc
            for part, tokens in tiles:
                logp = _logits(tokens, rows, temperature).sub_(log_z[part, None])
                if ge is None:
                    d = logp.exp_().mul_(-g[part, None])
                else:  # d entropy / d logit_j = -p_j (log p_j + entropy)
                    factor = (logp + entropy[part, None]).mul_(ge[part, None]).add_(g[part, None])
                    d = logp.exp_().mul_(factor.neg_())
                at, here = _inside(local[part] - cols.start, rows.shape[0])
                d[here, at] += g[part][here]
                d_hidden[part].addmm_(d, rows)
                d_rows.addmm_(d.T, tokens)
            if weight.dtype != acc:
                d_weight[cols] = d_rows
        if group is not None:
            dist.all_reduce(d_hidden, group=group)
        return d_hidden.to(hidden.dtype), d_weight, *[None] * 7


def _tiles(hidden: Tensor, weight: Tensor, valid: int, acc: torch.dtype) -> Iterator[tuple[slice, Tensor, list]]:
    """(columns, their rows of weight in acc, [(tokens, their hidden states in acc), ...]) over the `valid` rows of weight."""
    count = hidden.shape[0]
    hidden = hidden.to(acc)
    parts = [slice(a, min(a + TILE_TOKENS, count)) for a in range(0, count, TILE_TOKENS)]
    width = max(1, TILE_ELEMENTS // max(1, min(count, TILE_TOKENS)))
    for first in range(0, valid if count else 0, width):
        cols = slice(first, min(first + width, valid))
        yield cols, weight[cols].to(acc), [(part, hidden[part]) for part in parts]


def _logits(tokens: Tensor, rows: Tensor, temperature: float) -> Tensor:
    logits = tokens @ rows.T
    return logits if temperature == 1.0 else logits.div_(temperature)


def _inside(column: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(columns of the targets that lie in this tile, their tokens)."""
    here = ((column >= 0) & (column < width)).nonzero().squeeze(1)
    return column[here], here


def _pick(out: Tensor, logits: Tensor, column: Tensor) -> None:
    at, here = _inside(column, logits.shape[1])
    out[here] = logits[here, at]


def _merge(top: Tensor, total: Tensor, weighted: Tensor | None, logits: Tensor) -> None:
    """Take a tile's logits [n, width], which are overwritten, into the running maximum and sums [n]."""
    higher = torch.maximum(top, logits.amax(-1))
    drop = (top - higher).clamp_(min=-1e30)  # -inf at the first tile, where the sums are 0
    shifted = logits.sub_(higher[:, None])
    if weighted is not None:
        weighted.add_(drop * total)
    fade = drop.exp_()
    if weighted is None:
        total.mul_(fade).add_(shifted.exp_().sum(-1))
    else:
        e = shifted.exp()
        total.mul_(fade).add_(e.sum(-1))
        weighted.mul_(fade).add_(e.mul_(shifted).sum(-1))
    top.copy_(higher)
