"""Small numbers about a training iteration: how far the policy moved, and where the time went."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from k15.types import Sample

from .device import synchronize

PROBE_SAMPLES = 64


def probe_indices(count: int) -> list[int]:
    """At most PROBE_SAMPLES indices spread evenly over 0..count-1."""
    step = max(1, -(-count // PROBE_SAMPLES))
    return list(range(0, count, step))


def log_ratio_metrics(now: Tensor, reference: Tensor, samples: Sequence[Sample]) -> dict[str, float]:
    """Sequence log-ratios (sums over masked response tokens, nats) and the k3 estimate of KL(reference || now) a token.

    now, reference: [sum of response lengths]. k3 = exp(d) - 1 - d with d = now - reference, for tokens that the
    reference sampled: unbiased and never negative.
    """
    lengths = torch.tensor([len(s.loss_mask) for s in samples])
    mask = torch.tensor([m for s in samples for m in s.loss_mask], dtype=torch.float64)
    diff = (now.double() - reference.double()) * mask
    ratio = torch.segment_reduce(diff, "sum", lengths=lengths)
    k3 = ((diff.exp() - 1 - diff) * mask).sum() / mask.sum().clamp(min=1)
    return {
        "log_ratio_mean": float(ratio.mean()),
        "log_ratio_std": float(ratio.std(unbiased=False)),
        "log_ratio_max_abs": float(ratio.abs().max()),
        "kl_ref_now": float(k3),
    }


class Stopwatch:
    """Adds up host seconds a named part, with the device drained at each lap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: dict[str, float] = {}
        self._last = self._now()

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()

    def lap(self, part: str) -> None:
        now = self._now()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return {f"seconds_{part}": value for part, value in self._parts.items()}
