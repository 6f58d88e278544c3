"""`linear_pmd`: hidden states to the policy-mirror-descent loss and its gradients in one pass (report 2.3.2).

Shapes: T packed response tokens, S sequences, H hidden, V vocabulary, n tensor-parallel ranks.

Within a sequence the loss depends on log-probs through one number, its log-ratio D, so every token's coefficient is the same:
    d loss / d logprob_t = -w_s (r_s - b_s - tau D_s) mask_t.
The gradient of the logits but for that factor, (onehot - p) / temperature, is known as soon as the logits are. So the forward
pass keeps it for a group of whole sequences in the input dtype, and when the group's D are known forms
    d_hidden_t = c_t (onehot_t - p_t) @ weight        d_weight += (onehot - p).T @ (c * hidden)
No logits are made twice: 6 T H V operations rather than 8. Of sequences longer than a group (about 3,000 tokens at V = 152k)
    one a call    has its d_weight summed without its coefficient, before any other's, and multiplied by it at the end: 6 T H V;
    the others    have their log-probs computed first: 8 T H V, for them alone; or, with `spare_sum`, use a second fp32 tensor
                  of the weight's shape in the same way: 6 T H V, for more memory than all other scratch together.
Without a reference (the first step of an iteration) D is 0, the coefficients are known beforehand, and no sequence is long.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from ..scratch import empty
from .api import choose_triton
from .blocks import (
    Head,
    d_logits,
    finish,
    forward_stats,
    local_targets,
    logits_buffer,
    logits_of,
    make_head,
    row_stats,
    rows_within,
)
from .check import check_arrived, check_shapes, check_targets
from .naive import IGNORE
from .product import product_into
from .terms import Terms, check_sequences
from .tuning import for_device


def linear_pmd(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    ref_logprob: Tensor | None,
    reward: Tensor,
    baseline: Tensor,
    cu_seqlens: Tensor,
    *,
    tau: float,
    temperature: float = 1.0,
    tp_group: dist.ProcessGroup | None = None,
    mask: Tensor | None = None,
    weight_s: Tensor | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    weight_grad: Tensor | None = None,
    spare_sum: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss scalar, log_ratio [S], logprob [T]), all fp32 (fp64 for fp64 inputs); the loss is differentiable, once: a
    second backward is an error of autograd's, also with retain_graph.

    The same as `pmd_loss(linear_logprob(hidden, weight, target), ref_logprob, reward, baseline, cu_seqlens)`, which
    describe the arguments. ref_logprob [T], or None for the log-probs themselves (log-ratio 0: the first step from the
    reference). mask [T]; weight_s [S], default 1/S: a caller with several micro-batches passes the weights of the whole
    mini-batch. cu_seqlens is read on the host: give it on the CPU to keep a GPU's queue running.

    weight_grad: fp32 tensor of weight's shape (a trainer's main gradient). The gradient is added to it during this call,
    as of a loss whose own gradient is 1, and autograd gets none for weight: nothing of weight's size is allocated.
    Without it the sum is held in fp32 here until it is complete, and then rounded to weight's dtype.
    spare_sum: see the module; worth it where long sequences are common and a second sum fits.
    In fp16 coefficients (about weight_s) below 6e-5 lose digits; scale weight_s up and the gradient down.

    Raises ValueError as linear_logprob and pmd_loss do.
    """
    size = 1 if tp_group is None else tp_group.size()
    total = weight.shape[0] * size if vocab_size is None else vocab_size
    check_shapes(hidden, weight, target, temperature, total, size)
    bounds = check_sequences(hidden, ref_logprob, reward, baseline, cu_seqlens, tau, mask, weight_s)
    triton = choose_triton(backend, hidden, "pmd fused with logprob")
    head = make_head(weight, temperature, tp_group, total, triton, for_device(hidden.device))
    if weight_grad is not None and (weight_grad.shape != weight.shape or weight_grad.dtype != head.acc):
        got = f"{weight_grad.dtype} {tuple(weight_grad.shape)}"
        raise ValueError(f"weight_grad is {got}; it must be {head.acc} {tuple(weight.shape)}, the sum's own dtype")
    grads = torch.is_grad_enabled()
    need = (grads and hidden.requires_grad, grads and (weight.requires_grad or weight_grad is not None))
    cast = lambda x: None if x is None else x.detach().to(hidden.device, head.acc)  # noqa: E731
    weights = hidden.new_full(reward.shape, 1.0 / len(reward), dtype=head.acc) if weight_s is None else cast(weight_s)
    terms = Terms(bounds, cast(ref_logprob), cast(reward) - cast(baseline), weights, cast(mask), tau)
    return _LinearPmd.apply(hidden, weight, target, check_targets(target, total), head, terms, need, weight_grad, spare_sum)


