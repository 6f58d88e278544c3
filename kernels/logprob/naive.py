"""The reference for `linear_logprob`: materialise the logits, log-softmax, gather. Single rank, autograd does the rest.

Shapes: T tokens, H hidden, V vocabulary.
"""

import torch
from torch import Tensor

IGNORE = -100
"""A target with this value gives log-probability 0, entropy 0 and no gradient."""


def linear_logprob_naive(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(logprob [T], entropy [T]) of softmax(hidden @ weight.T / temperature), fp32 (fp64 for fp64 inputs).

    hidden [T, H], weight [V, H], target [T] int64 in 0..V-1 or IGNORE. Rows of weight from `vocab_size` on are
    padding and take no part.
    """
    acc = torch.promote_types(hidden.dtype, torch.float32)
    rows = weight if vocab_size is None else weight[:vocab_size]
    logp = torch.log_softmax(hidden.to(acc) @ rows.to(acc).T / temperature, dim=-1)
    keep = target != IGNORE
    picked = logp.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    entropy = -(logp.exp() * logp).sum(-1)
    zero = torch.zeros_like(picked)
    return torch.where(keep, picked, zero), torch.where(keep, entropy, zero)
