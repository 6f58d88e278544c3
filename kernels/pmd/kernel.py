"""Triton for `pmd_loss`: segment sums, then loss and coefficients, then (in backward) the gradient.

    _segment_sums   reads logprob, ref, mask once; adds each tile's part of every sequence into sums [3, S]
    _finish         sums [3, S] -> loss, log_ratio [S], coefficient [S]; one program, a fixed order
    _gradient       reads mask, writes d_logprob [T] = (g_loss coefficient_s + g_ratio_s) mask_t

Tiles are BLOCK neighbouring tokens wherever sequences begin, so one giant sequence and thousands of tiny ones load the
chip alike. Sums are INTEGERS: a term x is split into floor(x 2^16) and the rest times 2^56, each added in int64. Integer
addition has no order, hence atomics are repeatable bit for bit, and a sequence's sum depends neither on its place in the
pack nor on how it is split over tiles, ranks or devices. A term is exact but for 2^-56, so log_ratio is the rounded true sum.

Shapes: T tokens, S sequences, cu_seqlens int32 [S+1].
"""

import struct
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend import architecture, on_device
from ..compile_case import TARGETS, CompileCase
from ..scratch import empty

MAX_TOKENS = 1 << 23
"""Packed tokens in one call: the low parts of so many terms still fit in an int64."""
SEARCH = 128  # bounds looked at together while searching a token's sequence
FINISH_BLOCK = 1024
_HIGH: tl.constexpr = tl.constexpr(65536.0)  # 2^16
_LOW: tl.constexpr = tl.constexpr(1099511627776.0)  # 2^40: the rest of x 2^16, in units of 2^-56
_LARGEST: tl.constexpr = tl.constexpr(16777216.0)  # 2^24: a larger term, an infinity or a NaN makes its sequence NaN


@dataclass(frozen=True)
class Launch:
    """Tile and warps of the two kernels that go over the tokens."""

    block: int
    num_warps: int


LAUNCH = {
    "sm_80": Launch(512, 4),
    "sm_90": Launch(512, 4),  # four tokens a thread: one 16-byte load an array; 28 warps an SM
    "gfx942": Launch(512, 2),  # 64 lanes a warp
    "interpreter": Launch(64, 1),
}
"""By architecture. Chosen from registers and occupancy (docs/kernels-table.md), not measured."""
DEFAULT_LAUNCH = Launch(512, 4)


@triton.jit
def _sequence_of(cu_ptr, sequences, token, SEARCH: tl.constexpr):
    """Last s in 0..S-1 with cu[s] <= token: a search with SEARCH branches, two rounds for 16,384 sequences."""
    low = token * 0
    size = low + sequences
    lanes = tl.arange(0, SEARCH)
    while size > 1:
        step = (size + SEARCH - 1) // SEARCH
        at = lanes * step
        bounds = tl.load(cu_ptr + low + at, mask=at < size, other=2147483647)
        chosen = tl.maximum(tl.sum((bounds <= token).to(tl.int32)) - 1, 0) * step
        low += chosen
        size = tl.minimum(step, size - chosen)
    return low


