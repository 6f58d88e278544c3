"""Triton kernels of `periodic_tail` and `RepetitionState`. docs: k15.kernels.repetition.

Legend: S sequences, T packed tokens, B rows of the streaming state, P = max_period, R ring slots (a power of two > P).

    _short_list   a program a sequence and block of periods: the smallest period of the block that holds, or NONE
    _finish       a program a sequence: the smallest of those, and how far back the tail with that period goes
    _update       a program a row: one decoding step of the streaming state
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend import on_device
from ..compile_case import TARGETS, CompileCase
from ..scratch import empty

NONE = tl.constexpr(2**31 - 1)
PERIODS, OFFSETS = 64, 16  # a tile of `_short_list`; nearly every period fails within its first tile
ROW = 256  # partial results that `_finish` reads at once
BACK = 1024  # tokens that `_finish` goes back at once
LAGS = 1024  # lags that `_update` treats at once
WARPS = {"short_list": 4, "finish": 4, "update": 4}


@triton.jit(do_not_specialize=["min_period", "max_period", "copies"])
def _short_list(
    tokens, cu_seqlens, best, min_period, max_period, copies, PERIODS: tl.constexpr, OFFSETS: tl.constexpr
):  # fmt: skip
    """best [S, blocks]: smallest period of block (s, i) whose last copies * p tokens equal those p before, or NONE."""
    s = tl.program_id(0)
    i = tl.program_id(1)
    end = tl.load(cu_seqlens + s + 1).to(tl.int32)
    length = end - tl.load(cu_seqlens + s).to(tl.int32)
    p = min_period + i * PERIODS + tl.arange(0, PERIODS)
    need = copies * p
    alive = (p <= max_period) & (need + p <= length)
    longest = tl.max(tl.where(alive, need, 0), 0)
    done = 0
    while done < longest:
        j = done + tl.arange(0, OFFSETS)
        here = tl.load(tokens + (end - 1 - j), mask=j < length, other=0)
        look = alive[None, :] & (j[:, None] < need[None, :])
        before = tl.load(tokens + (end - 1 - j[:, None] - p[None, :]), mask=look, other=0)
        bad = look & (here[:, None] != before)
        alive = alive & (tl.max(bad.to(tl.int32), 0) == 0)
        longest = tl.max(tl.where(alive, need, 0), 0)
        done += OFFSETS
    tl.store(best + s.to(tl.int64) * tl.num_programs(1) + i, tl.min(tl.where(alive, p, NONE), 0))


@triton.jit(do_not_specialize=["blocks", "copies"])
def _finish(
    tokens, cu_seqlens, best, period, start, blocks, copies, ROW: tl.constexpr, BACK: tl.constexpr
):  # fmt: skip
    """period, start [S] from best [S, blocks]; the run of matches is followed back to its first mismatch."""
    s = tl.program_id(0)
    end = tl.load(cu_seqlens + s + 1).to(tl.int32)
    length = end - tl.load(cu_seqlens + s).to(tl.int32)
    p = tl.full((), NONE, tl.int32)
    for first in range(0, blocks, ROW):
        i = first + tl.arange(0, ROW)
        p = tl.minimum(p, tl.min(tl.load(best + s.to(tl.int64) * blocks + i, mask=i < blocks, other=NONE), 0))
    found = p != NONE
    p = tl.where(found, p, 0)
    limit = length - p
    run = tl.where(found, copies * p, limit)  # without a period there is nothing to follow
    going = run < limit
    while going:
        j = run + tl.arange(0, BACK)
        inside = j < limit
        here = tl.load(tokens + (end - 1 - j), mask=inside, other=0)
        before = tl.load(tokens + (end - 1 - j - p), mask=inside, other=0)
        stop = tl.min(tl.where(inside & (here == before), NONE, j), 0)
        going = stop == NONE
        run = tl.where(going, run + BACK, stop)
    tl.store(period + s, p)
    tl.store(start + s, tl.where(found, limit - run, length))


@triton.jit(do_not_specialize=["max_period", "slots", "copies", "min_period"])
def _update(
    new, ring, at, run, flags, max_period, slots, copies, min_period, LAGS: tl.constexpr
):  # fmt: skip
    """One step: ring [B, R], run [B, P] and flags [B] with new [B]; a negative token leaves its row as it is."""
    b = tl.program_id(0)
    token = tl.load(new + b).to(tl.int32)
    hit = 0
    if token >= 0:
        row_ring = ring + b.to(tl.int64) * slots
        row_run = run + b.to(tl.int64) * max_period
        slot = tl.load(at + b)
        for first in range(1, max_period + 1, LAGS):
            lag = first + tl.arange(0, LAGS)
            inside = lag <= max_period
            before = tl.load(row_ring + ((slot - lag) & (slots - 1)), mask=inside, other=-1)
            need = tl.where(lag >= min_period, copies * lag, NONE)
            longer = tl.minimum(tl.load(row_run + lag - 1, mask=inside, other=0) + 1, need)
            longer = tl.where(before == token, longer, 0)
            tl.store(row_run + lag - 1, longer, mask=inside)
            hit |= tl.max((inside & (longer >= need)).to(tl.int32), 0)
        tl.store(row_ring + slot, token)  # no lag of this step reads this slot: R > P
        tl.store(at + b, (slot + 1) & (slots - 1))
    tl.store(flags + b, hit.to(tl.uint8))


def periodic_tail_triton(
    tokens: Tensor, cu_seqlens: Tensor, *, max_period: int, min_repeats: int, min_period: int
) -> tuple[Tensor, Tensor]:
    """See `k15.kernels.repetition.periodic_tail`; arguments are checked there. Two launches, no read by the host."""
    sequences = cu_seqlens.shape[0] - 1
    blocks = triton.cdiv(max_period - min_period + 1, PERIODS)
    best = empty((sequences, blocks), torch.int32, tokens.device)
    period, start = (empty(sequences, torch.int32, tokens.device) for _ in range(2))
    with on_device(tokens.device):
        _short_list[sequences, blocks](
            tokens, cu_seqlens, best, min_period, max_period, min_repeats - 1, PERIODS, OFFSETS, num_warps=WARPS["short_list"]
        )
        _finish[sequences,](
            tokens, cu_seqlens, best, period, start, blocks, min_repeats - 1, ROW, BACK, num_warps=WARPS["finish"]
        )  # fmt: skip
    return period, start


def update_triton(new: Tensor, ring: Tensor, at: Tensor, run: Tensor, flags: Tensor, min_repeats: int, min_period: int) -> None:
    """One step of a RepetitionState, in place: new [B], ring [B, R] int32, at [B], run [B, P] int32, flags [B] bool."""
    batch, max_period = run.shape
    with on_device(new.device):
        _update[batch,](
            new, ring, at, run, flags.view(torch.uint8), max_period, ring.shape[1], min_repeats - 1, min_period,
            LAGS=lag_block(max_period), num_warps=WARPS["update"],
        )  # fmt: skip


def lag_block(max_period: int) -> int:
    """Lags that `_update` treats at once: a power of two, no more than are needed."""
    return min(LAGS, max(32, triton.next_power_of_2(max_period)))


def compile_cases() -> list[CompileCase]:
    """Both types that token ids come in, and the widest row of lags."""
    cases = []
    for target in TARGETS:
        for dtype in ("i32", "i64"):
            pack = {"tokens": f"*{dtype}", "cu_seqlens": "*i32"}
            bounds = {"min_period": "i32", "max_period": "i32", "copies": "i32"}
            tile = {"PERIODS": PERIODS, "OFFSETS": OFFSETS}
            cases.append(_case("short_list", target, dtype, _short_list, pack | {"best": "*i32"} | bounds, tile))
            outs = {"best": "*i32", "period": "*i32", "start": "*i32"}
            counts = {"blocks": "i32", "copies": "i32"}
            cases.append(_case("finish", target, dtype, _finish, pack | outs | counts, {"ROW": ROW, "BACK": BACK}))
            state = {"new": f"*{dtype}", "ring": "*i32", "at": "*i32", "run": "*i32", "flags": "*u8"}
            sizes = {"max_period": "i32", "slots": "i32", "copies": "i32", "min_period": "i32"}
            cases.append(_case("update", target, dtype, _update, state | sizes, {"LAGS": LAGS}))
    return cases


def _case(name: str, target: str, dtype: str, kernel, arguments: dict[str, str], constants: dict[str, int]) -> CompileCase:
    signature = arguments | dict.fromkeys(constants, "constexpr")
    pointers = tuple(n for n, kind in arguments.items() if kind.startswith("*"))
    return CompileCase(
        f"repetition.{name}[{dtype}]", target, kernel, signature, constants, {"num_warps": WARPS[name]}, pointers
    )  # fmt: skip
