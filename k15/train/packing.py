"""How samples become micro-batches: a split over data-parallel ranks by work, then packs of bounded size. Torch-free.

Deterministic, the same on every rank, and free of any effect on the loss: weights are those of the whole mini-batch.
A unit is what must stay together: one sample, or the two of a preference pair.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .shape import ModelShape

Plan = list[list[list[int]]]
"""plan[data-parallel rank][micro-batch] -> unit indices, largest first; all ranks have as many micro-batches."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a forward pass over one sequence: token * length + square * length^2 + response * head.

    `token`: the layers' matrix products; `square`: causal attention; `response`: the output head, for response tokens only.
    Backward passes take twice as much of each, so the shares of a whole step are the same.
    """

    token: float
    square: float
    response: float

    @classmethod
    def of(cls, shape: ModelShape) -> "Work":
        """The work of one model; a multiply and an add are two operations."""
        queries, latent = shape.heads * shape.head_dim, shape.latent
        if latent is None:
            values = queries
            attention = shape.hidden * (2 * queries + 2 * shape.kv_heads * shape.head_dim)
        else:
            values, rank = shape.heads * latent.value, latent.query_rank
            attention = shape.hidden * queries if rank is None else rank * (shape.hidden + queries)
            attention += shape.hidden * (latent.kv_rank + latent.rotated + values)
            attention += latent.kv_rank * shape.heads * (latent.plain + latent.value)
        dense = 3 * shape.hidden * shape.intermediate
        experts = 3 * (shape.expert_intermediate * shape.experts_per_token + shape.shared_intermediate) + shape.experts
        sparse = len(shape.sparse)
        layers = shape.layers * attention + (shape.layers - sparse) * dense + sparse * shape.hidden * experts
        head = shape.hidden * (1 if shape.scalar else shape.vocab)
        # Scores and their product with the values, each over the half of the square that causality leaves.
        return cls(token=2.0 * layers, square=1.0 * (queries + values) * shape.layers, response=2.0 * head)

    def __call__(self, length: int, responses: int) -> float:
        """Of a sequence of `length` tokens, `responses` of which are response tokens."""
        return length * (self.token + self.square * length) + self.response * responses


def split_over_ranks(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Unit indices of each rank: costliest first, each to the rank with the least work (lowest on a tie)."""
    loads = [(0.0, rank) for rank in range(ranks)]
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = loads[0]
        parts[rank].append(index)
        heapq.heapreplace(loads, (load + costs[index], rank))
    return parts


def pack(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """`indices` in packs of at most `budget` tokens, by best fit: longest first, each into the fullest pack that still has
    room for it. A unit longer than the budget has a pack of its own.

    Each pack is sorted by length, because neighbours of similar length pad least in the attention buckets.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, pack), ascending: the best fit is found by bisection
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        at = bisect_left(room, (size, -1))
        if at < len(room):
            free, number = room.pop(at)
        else:
            free, number = max(budget, size), len(packs)
            packs.append([])
        packs[number].append(index)
        if free > size:
            insort(room, (free - size, number))
    return packs


def plan_micro_batches(lengths: Sequence[int], costs: Sequence[float], ranks: int, budget: int) -> Plan:
    """Units balanced over `ranks` by cost, packed within each by length into at most `budget` tokens.

    Every rank gets as many micro-batches as the rank that needs most; the others' last ones may be empty. Expert
    parallelism and pipelines run in lockstep over ranks, hence the equal counts; the costliest packs of all ranks meet.
    """
    packs = [pack(part, lengths, budget) for part in split_over_ranks(costs, ranks)]
    for part in packs:
        part.sort(key=lambda p: -sum(costs[i] for i in p))
    count = max([1, *(len(p) for p in packs)])
    return [p + [[] for _ in range(count - len(p))] for p in packs]


def balance(plan: Plan, costs: Sequence[float]) -> float:
    """Work of the busiest rank over the mean of all: 1 is perfect."""
    loads = [sum(costs[i] for part in rank for i in part) for rank in plan]
    return max(loads) * len(loads) / sum(loads)


def pairs_as_units(values: Sequence[float]) -> list[float]:
    """Sums of samples 2i and 2i+1: sizes or costs of preference pairs."""
    return [a + b for a, b in zip(values[::2], values[1::2], strict=True)]


def split_minibatches(groups: Sequence[int], count: int) -> list[list[int]]:
    """Sample indices of each of `count` mini-batches, whole groups in order of appearance; sizes differ by at most
    one group where groups are equal.

    With fewer groups than `count` (partial rollouts: few prompts may be complete) each group is a mini-batch.
    Raises ValueError for a count below 1.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = list(members.values())
    if count < 1:
        raise ValueError(f"algo.minibatches is {count}; it must be at least 1")
    count = min(count, len(order))
    bounds = [len(order) * i // count for i in range(count + 1)]
    return [[i for group in order[a:b] for i in group] for a, b in pairwise(bounds)]