class _LinearPmd(torch.autograd.Function):
    """Gradients are formed in forward, as of a loss with gradient 1; backward multiplies them by the one it is given."""

    @staticmethod
    def forward(ctx, hidden, weight, target, bad, head, terms, need, weight_grad, spare_sum):
        local, keep = local_targets(target, weight.shape[0], head), target != IGNORE
        work = _Pass(head, terms, hidden.to(head.store).contiguous(), local, keep, bad, need, weight, weight_grad, spare_sum)
        logprob, log_ratio = work.run()
        ctx.save_for_backward(work.d_hidden, None if weight_grad is not None else work.finished_weight())
        ctx.mark_non_differentiable(log_ratio, logprob)
        return terms.loss(log_ratio), log_ratio, logprob

    @staticmethod
    def backward(ctx, grad_loss, _grad_log_ratio, _grad_logprob):
        check_arrived()
        # In place: nothing else holds them, and nothing of the weight's size is made again. A second backward is an error.
        scaled = [None if g is None else g.mul_(grad_loss) for g in ctx.saved_tensors]
        return *scaled, *[None] * 7


class _Pass:
    """One walk over the tokens. d_hidden [T, H] in hidden's dtype and the fp32 sum d_weight exist where they are needed."""

    def __init__(self, head: Head, terms: Terms, hidden, local, keep, bad, need, weight, weight_grad, spare_sum):
        self.head, self.terms, self.hidden, self.local, self.keep, self.bad = head, terms, hidden, local, keep, bad
        tokens, cols = hidden.shape[0], head.rows.shape[0]
        shard = weight.shape[0]  # plans must be the same on every rank, and the last one's `cols` may be smaller
        self.need, self.weight = need, weight
        self.d_hidden = torch.zeros_like(hidden, dtype=weight.dtype) if need[0] else None
        self.d_weight = weight_grad
        if need[1] and weight_grad is None:
            self.d_weight = empty(weight.shape, head.acc, hidden.device)
            self.d_weight[cols:] = 0
        self.spare = torch.empty_like(self.d_weight[:cols]) if need[1] and spare_sum else None
        self.begun = weight_grad is not None  # whether d_weight[:cols] holds something to add to
        self.group = rows_within(head.tuning.d_bytes, shard * head.store.itemsize, tokens)
        same = head.store == head.acc  # fp32: a group's gradients take the place of its logits
        self.chunk = self.group if same else rows_within(head.tuning.logits_bytes, shard * head.acc.itemsize, self.group)
        if any(need):
            self.logits = logits_buffer(head, self.chunk, cols)
            self.d = self.logits if same else empty((self.group, -(-cols // 64) * 64), head.store, hidden.device)[:, :cols]

    def run(self) -> tuple[Tensor, Tensor]:
        """(logprob [T], log_ratio [S])."""
        terms, bounds, sequences = self.terms, self.terms.bounds, len(self.terms.bounds) - 1
        if not any(self.need):
            logprob = self._logprobs(0, bounds[-1])
            return logprob, terms.log_ratio(logprob, 0, sequences, 0)
        if terms.ref is None:
            log_ratio = terms.log_ratio(self.keep, 0, sequences, 0)
            coefficients = terms.coefficients(terms.factors(log_ratio, 0, sequences), 0, sequences)
            return self._known(0, bounds[-1], coefficients), log_ratio
        groups = self._groups()
        done = {}
        # A long one first, while the sum is still empty. The order depends on lengths only: results repeat.
        for first, stop in sorted(groups, key=lambda g: bounds[g[1]] - bounds[g[0]] <= self.group):
            a, b = bounds[first], bounds[stop]
            if b - a > self.group:
                done[first] = self._long(first, a, b)
                continue
            logprob = self._keep_gradient(a, b)
            ratio = terms.log_ratio(logprob, first, stop, a)
            self._add(a, b, terms.coefficients(terms.factors(ratio, first, stop), first, stop))
            done[first] = (logprob, ratio)
        logprobs, ratios = zip(*(done[first] for first, _ in groups), strict=True)
        return torch.cat(logprobs), torch.cat(ratios)

    def _groups(self) -> list[tuple[int, int]]:
        """(first, stop) of runs of sequences that fit a group together; one that does not fit stands alone."""
        bounds, groups, first = self.terms.bounds, [], 0
        while first < len(bounds) - 1:
            stop = first + 1
            while stop < len(bounds) - 1 and bounds[stop + 1] - bounds[first] <= self.group:
                stop += 1
            groups.append((first, stop))
            first = stop
        return groups

    def _long(self, s: int, a: int, b: int) -> tuple[Tensor, Tensor]:
        """(logprob [b - a], log_ratio [1]) of one sequence longer than a group, its gradients added."""
        terms = self.terms
        into = self.d_weight if not self.begun else self.spare
        if self.need[1] and into is None:
            logprob = self._logprobs(a, b)
            ratio = terms.log_ratio(logprob, s, s + 1, a)
            self._known(a, b, terms.coefficients(terms.factors(ratio, s, s + 1), s, s + 1))
            return logprob, ratio
        cols = self.head.rows.shape[0]
        logprob = self._known(a, b, terms.coefficients(torch.ones_like(terms.weight[s : s + 1]), s, s + 1), into, fresh=True)
        ratio = terms.log_ratio(logprob, s, s + 1, a)
        factor = terms.factors(ratio, s, s + 1)
        if self.need[0]:
            self.d_hidden[a:b] = self.d_hidden[a:b] * factor
        if self.need[1] and into is self.d_weight:
            self.d_weight[:cols] *= factor
        elif self.need[1]:
            self.d_weight[:cols].addcmul_(into, factor)
        return logprob, ratio

    def _logprobs(self, a: int, b: int) -> Tensor:
        stats = forward_stats(self.head, self.hidden[a:b], self.local[a:b], False)
        return finish(self.head, stats, self.keep[a:b], self.bad[a:b])[1]

    def _known(self, a: int, b: int, coefficients: Tensor, into: Tensor | None = None, fresh: bool = False) -> Tensor:
        """log-probs [b - a] of tokens a..b, and gradients for coefficients [b - a] that are known; groups end anywhere."""
        parts = []
        for start in range(a, b, self.group):
            stop = min(start + self.group, b)
            parts.append(self._keep_gradient(start, stop))
            self._add(start, stop, coefficients[start - a : stop - a], into, fresh and start == a)
        return torch.cat(parts)

    def _keep_gradient(self, a: int, b: int) -> Tensor:
        """log-probs [b - a]; self.d[: b - a] = (onehot - p) / temperature (0 for ignored tokens)."""
        head, cols, logprobs = self.head, self.head.rows.shape[0], []
        for start in range(a, b, self.chunk):
            stop = min(start + self.chunk, b)
            part = slice(start, stop)
            stats = self.hidden.new_zeros((3, stop - start), dtype=head.acc)
            if cols > 0:
                logits = logits_of(head, self.hidden[part], self.logits)
                row_stats(head, logits, self.local[part], stats)
            else:
                stats[0] = float("-inf")
            log_z, logprob, _ = finish(head, stats, self.keep[part], self.bad[part])
            if cols > 0:
                one = torch.where(self.bad[part], float("nan"), self.keep[part].to(head.acc))
                d_logits(head, logits, self.d[start - a : stop - a], self.local[part], log_z, one)
            logprobs.append(logprob)
        return torch.cat(logprobs)

    def _add(self, a: int, b: int, coefficients: Tensor, into: Tensor | None = None, fresh: bool = False) -> None:
        """Adds the gradients of tokens a..b, whose self.d is complete: d_weight's to `into` (overwriting if fresh) or the sum."""
        head, d = self.head, self.d[: b - a]
        cols = head.rows.shape[0]
        if self.need[0]:
            out = self.hidden.new_zeros((b - a, self.hidden.shape[1]), dtype=head.acc)
            if cols > 0:
                product_into(out, d, head.rows, accumulate=False, tuning=head.tuning, even_k=True)
            if head.group is not None:
                dist.all_reduce(out, group=head.group)
            self.d_hidden[a:b] = out.mul_(coefficients[:, None])
        if not self.need[1]:
            return
        if cols > 0:
            scaled = (self.hidden[a:b] * coefficients[:, None]).to(head.store)
            total, add = (self.d_weight, self.begun) if into is None else (into, not fresh)
            product_into(total[:cols], d.T, scaled, accumulate=add, tuning=head.tuning)
        self.begun = True  # on a rank without rows too: all ranks must take the same way

    def finished_weight(self) -> Tensor | None:
        """d_weight in the weight's dtype; the fp32 sum and the blocks are released."""
        if not self.need[1]:
            return None
        if not self.begun:
            self.d_weight.zero_()  # there was no token
        self.logits = self.d = self.spare = None
        return self.d_weight.to(self.weight.dtype)
