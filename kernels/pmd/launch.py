"""Host side of the Triton path of `pmd_loss`: launch sizes, scratch, and what CI compiles.

Shapes: T tokens, S sequences, cu_seqlens int32 [S+1].
"""

import struct
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ..backend import architecture, on_device
from ..compile_case import TARGETS, CompileCase
from ..scratch import empty
from . import kernel


@dataclass(frozen=True)
class Launch:
    """Tokens and warps of a tile's program; sequences (`lanes`) of one of `_finish`, pieces that it adds at a time, its warps."""

    block: int
    num_warps: int
    lanes: int
    parts: int
    finish_warps: int


LAUNCH = {
    "sm_80": Launch(2048, 4, 1024, 4, 16),
    "sm_90": Launch(2048, 4, 1024, 4, 16),
    "gfx942": Launch(2048, 4, 1024, 4, 8),  # 64 lanes a warp
    "interpreter": Launch(64, 1, 16, 4, 1),
}
"""By architecture. Chosen from registers and occupancy (docs/kernels-table.md), not measured."""
DEFAULT_LAUNCH = LAUNCH["sm_80"]


@dataclass(frozen=True)
class Sums:
    """What `sums` leaves: the pieces' sums [S + tiles], and the sequences that tiles begin in [tiles + 1] for `gradient`."""

    parts: Tensor
    first: Tensor


@dataclass(frozen=True)
class Results:
    """loss [], log_ratio [S], coefficient = d loss / d log_ratio [S], all fp32."""

    loss: Tensor
    log_ratio: Tensor
    coefficient: Tensor


def sums(logprob: Tensor, ref: Tensor, cu: Tensor, mask: Tensor | None) -> Sums:
    """One launch over the tokens. ValueError for 2^31 tokens or more."""
    device, tokens, sequences = logprob.device, logprob.shape[0], cu.shape[0] - 1
    launch = _launch(device)
    if tokens + launch.block >= 1 << 31:
        raise ValueError(f"{tokens} packed tokens; the Triton path takes fewer than 2^31. Split the pack")
    tiles = max(1, triton.cdiv(tokens, launch.block))
    parts, first = empty(sequences + tiles, torch.float64, device), empty(tiles + 1, torch.int32, device)
    with on_device(device):
        kernel._sums[(tiles,)](
            logprob.contiguous(), ref.contiguous(), _contiguous(mask), cu, parts, first, tokens, sequences,
            HAS_MASK=mask is not None, SEARCH=kernel.SEARCH, BLOCK=launch.block, num_warps=launch.num_warps,
        )  # fmt: skip
    return Sums(parts, first)


def finish(
    parts: Tensor | None,
    cu: Tensor,
    reward: Tensor,
    baseline: Tensor,
    weight: Tensor | None,
    extra: Tensor | None,
    tau: float,
    tokens: int,
    allow_empty: bool,
) -> Results:
    """The results from the pieces' sums plus `extra`; parts None: from `extra` alone. One launch; two beyond `lanes` sequences.

    All NaN if cu is not a rising list from 0 to T; the check is made on the device, so nothing waits for it.
    reward, baseline, weight, extra: fp32 [S].
    """
    device, sequences, launch = cu.device, cu.shape[0] - 1, _launch(cu.device)
    tau_high, tau_low = _in_two(tau)
    loss, ratio, coefficient = (empty(shape, torch.float32, device) for shape in ((), (sequences,), (sequences,)))
    groups = triton.cdiv(sequences, launch.lanes)
    totals = empty((2, groups), torch.float64, device) if groups > 1 else None
    with on_device(device):
        kernel._finish[(groups,)](
            parts, cu, reward, baseline, weight, extra, loss, ratio, coefficient, totals, tokens, sequences, tau_high, tau_low,
            HAS_PARTS=parts is not None, HAS_WEIGHT=weight is not None, HAS_EXTRA=extra is not None, ALLOW_EMPTY=allow_empty,
            ALONE=groups == 1, BLOCK=launch.block, LANES=launch.lanes, PARTS=launch.parts, num_warps=launch.finish_warps,
        )  # fmt: skip
        if groups > 1:
            kernel._total[(1,)](
                totals, loss, ratio, coefficient, groups, sequences, tau_high, tau_low, LANES=launch.lanes, num_warps=4
            )
    return Results(loss, ratio, coefficient)


def own_log_ratio(parts: Tensor, cu: Tensor, tokens: int) -> Tensor:
    """log_ratio [S] of these tokens alone; sequences may be empty."""
    zero = torch.zeros(cu.shape[0] - 1, device=cu.device)
    return finish(parts, cu, zero, zero, None, None, 1.0, tokens, True).log_ratio


