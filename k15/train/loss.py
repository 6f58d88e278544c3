"""From hidden states to the loss: log-probabilities of response tokens, then pmd, its variant by token, rest or sft.

Weights are those of the whole mini-batch over all data-parallel ranks, so that micro-batches and ranks simply add up:
    pmd   sum_s w_s / (2 tau) (r_s - b_s - tau D_s)^2,  w_s = 1/samples   report 2.3.2
    pmd_per_token  sum_s w_s / (2 tau) sum_t (r_s - b_s - tau d_t)^2, an ablation: D_s is the sum of the d_t of its tokens
    rest  sum_s w_s [correct_s] NLL_s,                   w_s = 1/samples   baseline of 3.5: no negative gradient
    sft   sum_s w_s NLL_s,                              w_s = 1/tokens    mean over the tokens that count
D_s and NLL_s are sums over the response tokens that the sample's loss mask selects.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from megatron.core import parallel_state as mpu
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor

from k15.config.schema import AlgoConfig
from k15.errors import DataError
from k15.kernels.logprob import linear_logprob
from k15.kernels.pmd import pmd_loss
from k15.types import Sample

from .batch import MicroBatch
from .context import join

LOSSES = ("pmd", "pmd_per_token", "rest")
REFERENCED = ("pmd", "pmd_per_token")  # losses that compare with the weights theta_i of the iteration


def response_logprobs(
    hidden: Tensor,
    weight: Tensor,
    micro: MicroBatch,
    *,
    temperature: float,
    vocab: int,
    sequence_parallel: bool,
    entropy: bool,
    kernels: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """(log-prob [R], entropy [R] or None) of the response tokens under softmax(logits / temperature).

    hidden [T, 1, H], or [T / tensor, 1, H] with sequence parallelism, of this context-parallel rank's tokens; the results are
    of the whole pack. weight [V_padded / tensor, H]. kernels: `algo.kernels`.
    """
    group = mpu.get_tensor_model_parallel_group()
    if sequence_parallel:
        # linear_logprob returns the complete gradient of hidden on every rank: backward only takes this rank's slice.
        hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False, group=group)
    rows = hidden.squeeze(1).index_select(0, micro.rows)
    out = linear_logprob(
        rows,
        weight,
        micro.targets,
        temperature=temperature,
        tp_group=group,
        return_entropy=entropy,
        vocab_size=vocab,
        backend=kernels,
    )
    logprob, entropies = out if entropy else (out, None)
    total, peers = micro.slots.shape[0], mpu.get_context_parallel_group()
    logprob = join(logprob, micro.own, total, peers)
    return logprob, None if entropies is None else join(entropies, micro.own, total, peers)


def used_samples(kind: str, samples: Sequence[Sample]) -> list[Sample]:
    """The samples of a mini-batch that its loss looks at, with the weights that they have in the whole of it.

    rest: the correct ones (without a verdict: those with a positive reward), so that wrong ones cost no computation;
    may be empty.
    """
    if kind != "rest":
        return list(samples)
    weights = sample_weights(kind, samples)
    return [replace(s, weight=w) for s, w in zip(samples, weights, strict=True) if _fits(s)]


def _fits(sample: Sample) -> bool:
    return sample.correct if sample.correct is not None else sample.reward > 0


def sample_weights(kind: str, samples: Sequence[Sample]) -> list[float]:
    """Every sample's factor in the loss of the mini-batch that `samples` is (its own `weight`, where it has one)."""
    if kind == "sft":
        own = [1.0 if s.weight is None else s.weight for s in samples]
        tokens = sum(w * sum(s.loss_mask) for w, s in zip(own, samples, strict=True))
        if not tokens > 0:
            raise DataError("no token of the batch counts in the loss: every loss mask is zero")
        return [w / tokens for w in own]
    return [1.0 / len(samples) if s.weight is None else s.weight for s in samples]


def micro_batch_loss(kind: str, logprob: Tensor, micro: MicroBatch, algo: AlgoConfig) -> Tensor:
    """This micro-batch's part of the loss (scalar); 0 with a gradient of 0 where it has no samples.

    For REFERENCED losses without a reference, the reference is the log-probs themselves: the first step from theta_i, where
    the log-ratio is zero and only its gradient counts.
    """
    if micro.empty:
        return logprob.sum()
    if kind in REFERENCED:
        ref = logprob.detach() if micro.ref is None else micro.ref
        terms = _token_terms(micro) if kind == "pmd_per_token" else _sequence_terms(micro, algo)
        reward, baseline, bounds, mask, weight = terms
        return pmd_loss(
            logprob, ref, reward, baseline, bounds, tau=algo.tau, mask=mask, weight=weight, backend=algo.kernels
        )[0]  # fmt: skip
    return -(logprob * micro.mask * _per_token(micro.weight, micro)).sum()


def _sequence_terms(micro: MicroBatch, algo: AlgoConfig) -> tuple[Tensor, ...]:
    """(reward [S], baseline [S], cu_seqlens [S+1], mask [R], weight [S]) of one square a sequence."""
    mask = micro.mask
    if algo.normalise_log_ratio_by_length:
        mask = mask / _per_token(torch.segment_reduce(mask, "sum", offsets=micro.cu_seqlens.long()).clamp(min=1), micro)
    return micro.reward, micro.baseline, micro.cu_seqlens, mask, micro.weight


def _token_terms(micro: MicroBatch) -> tuple[Tensor, ...]:
    """The same of one square a token: each is a sequence of its own, and those that the mask leaves out weigh nothing."""
    bounds = torch.arange(micro.mask.shape[0] + 1, dtype=torch.int32, device=micro.mask.device)
    weight = _per_token(micro.weight, micro) * micro.mask
    return _per_token(micro.reward, micro), _per_token(micro.baseline, micro), bounds, micro.mask, weight


def _per_token(per_sample: Tensor, micro: MicroBatch) -> Tensor:
    """[S] -> [R]"""
    return per_sample.repeat_interleave(micro.cu_seqlens.long().diff(), output_size=micro.mask.shape[0])
