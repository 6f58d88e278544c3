"""Block sizes and memory budgets by device. A table, not a search: nothing is timed or compiled in the middle of a run.

The GPU rows were chosen from the architecture's limits (registers, shared memory, matrix-unit shape) and the compiler's
report; they have not been timed. benchmarks/kernels is where a better row shows itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ..backend import architecture


@dataclass(frozen=True)
class Tile:
    """One program's tile of a matrix product: m x n outputs, k a step; `group` row tiles share a sweep over the columns."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8


@dataclass(frozen=True)
class Tuning:
    """`forward`: "fused" (one Triton kernel, logits never leave the chip) or "blocks" (the library's matrix product into a
    block of logits, then one pass over it). `*_bytes` bound the block of logits (fp32) and of logit gradients (input dtype).
    """

    stats: Tile
    stats_entropy: Tile
    product: Tile
    row_block: int
    row_warps: int
    d_block: int
    d_warps: int
    forward: str
    logits_bytes: int
    d_bytes: int


_MIB = 1 << 20
# A block of 512 tokens x 152k logits is 311 MB: below that the product re-reads the weight too often to stay compute-bound.
_HOPPER = Tuning(
    stats=Tile(m=128, n=256, k=64, warps=8, stages=3, group=16),
    stats_entropy=Tile(m=128, n=128, k=64, warps=8, stages=4, group=16),
    product=Tile(m=128, n=128, k=64, warps=8, stages=3),
    row_block=4096,
    row_warps=8,
    d_block=2048,
    d_warps=4,
    forward="blocks",
    logits_bytes=300 * _MIB,
    d_bytes=900 * _MIB,
)
_SMALL = Tile(128, 128, 128, 4, 2)


def _with_tile(tuning: Tuning, tile: Tile) -> Tuning:
    return replace(tuning, stats=tile, stats_entropy=tile, product=tile)


TABLE: dict[str, Tuning] = {
    "sm_90": _HOPPER,
    "sm_80": _with_tile(_HOPPER, Tile(m=128, n=128, k=32, warps=8, stages=4)),
    # 64 KB of shared memory: two stages of 128 x 64 + 64 x 128 in 16 bits. torch there has no fp32-output product.
    "gfx942": replace(_with_tile(_HOPPER, Tile(m=128, n=128, k=64, warps=8, stages=2)), forward="fused"),
    # The interpreter and the PyTorch path: blocks that stay near the caches of a core.
    "cpu": Tuning(_SMALL, _SMALL, _SMALL, 1024, 4, 1024, 4, "fused", logits_bytes=16 * _MIB, d_bytes=128 * _MIB),
}
"""Architecture -> Tuning. A CUDA device that is not listed gets "sm_80" (fits every later one), a ROCm one "gfx942"."""


def row_of(device: torch.device) -> str:
    """The key of TABLE for a device; see there for those that are not listed."""
    name = architecture(device)
    if name == "interpreter":
        return "cpu"
    return name if name in TABLE else "gfx942" if name.startswith("gfx") else "sm_80"


def for_device(device: torch.device) -> Tuning:
    """The table's row for a device."""
    return TABLE[row_of(device)]


@contextmanager
def changed(device: torch.device, **fields) -> Iterator[Tuning]:
    """Within it the device's row has other values: for warm-up (small blocks), tests and measurements."""
    key = row_of(device)
    before = TABLE[key]
    TABLE[key] = replace(before, **fields)
    try:
        yield TABLE[key]
    finally:
        TABLE[key] = before