def gradient(
    coefficient: Tensor,
    first: Tensor,
    g_loss: Tensor | None,
    g_ratio: Tensor | None,
    cu: Tensor,
    mask: Tensor | None,
    tokens: int,
    dtype: torch.dtype,
) -> Tensor:
    """d / d logprob [T]: (g_loss coefficient_s + g_ratio_s) mask_t, a gradient that is None counting as 0. One launch."""
    device = cu.device
    grad, launch = empty(tokens, dtype, device), _launch(device)
    if tokens > 0:
        with on_device(device):
            kernel._gradient[(triton.cdiv(tokens, launch.block),)](
                _contiguous(mask), cu, first, coefficient, g_loss, _contiguous(g_ratio), grad, tokens,
                HAS_MASK=mask is not None, HAS_LOSS=g_loss is not None, HAS_RATIO=g_ratio is not None, BLOCK=launch.block,
                num_warps=launch.num_warps,
            )  # fmt: skip
    return grad


def lanes(device: torch.device) -> int:
    """Sequences that one program of `_finish` takes; with more, `_total` runs too."""
    return _launch(device).lanes


def _launch(device: torch.device) -> Launch:
    return LAUNCH.get(architecture(device), DEFAULT_LAUNCH)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _in_two(value: float) -> tuple[float, float]:
    """(value as fp32, the rest)."""
    high = struct.unpack("f", struct.pack("f", value))[0]
    return high, value - high


def compile_cases() -> list[CompileCase]:
    """Every kernel for every target, as the trainer calls it (fp32, mask, weights), and once for bf16."""
    return [case for target in TARGETS for case in _cases(target, LAUNCH[target])]


def _cases(target: str, launch: Launch) -> list[CompileCase]:
    fp32 = lambda *names: dict.fromkeys(names, "*fp32")  # noqa: E731
    cases, warps = [], launch.num_warps
    for dtype in ("fp32", "bf16"):
        arrays = {"logprob_ptr": f"*{dtype}", "ref_ptr": f"*{dtype}"} | {"mask_ptr": "*fp32", "parts_ptr": "*fp64"}
        arrays |= {"cu_ptr": "*i32", "first_ptr": "*i32"}
        constants = {"HAS_MASK": True, "SEARCH": kernel.SEARCH, "BLOCK": launch.block}
        cases.append(_case(f"sums_{dtype}", target, kernel._sums, arrays, {}, constants, warps))
        arrays = {"mask_ptr": "*fp32", "cu_ptr": "*i32", "first_ptr": "*i32", "coefficient_ptr": "*fp32"}
        arrays |= fp32("g_loss_ptr", "g_ratio_ptr") | {"grad_ptr": f"*{dtype}"}
        constants = {"HAS_MASK": True, "HAS_LOSS": True, "HAS_RATIO": True, "BLOCK": launch.block}
        cases.append(_case(f"gradient_{dtype}", target, kernel._gradient, arrays, {}, constants, warps))
    results = fp32("loss_ptr", "ratio_ptr", "coefficient_ptr") | {"totals_ptr": "*fp64"}
    arrays = fp32("reward_ptr", "baseline_ptr", "weight_ptr", "extra_ptr") | results | {"parts_ptr": "*fp64", "cu_ptr": "*i32"}
    constants = {"HAS_PARTS": True, "HAS_WEIGHT": True, "HAS_EXTRA": True, "ALLOW_EMPTY": False}
    constants |= {"BLOCK": launch.block, "LANES": launch.lanes, "PARTS": launch.parts}
    tau = {"tau_high": "fp32", "tau_low": "fp32"}
    for name, alone in (("finish", True), ("finish_many", False)):
        share = constants | {"ALONE": alone}
        cases.append(_case(name, target, kernel._finish, arrays, tau, share, launch.finish_warps))
    cases.append(_case("total", target, kernel._total, results, {"groups": "i32"} | tau, {"LANES": launch.lanes}, 4))
    return cases


def _case(name, target, function, arrays, scalars, constants, num_warps) -> CompileCase:
    sizes = ({} if name == "total" else {"tokens": "i32"}) | ({} if name.startswith("gradient") else {"sequences": "i32"})
    signature = arrays | sizes | scalars | dict.fromkeys(constants, "constexpr")
    return CompileCase(name, target, function, signature, constants, {"num_warps": num_warps}, tuple(arrays))
