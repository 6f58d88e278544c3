"""The pieces that the forward, the backward and the fused loss are made of: one block of logits at a time.

Shapes: T tokens, H hidden, V this rank's vocabulary rows. A block of logits is fp32 and bounded by Tuning.logits_bytes; it
is reduced to statistics [3 or 4, T] (max, sum of e = exp(. - max), the target's logit, and for the entropy sum of e (. - max))
or turned into its gradient, and then overwritten. Each piece runs in Triton or in PyTorch, with the same contract.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..scratch import empty
from .naive import IGNORE
from .product import product_into
from .tuning import Tuning

TOP, SUM, PICKED, WEIGHTED = range(4)
COLUMNS = 4096  # of a block of logits that PyTorch's path works on at a time


@dataclass(frozen=True)
class Head:
    """What one call has in common: the weight's rows that count, the softmax scale 1/temperature, and how it is computed.

    rows [V, H] in `store`, the dtype that matrices are multiplied in: the input's for Triton, `acc` for PyTorch.
    acc: fp32, or fp64 for fp64 inputs.
    """

    rows: Tensor
    scale: float
    group: dist.ProcessGroup | None
    triton: bool
    tuning: Tuning
    acc: torch.dtype
    store: torch.dtype


def make_head(
    weight: Tensor, temperature: float, group: dist.ProcessGroup | None, total: int, triton: bool, tuning: Tuning
) -> Head:
    """The Head of a weight [V_padded, H] of which this rank's part of `total` global rows counts."""
    size, rank = (1, 0) if group is None else (group.size(), group.rank())
    valid = max(0, min(weight.shape[0], total - rank * weight.shape[0]))
    acc = torch.promote_types(weight.dtype, torch.float32)
    store = weight.dtype if triton else acc
    return Head(weight[:valid].to(store).contiguous(), 1.0 / temperature, group if size > 1 else None, triton, tuning, acc, store)


def local_targets(target: Tensor, weight_rows: int, head: Head) -> Tensor:
    """[T] int64: the target's row in this rank's weight, -1 where it is on another rank, ignored, or out of range."""
    start = 0 if head.group is None else head.group.rank() * weight_rows
    local = target.long() - start
    mine = (target != IGNORE) & (local >= 0) & (local < head.rows.shape[0])
    return torch.where(mine, local, -1)


