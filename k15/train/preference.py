"""Direct preference optimisation (report 2.4) on the Megatron trainer: raise a chosen response over a rejected one.

    loss = sum_p w_p [ -(1 - s) logsigmoid(beta D_p) - s logsigmoid(-beta D_p) ],   w_p = 1 / pairs of the mini-batch
    D_p  = (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected)

pi and ref are log-probs of whole responses (sums over the tokens of the loss mask, at temperature 1); s is the label
smoothing. The gradient of either response needs both log-ratios, so the two share a micro-batch: pairs are packed as one
unit, and the loss does not depend on how they are split over micro-batches and ranks.

A list of samples here holds pairs: sample 2p is the chosen response of pair p, 2p + 1 the rejected one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state as mpu
from torch import Tensor

from k15.errors import ConfigError, DataError
from k15.types import Sample

from .batch import MicroBatch, response_offsets
from .metrics import Stopwatch
from .packing import Plan, pairs_as_units, plan_micro_batches
from .step import run
from .trainer import Trainer, speaks

METRICS = ("loss", "preferred", "margin", "chosen_log_ratio", "rejected_log_ratio")
"""`preferred`: share of pairs with D > 0; `margin`: mean of beta D; the log-ratios are means over pairs, in nats."""


@dataclass(frozen=True)
class Preference:
    """beta > 0: how strongly the reference holds. smoothing in [0, 0.5): assumed share of pairs with swapped labels."""

    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ConfigError(f"beta is {self.beta}; it must be > 0")
        if not 0 <= self.smoothing < 0.5:
            raise ConfigError(f"label_smoothing is {self.smoothing}; it must be at least 0 and below 0.5 (0.5 says nothing)")


class PreferenceTrainer(Trainer):
    """A Trainer that also learns from pairs. Every public method is collective; `reference` has one log-prob a sample."""

    def sequence_logprobs(self, samples: Sequence[Sample]) -> list[float]:
        """log p(response | prompt) of each sample under the current weights, over its loss mask, at temperature 1 (nats)."""
        self._check_on_device()
        self._check_samples(samples)
        lengths = torch.tensor([len(s.loss_mask) for s in samples])
        mask = torch.tensor([m for s in samples for m in s.loss_mask], dtype=torch.float64)
        scores = self._score(samples, 1.0).double() * mask
        return torch.segment_reduce(scores, "sum", lengths=lengths).tolist()

    def preference_step(
        self, samples: Sequence[Sample], reference: Sequence[float], lr: float, preference: Preference,
        micro_batch_tokens: int | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """One step; METRICS are of the mini-batch before it. Raises DataError for lists that are no pairs."""
        self.set_micro_batch_tokens(micro_batch_tokens)
        clock = Stopwatch(self.device)
        metrics = self._step(self.preference_gradients(samples, reference, preference), lr, clock)
        return metrics | clock.seconds() | {"samples": len(samples), "tokens": sum(len(s.tokens) for s in samples), "lr": lr}

    def preference_gradients(
        self, samples: Sequence[Sample], reference: Sequence[float], preference: Preference
    ) -> dict[str, float]:
        """METRICS, and the summed gradients in the DDP buffers, without a step."""
        samples = self._with(samples, reference)

        def compute(micro: MicroBatch, hidden: Tensor):
            logprob, _ = self._response_logprobs(hidden, micro, 1.0, entropy=False)
            if micro.empty:
                return logprob.sum(), torch.zeros(len(METRICS), device=self.device)
            sequence = torch.segment_reduce(logprob * micro.mask, "sum", offsets=micro.cu_seqlens.long())
            sums = _sums(sequence - micro.baseline, micro.weight[::2], preference)
            return sums[0].clone(), sums.detach()  # pipeline stages free the loss they are given: no view of what is kept

        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        weights = [2 / len(samples)] * len(samples)
        micro_batches = self._micro_batches(samples, weights, response_offsets(samples), None, self._plan_pairs(samples))
        collected = run(self.ddp, micro_batches, compute, forward_only=False)
        sums = torch.zeros(len(METRICS), device=self.device)
        if speaks():
            for part in collected:
                sums += part
        dist.all_reduce(sums)
        return dict(zip(METRICS, sums.tolist(), strict=True))

    def preference_loss(self, samples: Sequence[Sample], reference: Sequence[float], preference: Preference) -> dict[str, float]:
        """METRICS under the current weights, forward only."""
        pairs = self._with(samples, reference)
        now = torch.tensor(self.sequence_logprobs(pairs), dtype=torch.float64)
        ratio = now - torch.tensor(list(reference), dtype=torch.float64)
        sums = _sums(ratio, torch.full((len(pairs) // 2,), 2 / len(pairs), dtype=torch.float64), preference)
        return dict(zip(METRICS, sums.tolist(), strict=True))

    def _with(self, samples: Sequence[Sample], reference: Sequence[float]) -> list[Sample]:
        """Samples that carry the reference's log-prob as their baseline, as pairs that can be trained on."""
        self._check_on_device()
        self._check_samples(samples)
        if len(samples) % 2 or len(reference) != len(samples):
            raise DataError(f"{len(samples)} samples with {len(reference)} reference log-probs are no pairs")
        return [replace(s, baseline=float(r)) for s, r in zip(samples, reference, strict=True)]

    def _plan_pairs(self, samples: Sequence[Sample]) -> Plan:
        lengths = pairs_as_units([len(s.tokens) for s in samples])
        costs = pairs_as_units([self.work(len(s.tokens), len(s.loss_mask)) for s in samples])
        plan = plan_micro_batches(lengths, costs, mpu.get_data_parallel_world_size(), self.algo.micro_batch_tokens)
        return [[[i for p in part for i in (2 * p, 2 * p + 1)] for part in rank] for rank in plan]


def _sums(ratio: Tensor, weight: Tensor, preference: Preference) -> Tensor:
    """METRICS of pairs, each times its weight [P], summed: [5]. ratio [2P]: log-ratios of chosen and rejected in turn."""
    chosen, rejected = ratio[::2], ratio[1::2]
    scaled = preference.beta * (chosen - rejected)
    loss = -(1 - preference.smoothing) * F.logsigmoid(scaled) - preference.smoothing * F.logsigmoid(-scaled)
    parts = (loss, (scaled.detach() > 0).to(loss.dtype), scaled.detach(), chosen.detach(), rejected.detach())
    return torch.stack([(part * weight).sum() for part in parts])
