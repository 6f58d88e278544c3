"""Collate samples into the tensors of one micro-batch; every pipeline stage of a data-parallel rank makes the same one.

Shapes: T packed tokens (padding included), S sequences, R response tokens of the S sequences, C context-parallel ranks.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from k15.types import Sample

from .attention import PackedLayout, Rotary, make_layout


@dataclass(frozen=True)
class MicroBatch:
    """`rows` are the packed positions whose hidden state predicts a response token, `targets` those tokens.

    With context parallelism `tokens`, `rows` (counted from this rank's first token) and `targets` are this rank's own;
    `own` says which of the R they are. All else is of the whole pack.
    `slots` are the response tokens' places in a flat list over all samples of the call (see `response_offsets`).
    A micro-batch without samples has one dummy sequence and R = S = 0.
    """

    tokens: Tensor  # int64 [T / C]
    layout: PackedLayout
    rows: Tensor  # int64 [R], or this rank's part of it
    targets: Tensor  # int64, as rows
    own: slice  # of R
    slots: Tensor  # int64 [R], on the host
    cu_seqlens: Tensor  # int32 [S+1], bounds of the sequences in R
    mask: Tensor  # fp32 [R]
    reward: Tensor  # fp32 [S]
    baseline: Tensor
    weight: Tensor
    ref: Tensor | None  # fp32 [R], reference log-probs

    @property
    def empty(self) -> bool:
        return self.reward.shape[0] == 0


def response_offsets(samples: Sequence[Sample]) -> list[int]:
    """Start of each sample's response tokens in a flat list over `samples`, and the total at the end."""
    return [0, *accumulate(len(s.loss_mask) for s in samples)]


def collate(
    indices: Sequence[int],
    samples: Sequence[Sample],
    weights: Sequence[float],
    offsets: Sequence[int],
    ref: Tensor | None,
    *,
    rotary: Rotary,
    device: torch.device,
    dtype: torch.dtype,
    multiple: int = 1,
    context: tuple[int, int] = (0, 1),
) -> MicroBatch:
    """The micro-batch of `samples[i] for i in indices`, padded by a dummy sequence to a multiple of `multiple` tokens.

    `context`: (rank, size) of context parallelism; the size divides `multiple`.

    `ref` [total response tokens] is on the host; None where the loss needs no reference.
    """
    chosen = [samples[i] for i in indices]
    lengths = [len(s.tokens) for s in chosen]
    padding = -sum(lengths) % multiple if lengths else multiple
    tokens: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    slots: list[int] = []
    mask: list[int] = []
    bounds = [0]
    for index, sample in zip(indices, chosen, strict=True):
        first = len(tokens) + sample.prompt_len - 1  # the last prompt token predicts the first response token
        count = len(sample.loss_mask)
        tokens += sample.tokens
        rows += range(first, first + count)
        targets += sample.tokens[sample.prompt_len :]
        slots += range(offsets[index], offsets[index] + count)
        mask += sample.loss_mask
        bounds.append(bounds[-1] + count)
    tokens += [0] * padding
    rank, size = context
    start, stop = len(tokens) * rank // size, len(tokens) * (rank + 1) // size
    own = slice(bisect_left(rows, start), bisect_left(rows, stop))

    def long(values) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(device)

    def real(values) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(device)

    where = torch.tensor(slots, dtype=torch.int64)
    return MicroBatch(
        tokens=long(tokens[start:stop]),
        layout=make_layout(lengths + [padding] * (padding > 0), rotary, device, dtype),
        rows=long(rows[own]) - start,
        targets=long(targets[own]),
        own=own,
        slots=where,
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32).to(device),
        mask=real(mask),
        reward=real([s.reward for s in chosen]),
        baseline=real([s.baseline for s in chosen]),
        weight=real([weights[i] for i in indices]),
        ref=None if ref is None else ref[where].to(device),
    )
