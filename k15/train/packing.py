"""How samples become micro-batches: a balanced split over data-parallel ranks, then packs of bounded size. Torch-free.

Deterministic, the same on every rank, and free of any effect on the loss: weights are those of the whole mini-batch.
"""

import heapq
from collections.abc import Sequence
from itertools import pairwise

Plan = list[list[list[int]]]
"""plan[data-parallel rank][micro-batch] -> sample indices, longest first; all ranks have as many micro-batches."""


def split_over_ranks(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Sample indices of each rank: longest first, each to the rank with the fewest tokens (lowest on a tie)."""
    loads = [(0, rank) for rank in range(ranks)]
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, rank = heapq.heappop(loads)
        parts[rank].append(index)
        heapq.heappush(loads, (load + lengths[index], rank))
    return parts


def pack(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut `indices` (in order) into runs of at most `budget` tokens; a longer sample has its own run.

    In order, because neighbours in a list sorted by length pad least in the attention buckets.
    """
    runs: list[list[int]] = []
    used = budget
    for index in indices:
        if not runs or used + lengths[index] > budget:
            runs.append([])
            used = 0
        runs[-1].append(index)
        used += lengths[index]
    return runs


def plan_micro_batches(lengths: Sequence[int], ranks: int, budget: int) -> Plan:
    """Every rank gets as many micro-batches as the rank that needs most; the others' last ones may be empty.

    Expert parallelism and pipelines run in lockstep over ranks, hence the equal counts.
    """
    packs = [pack(part, lengths, budget) for part in split_over_ranks(lengths, ranks)]
    count = max([1, *(len(p) for p in packs)])
    return [p + [[] for _ in range(count - len(p))] for p in packs]


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
