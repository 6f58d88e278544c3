"""The reference for `pmd_loss`: the report's per-sequence squared log-ratio loss (2.3.2), one loop over sequences."""

import torch
from torch import Tensor


def pmd_loss_naive(
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
    """See `k15.kernels.pmd.pmd_loss`, which must agree with this."""
    sequences = reward.shape[0]
    loss = logprob.new_zeros(())
    ratios = []
    for s in range(sequences):
        part = slice(int(cu_seqlens[s]), int(cu_seqlens[s + 1]))
        diff = logprob[part] - ref_logprob[part]
        log_ratio = (diff if mask is None else diff * mask[part]).sum()
        w = 1.0 / sequences if weight is None else weight[s]
        loss = loss + w / (2 * tau) * (reward[s] - baseline[s] - tau * log_ratio) ** 2
        ratios.append(log_ratio)
    return loss, torch.stack(ratios)
