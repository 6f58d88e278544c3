"""The policy-mirror-descent loss of `linear_pmd` beside its log-probs (report 2.3.2): segment sums, factors, refusals.

Shapes: T packed response tokens, S sequences. The formula is k15.kernels.pmd's, and tests hold the two equal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..pmd.check import check_bounds


@dataclass(frozen=True)
class Terms:
    """The loss beside its log-probs. advantage = reward - baseline [S]; weight [S]; ref, mask [T] or None; bounds [S+1]."""

    bounds: list[int]
    ref: Tensor | None
    advantage: Tensor
    weight: Tensor
    mask: Tensor | None
    tau: float

    def log_ratio(self, logprob: Tensor, first: int, stop: int, start_token: int) -> Tensor:
        """[stop - first]: D of those sequences; logprob holds the tokens from start_token on."""
        if self.ref is None:
            return self.advantage.new_zeros(stop - first)
        a, b = self.bounds[first], self.bounds[stop]
        diff = logprob[a - start_token : b - start_token] - self.ref[a:b]
        if self.mask is not None:
            diff = diff * self.mask[a:b]
        # One sum a sequence: the same additions wherever in the pack, or in which group, it lies.
        return torch.stack([part.sum() for part in diff.split([self.bounds[s + 1] - self.bounds[s] for s in range(first, stop)])])

    def factors(self, log_ratio: Tensor, first: int, stop: int) -> Tensor:
        """[stop - first]: d loss / d D of those sequences."""
        return -self.weight[first:stop] * (self.advantage[first:stop] - self.tau * log_ratio)

    def coefficients(self, factors: Tensor, first: int, stop: int) -> Tensor:
        """The factors times the mask, for every token of sequences first..stop-1."""
        lengths = [self.bounds[s + 1] - self.bounds[s] for s in range(first, stop)]
        per_token = torch.cat([value.expand(n) for value, n in zip(factors, lengths, strict=True)])
        return per_token if self.mask is None else per_token * self.mask[self.bounds[first] : self.bounds[stop]]

    def loss(self, log_ratio: Tensor) -> Tensor:
        """Scalar."""
        return (self.weight * (self.advantage - self.tau * log_ratio).square()).sum() / (2 * self.tau)


def check_sequences(hidden, ref_logprob, reward, baseline, cu_seqlens, tau, mask, weight_s) -> list[int]:
    """cu_seqlens as a host list. ValueError for what pmd_loss refuses."""
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be > 0 (it divides the loss and weighs the log-ratio)")
    tokens, sequences = hidden.shape[0], reward.shape[0]
    if sequences == 0:
        raise ValueError("there is no sequence: reward is empty")
    sized = {"ref_logprob": (ref_logprob, tokens), "mask": (mask, tokens), "baseline": (baseline, sequences)}
    sized |= {"weight_s": (weight_s, sequences), "cu_seqlens": (cu_seqlens, sequences + 1)}
    for name, (tensor, want) in sized.items():
        if tensor is not None and tuple(tensor.shape) != (want,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {tokens} tokens in {sequences} sequences need [{want}]")
    bounds = cu_seqlens.tolist()
    check_bounds(bounds, tokens)
    return bounds