@triton.jit
def _sequences_of(cu_ptr, first, last, tokens):
    """The same for a tile of tokens whose sequences are first..last: a binary search, all tokens in step."""
    low = tokens * 0 + first
    size = last - first + 1
    while size > 1:
        half = size // 2
        low = tl.where(tl.load(cu_ptr + low + half) <= tokens, low + half, low)
        size -= half
    return low


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _segment_sums(
    logprob_ptr,
    ref_ptr,
    mask_ptr,
    cu_ptr,
    sums_ptr,  # int64 [3, S], zero: high parts, low parts, number of terms that are not finite or too large
    tokens,
    sequences,
    HAS_MASK: tl.constexpr,
    SEARCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    stop = tl.minimum(start + BLOCK, tokens)
    if start + BLOCK <= tokens:  # without a mask loads are 16 bytes wide whatever T is
        x = tl.load(logprob_ptr + offs).to(tl.float64) - tl.load(ref_ptr + offs).to(tl.float64)
        if HAS_MASK:
            x *= tl.load(mask_ptr + offs).to(tl.float64)
    else:
        inside = offs < tokens
        x = tl.load(logprob_ptr + offs, mask=inside, other=0.0).to(tl.float64)
        x -= tl.load(ref_ptr + offs, mask=inside, other=0.0).to(tl.float64)
        if HAS_MASK:
            x *= tl.load(mask_ptr + offs, mask=inside, other=0).to(tl.float64)
    good = tl.abs(x) < _LARGEST
    scaled = tl.where(good, x, 0.0) * _HIGH
    whole = tl.floor(scaled)
    high = whole.to(tl.int64)
    low = ((scaled - whole) * _LOW).to(tl.int64)
    bad = 1 - good.to(tl.int32)
    first = _sequence_of(cu_ptr, sequences, start, SEARCH)
    last = _sequence_of(cu_ptr, sequences, stop - 1, SEARCH)
    if first == last:
        tl.atomic_add(sums_ptr + first, tl.sum(high), sem="relaxed")
        tl.atomic_add(sums_ptr + sequences + first, tl.sum(low), sem="relaxed")
        bads = tl.sum(bad)
        if bads > 0:
            tl.atomic_add(sums_ptr + 2 * sequences + first, bads.to(tl.int64), sem="relaxed")
    else:
        # A sequence's sum is the running sum at its last token less that before its first: exact, in integers.
        s = _sequences_of(cu_ptr, first, last, tl.minimum(offs, stop - 1))
        opens = (offs == tl.maximum(tl.load(cu_ptr + s), start)) & (offs < stop)
        closes = offs == tl.minimum(tl.load(cu_ptr + s + 1), stop) - 1
        edge = opens | closes
        run = tl.cumsum(high, 0)
        tl.atomic_add(sums_ptr + s, tl.where(closes, run, 0) - tl.where(opens, run - high, 0), mask=edge, sem="relaxed")
        run = tl.cumsum(low, 0)
        at = sums_ptr + sequences + s
        tl.atomic_add(at, tl.where(closes, run, 0) - tl.where(opens, run - low, 0), mask=edge, sem="relaxed")
        tl.atomic_add(sums_ptr + 2 * sequences + s, bad.to(tl.int64), mask=(bad > 0) & (offs < stop), sem="relaxed")


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _finish(
    sums_ptr,
    extra_ptr,
    cu_ptr,
    reward_ptr,
    baseline_ptr,
    weight_ptr,
    loss_ptr,
    ratio_ptr,
    coefficient_ptr,
    tokens,
    sequences,
    tau_high,  # a float argument is fp32: tau comes in two pieces
    tau_low,
    HAS_EXTRA: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    ALLOW_EMPTY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lanes = tl.arange(0, BLOCK)
    wrong = ((tl.load(cu_ptr) != 0) | (tl.load(cu_ptr + sequences) != tokens)).to(tl.int32)
    for at in range(0, sequences, BLOCK):
        s = at + lanes
        inside = s < sequences
        length = tl.load(cu_ptr + s + 1, mask=inside, other=1) - tl.load(cu_ptr + s, mask=inside, other=0)
        falls = length < 0 if ALLOW_EMPTY else length < 1
        wrong += tl.sum((falls & inside).to(tl.int32))
    one = tl.full([], 1.0, tl.float64)
    tau = one * tau_high + tau_low  # fp64 throughout: gaps cancel, and there are only S of them
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, sequences, BLOCK):
        s = at + lanes
        inside = s < sequences
        high = tl.load(sums_ptr + s, mask=inside, other=0).to(tl.float64)
        low = tl.load(sums_ptr + sequences + s, mask=inside, other=0).to(tl.float64)
        bad = tl.load(sums_ptr + 2 * sequences + s, mask=inside, other=0)
        ratio = (high + low / _LOW) / _HIGH
        if HAS_EXTRA:
            ratio += tl.load(extra_ptr + s, mask=inside, other=0.0).to(tl.float64)
        ratio = tl.where((bad > 0) | (wrong > 0), float("nan"), ratio)
        reward = tl.load(reward_ptr + s, mask=inside, other=0.0).to(tl.float64)
        gap = reward - tl.load(baseline_ptr + s, mask=inside, other=0.0).to(tl.float64) - tau * ratio
        weight = tl.load(weight_ptr + s, mask=inside, other=0.0).to(tl.float64) if HAS_WEIGHT else one / sequences
        tl.store(ratio_ptr + s, ratio.to(tl.float32), mask=inside)
        tl.store(coefficient_ptr + s, (-weight * gap).to(tl.float32), mask=inside)
        total += tl.where(inside, weight * gap * gap, 0.0)
    tl.store(loss_ptr, (tl.sum(total) / (2.0 * tau)).to(tl.float32))


@triton.jit(do_not_specialize=["tokens", "sequences"])
def _gradient(
    mask_ptr,
    cu_ptr,
    coefficient_ptr,
    g_loss_ptr,
    g_ratio_ptr,
    grad_ptr,
    tokens,
    sequences,
    HAS_MASK: tl.constexpr,
    SEARCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    stop = tl.minimum(start + BLOCK, tokens)
    full = start + BLOCK <= tokens
    m = tl.full([BLOCK], 1.0, tl.float32)
    if HAS_MASK:
        if full:
            m = tl.load(mask_ptr + offs).to(tl.float32)
        else:
            m = tl.load(mask_ptr + offs, mask=offs < tokens, other=0).to(tl.float32)
    g_loss = tl.load(g_loss_ptr)
    first = _sequence_of(cu_ptr, sequences, start, SEARCH)
    last = _sequence_of(cu_ptr, sequences, stop - 1, SEARCH)
    if first == last:
        d = m * (g_loss * tl.load(coefficient_ptr + first) + tl.load(g_ratio_ptr + first))
    else:
        s = _sequences_of(cu_ptr, first, last, tl.minimum(offs, stop - 1))
        d = m * (g_loss * tl.load(coefficient_ptr + s) + tl.load(g_ratio_ptr + s))
    if full:
        tl.store(grad_ptr + offs, d.to(grad_ptr.dtype.element_ty))
    else:
        tl.store(grad_ptr + offs, d.to(grad_ptr.dtype.element_ty), mask=offs < tokens)


def segment_sums(logprob: Tensor, ref: Tensor, cu: Tensor, mask: Tensor | None) -> Tensor:
    """int64 [3, S]: per sequence the high and low parts of sum mask (logprob - ref), and how many terms were unusable.

    Adding such tensors, of several ranks or packs, is exact; `finish` turns them into log-ratios. No device sync.
    """
    tokens, sequences = logprob.shape[0], cu.shape[0] - 1
    sums = torch.zeros((3, sequences), dtype=torch.int64, device=logprob.device)
    launch = _launch(logprob.device)
    if tokens > 0:
        with on_device(logprob.device):
            _segment_sums[(triton.cdiv(tokens, launch.block),)](
                logprob.contiguous(), ref.contiguous(), None if mask is None else mask.contiguous(), cu, sums,
                tokens, sequences, HAS_MASK=mask is not None, SEARCH=SEARCH, BLOCK=launch.block, num_warps=launch.num_warps,
            )  # fmt: skip
    return sums


def finish(
    sums: Tensor,
    cu: Tensor,
    reward: Tensor,
    baseline: Tensor,
    weight: Tensor | None,
    extra: Tensor | None,
    tau: float,
    tokens: int,
    allow_empty: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss [], log_ratio [S], d loss / d log_ratio [S]), fp32; all NaN if cu is not a rising list from 0 to `tokens`.

    reward, baseline, weight, extra: fp32 [S]. The check is made on the device, so nothing waits for it.
    """
    sequences, tau_high = reward.shape[0], struct.unpack("f", struct.pack("f", tau))[0]
    loss, ratio, coefficient = (empty(shape, torch.float32, sums.device) for shape in ((), (sequences,), (sequences,)))
    with on_device(sums.device):
        _finish[(1,)](
            sums, extra, cu, reward, baseline, weight, loss, ratio, coefficient, tokens, sequences, tau_high, tau - tau_high,
            HAS_EXTRA=extra is not None, HAS_WEIGHT=weight is not None, ALLOW_EMPTY=allow_empty, BLOCK=FINISH_BLOCK, num_warps=4,
        )  # fmt: skip
    return loss, ratio, coefficient


def gradient(
    coefficient: Tensor, g_loss: Tensor, g_ratio: Tensor, cu: Tensor, mask: Tensor | None, tokens: int, dtype: torch.dtype
) -> Tensor:
    """d / d logprob [T]: (g_loss coefficient_s + g_ratio_s) mask_t."""
    grad = empty(tokens, dtype, coefficient.device)
    launch = _launch(coefficient.device)
    if tokens > 0:
        with on_device(coefficient.device):
            _gradient[(triton.cdiv(tokens, launch.block),)](
                None if mask is None else mask.contiguous(), cu, coefficient, g_loss.contiguous(), g_ratio.contiguous(), grad,
                tokens, coefficient.shape[0], HAS_MASK=mask is not None, SEARCH=SEARCH, BLOCK=launch.block,
                num_warps=launch.num_warps,
            )  # fmt: skip
    return grad


def _launch(device: torch.device) -> Launch:
    return LAUNCH.get(architecture(device), DEFAULT_LAUNCH)


def compile_cases() -> list[CompileCase]:
    """Every kernel for every target, as the trainer calls it (fp32, mask, weights), and once for bf16."""
    cases = []
    for target in TARGETS:
        launch = LAUNCH[target]
        tiles = {"HAS_MASK": True, "SEARCH": SEARCH, "BLOCK": launch.block}
        for dtype in ("fp32", "bf16"):
            arrays = {
                "logprob_ptr": f"*{dtype}",
                "ref_ptr": f"*{dtype}",
                "mask_ptr": "*fp32",
                "cu_ptr": "*i32",
                "sums_ptr": "*i64",
            }
            cases.append(_case(f"segment_sums_{dtype}", target, _segment_sums, arrays, {}, tiles, launch.num_warps))
            arrays = {"mask_ptr": "*fp32", "cu_ptr": "*i32", "coefficient_ptr": "*fp32", "g_loss_ptr": "*fp32"}
            arrays |= {"g_ratio_ptr": "*fp32", "grad_ptr": f"*{dtype}"}
            cases.append(_case(f"gradient_{dtype}", target, _gradient, arrays, {}, tiles, launch.num_warps))
        names = ("reward_ptr", "baseline_ptr", "weight_ptr", "loss_ptr", "ratio_ptr", "coefficient_ptr")
        arrays = {"sums_ptr": "*i64", "extra_ptr": "*fp32", "cu_ptr": "*i32"} | dict.fromkeys(names, "*fp32")
        constants = {"HAS_EXTRA": True, "HAS_WEIGHT": True, "ALLOW_EMPTY": False, "BLOCK": FINISH_BLOCK}
        cases.append(_case("finish", target, _finish, arrays, {"tau_high": "fp32", "tau_low": "fp32"}, constants, 4))
    return cases


def _case(name, target, kernel, arrays, scalars, constants, num_warps) -> CompileCase:
    signature = arrays | {"tokens": "i32", "sequences": "i32"} | scalars | dict.fromkeys(constants, "constexpr")
    return CompileCase(name, target, kernel, signature, constants, {"num_warps": num_warps}, tuple(arrays))