def rows_within(budget_bytes: int, row_bytes: int, total: int, multiple: int = 128) -> int:
    """How many rows of row_bytes fit the budget: 1..total, a multiple of `multiple` where that many fit."""
    fit = max(1, min(total, budget_bytes // row_bytes))
    return fit if fit == total or fit < multiple else fit - fit % multiple


def equal_parts(total: int, most: int, multiple: int) -> int:
    """At most `most`, so that `total` falls into as few parts as with `most`, about equal: a multiple where `most` is one."""
    part = -(-total // -(-total // most))
    return part if most % multiple else min(most, -(-part // multiple) * multiple)


def logits_buffer(head: Head, tokens: int, cols: int) -> Tensor:
    """Scratch for `tokens` x `cols` logits; rows start at multiples of 64, whatever the vocabulary is (alignment)."""
    return empty((tokens, -(-cols // 64) * 64), head.acc, head.rows.device)[:, :cols]


def logits_of(head: Head, hidden: Tensor, buffer: Tensor, first_col: int = 0) -> Tensor:
    """buffer[:T] = hidden [T, H] @ rows[first_col : first_col + N].T, not scaled; hidden in head.store."""
    out = buffer[: hidden.shape[0]]
    cols = head.rows[first_col : first_col + buffer.shape[1]]
    product_into(out, hidden, cols.T, accumulate=False, tuning=head.tuning, even_k=True)
    return out


def row_stats(head: Head, logits: Tensor, local: Tensor, out: Tensor) -> None:
    """out [3 or 4, T] = this rank's statistics of complete rows of logits [T, V]."""
    if head.triton:
        from . import kernel

        kernel.row_stats(logits, local, head.scale, out, head.tuning)
        return
    out[TOP] = logits.amax(-1) * head.scale
    out[PICKED] = torch.where(local >= 0, logits.gather(1, local.clamp(min=0)[:, None]).squeeze(1) * head.scale, 0.0)
    out[SUM] = 0
    out[WEIGHTED:] = 0
    for part in logits.split(COLUMNS, dim=1):  # temporaries stay in the caches
        shifted = (part * head.scale).sub_(out[TOP, :, None])
        e = shifted.exp()
        out[SUM] += e.sum(-1)
        if out.shape[0] == 4:
            out[WEIGHTED] += e.mul_(shifted).sum(-1)


def forward_stats(head: Head, hidden: Tensor, local: Tensor, entropy: bool) -> Tensor:
    """[3 or 4, T]: this rank's statistics of all tokens; hidden [T, H] in head.store. No gradient."""
    tokens, cols = hidden.shape[0], head.rows.shape[0]
    stats = hidden.new_zeros((4 if entropy else 3, tokens), dtype=head.acc)
    if cols == 0 or tokens == 0:
        stats[TOP] = float("-inf")
        return stats
    if head.triton and head.tuning.forward == "fused" and head.store.itemsize == 2:
        from . import kernel

        step = rows_within(head.tuning.logits_bytes, 40 * kernel.column_tiles(cols, entropy, head.tuning), tokens)
        parts = zip(hidden.split(step), local.split(step), strict=True)
        return torch.cat([kernel.linear_stats(h, head.rows, at, head.scale, entropy, head.tuning) for h, at in parts], 1)
    step = rows_within(head.tuning.logits_bytes, cols * head.acc.itemsize, tokens)
    buffer = logits_buffer(head, step, cols)
    for a in range(0, tokens, step):
        part = slice(a, min(a + step, tokens))
        row_stats(head, logits_of(head, hidden[part], buffer), local[part], stats[:, part])
    return stats


def finish(head: Head, stats: Tensor, keep: Tensor, bad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """(log Z [T], logprob [T], entropy [T] or None) over all ranks from each rank's statistics, which are overwritten.

    keep [T]: not ignored (ignored tokens give 0); bad [T]: the id is out of range (gives NaN).
    """
    if head.group is not None:
        top = stats[TOP].clone()
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=head.group)
        drop = (stats[TOP] - top).clamp(min=-1e30)  # -inf on a rank whose rows are all padding, where the sums are 0
        fade = drop.exp()
        if stats.shape[0] == 4:
            stats[WEIGHTED] = (stats[WEIGHTED] + drop * stats[SUM]) * fade
        stats[SUM] *= fade
        dist.all_reduce(stats[SUM:], group=head.group)
        stats[TOP] = top
    log_z = stats[TOP] + stats[SUM].log()
    logprob = torch.where(keep, torch.where(bad, float("nan"), stats[PICKED] - log_z), 0.0)
    entropy = torch.where(keep, stats[SUM].log() - stats[WEIGHTED] / stats[SUM], 0.0) if stats.shape[0] == 4 else None
    return log_z, logprob, entropy


def d_logits(
    head: Head,
    logits: Tensor,
    out: Tensor,
    local: Tensor,
    log_z: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None = None,
    entropy: Tensor | None = None,
    first_col: int = 0,
) -> None:
    """out [T, N] in head.store = gradient of the unscaled logits [T, N] (overwritten), given that of log-prob and entropy.

    `out` may be `logits` where head.store is head.acc.
    """
    if head.triton:
        from . import kernel

        kernel.d_logits(logits, out, local, first_col, log_z, head.scale, grad, grad_entropy, entropy, head.tuning)
        return
    logp = logits.mul_(head.scale).sub_(log_z[:, None])
    p = logp.exp() if grad_entropy is not None else logp.exp_()
    factor = grad[:, None] if grad_entropy is None else grad[:, None] + grad_entropy[:, None] * (logp + entropy[:, None])
    torch.mul(p, factor * -head.scale, out=out)
    here = (local >= first_col) & (local < first_col + logits.shape[1])
    at = torch.where(here, local - first_col, 0)
    out.scatter_add_(1, at[:, None], torch.where(here, grad * head.scale, 0.0)[:, None])


def gradients(
    head: Head,
    hidden: Tensor,
    weight_rows: int,
    local: Tensor,
    log_z: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None,
    entropy: Tensor | None,
    need: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """(d_hidden [T, H] head.acc summed over ranks, d_weight [weight_rows, H] head.store), None where not needed.

    Blocks of the vocabulary, all tokens: a block's part of d_weight is then one product over all tokens, rounded once, with no
    fp32 copy of the whole gradient; d_hidden adds up in fp32, block after block in order.
    """
    (tokens, width), cols, tuning = hidden.shape, head.rows.shape[0], head.tuning
    d_hidden = hidden.new_zeros((tokens, width), dtype=head.acc) if need[0] else None
    d_weight = empty((weight_rows, width), head.store, hidden.device) if need[1] else None
    if d_weight is not None:
        d_weight[cols if tokens else 0 :] = 0
    if cols > 0 and tokens > 0:
        # A block's logit gradients, and its part of d_weight before it is rounded.
        row_bytes = tokens * head.store.itemsize + (width * head.acc.itemsize if need[1] and head.store != head.acc else 0)
        step = max(rows_within(tuning.d_bytes * 3 // 4, row_bytes, cols, 256), min(cols, 1024))
        step = equal_parts(cols, step, 256)
        chunk = equal_parts(tokens, rows_within(tuning.logits_bytes, step * head.acc.itemsize, tokens), 128)
        logits, d = logits_buffer(head, chunk, step), empty((tokens, -(-step // 64) * 64), head.store, hidden.device)
        product = None if d_weight is None or head.store == head.acc else empty((step, width), head.acc, hidden.device)
        for v in range(0, cols, step):
            n = min(step, cols - v)
            for a in range(0, tokens, chunk):
                part = slice(a, min(a + chunk, tokens))
                block = logits_of(head, hidden[part], logits[:, :n], v)
                extra = (None, None) if grad_entropy is None else (grad_entropy[part], entropy[part])
                d_logits(head, block, d[part, :n], local[part], log_z[part], grad[part], *extra, first_col=v)
            if d_hidden is not None:
                product_into(d_hidden, d[:, :n], head.rows[v : v + n], accumulate=True, tuning=tuning, even_k=True)
            if d_weight is not None:
                target = d_weight[v : v + n] if product is None else product[:n]
                product_into(target, d[:, :n].T, hidden, accumulate=False, tuning=tuning)
                if product is not None:
                    d_weight[v : v + n] = target
    if d_hidden is not None and head.group is not None:
        dist.all_reduce(d_hidden, group=head.group)
    return d_hidden, d_weight
