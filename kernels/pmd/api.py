"""`pmd_loss`: policy mirror descent on sequence log-ratios (report 2.3.2, the squared surrogate before Eq. 3).

Shapes: T packed response tokens, S sequences, cu_seqlens int32 [S+1] with cu_seqlens[0] = 0 and cu_seqlens[S] = T.
"""

import torch
from torch import Tensor


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
) -> tuple[Tensor, Tensor]:
    """(loss scalar, log_ratio [S]); differentiable in logprob.

    log_ratio_s = sum_t mask_t (logprob_t - ref_logprob_t) over sequence s: the SUM is squared, not its terms;
    loss = sum_s weight_s / (2 tau) (reward_s - baseline_s - tau log_ratio_s)^2, weight 1/S by default.
    A caller that splits a mini-batch passes the weights of the whole, and the parts then add up to the same loss.
    logprob, ref_logprob, mask [T] (mask: any dtype, may hold fractions); reward, baseline, weight [S].

    Raises ValueError for tau <= 0, an empty sequence, cu_seqlens that do not rise from 0 to T, lengths that differ.
    """
    _check(logprob, ref_logprob, reward, baseline, cu_seqlens, tau, mask, weight)
    sequences = reward.shape[0]
    diff = logprob - ref_logprob
    if mask is not None:
        diff = diff * mask.to(diff.dtype)
    # segment_reduce adds in token order, so the result does not depend on where in the pack a sequence lies.
    log_ratio = torch.segment_reduce(diff, "sum", offsets=cu_seqlens.long(), initial=0.0)
    reward, baseline = reward.to(diff.dtype), baseline.to(diff.dtype)
    w = diff.new_full((sequences,), 1.0 / sequences) if weight is None else weight.to(diff.dtype)
    loss = (w * (reward - baseline - tau * log_ratio).square()).sum() / (2 * tau)
    return loss, log_ratio


def _check(logprob, ref_logprob, reward, baseline, cu_seqlens, tau, mask, weight) -> None:
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be > 0 (it divides the loss and weighs the log-ratio)")
    tokens, sequences = logprob.shape[0], reward.shape[0]
    if sequences == 0:
        raise ValueError("there is no sequence: reward is empty")
    for name, tensor, want in (
        ("ref_logprob", ref_logprob, tokens),
        ("mask", mask, tokens),
        ("baseline", baseline, sequences),
        ("weight", weight, sequences),
        ("cu_seqlens", cu_seqlens, sequences + 1),
    ):
        if tensor is not None and tuple(tensor.shape) != (want,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {tokens} tokens in {sequences} sequences need [{want}]")
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"cu_seqlens goes from {bounds[0]} to {bounds[-1]}; it must go from 0 to {tokens} (tokens)")
    for s in range(sequences):
        if bounds[s + 1] < bounds[s]:
            raise ValueError(f"cu_seqlens falls from {bounds[s]} to {bounds[s + 1]} at sequence {s}; it must rise")
        if bounds[s + 1] == bounds[s]:
            raise ValueError(f"sequence {s} is empty; drop it before the loss")
