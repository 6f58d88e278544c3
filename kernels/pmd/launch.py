"""Host side of the Triton path of `pmd_loss`: launch sizes, scratch, tickets, and what CI compiles.

Shapes: T tokens, S sequences, cu_seqlens int32 [S+1].
"""

import itertools
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
    """Tokens and warps of a program; `lanes`: sequences that it finishes at a time; `last`: tiles that the last one joins."""

    block: int
    num_warps: int
    lanes: int
    last: int


LAUNCH = {
    "sm_80": Launch(1024, 4, 128, 512),
    "sm_90": Launch(1024, 4, 128, 512),
    "gfx942": Launch(1024, 4, 256, 256),  # 64 lanes a warp
    "interpreter": Launch(64, 1, 16, 8),
}
"""By architecture. Chosen from registers and occupancy (docs/kernels-table.md), not measured."""
DEFAULT_LAUNCH = LAUNCH["sm_80"]
FINISH_LANES = 1024
TICKETS = 8192  # 1 MB a device
TICKET_APART = 32  # int32: no two in one line of a cache, all aligned alike (alignment selects a compiled variant)


@dataclass(frozen=True)
class Results:
    """loss [], log_ratio [S], coefficient = d loss / d log_ratio [S], all fp32; `first` [tiles + 1] for `gradient`."""

    loss: Tensor
    log_ratio: Tensor
    coefficient: Tensor
    first: Tensor


def forward(
    logprob: Tensor,
    ref: Tensor,
    cu: Tensor,
    mask: Tensor | None,
    reward: Tensor,
    baseline: Tensor,
    weight: Tensor | None,
    extra: Tensor | None,
    tau: float,
    allow_empty: bool,
) -> Results:
    """One launch. All NaN if cu is not a rising list from 0 to T; the check is made on the device, so nothing waits for it.

    reward, baseline, weight, extra: fp32 [S].
    """
    device, sequences = logprob.device, cu.shape[0] - 1
    loss, ratio, coefficient = (empty(shape, torch.float32, device) for shape in ((), (sequences,), (sequences,)))
    per_sequence = (reward, baseline, weight, extra)
    first = _launch_forward(logprob, ref, cu, mask, per_sequence, (loss, ratio, coefficient, None), tau, allow_empty)
    return Results(loss, ratio, coefficient, first)


def segment_sums(logprob: Tensor, ref: Tensor, cu: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(int64 [3, S]: high and low parts of each sequence's sum of mask (logprob - ref), number of unusable terms; `first`).

    Adding such tensors of several ranks is exact; `finish` turns them into log-ratios. One launch.
    """
    sums = empty((3, cu.shape[0] - 1), torch.int64, logprob.device)
    return sums, _launch_forward(logprob, ref, cu, mask, (None,) * 4, (None, None, None, sums), 1.0, True)


def finish(
    sums: Tensor,
    first: Tensor,
    cu: Tensor,
    reward: Tensor,
    baseline: Tensor,
    weight: Tensor | None,
    extra: Tensor | None,
    tau: float,
    tokens: int,
    allow_empty: bool,
) -> Results:
    """The same as `forward` from the sums of all ranks."""
    sequences, (tau_high, tau_low) = reward.shape[0], _in_two(tau)
    loss, ratio, coefficient = (empty(shape, torch.float32, sums.device) for shape in ((), (sequences,), (sequences,)))
    with on_device(sums.device):
        kernel._finish[(1,)](
            sums, cu, reward, baseline, weight, extra, loss, ratio, coefficient, tokens, sequences, tau_high, tau_low,
            HAS_WEIGHT=weight is not None, HAS_EXTRA=extra is not None, ALLOW_EMPTY=allow_empty, LANES=FINISH_LANES, num_warps=4,
        )  # fmt: skip
    return Results(loss, ratio, coefficient, first)


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


def _launch_forward(logprob, ref, cu, mask, per_sequence, outputs, tau, allow_empty) -> Tensor:
    device, tokens = logprob.device, logprob.shape[0]
    if tokens > kernel.MAX_TOKENS:
        raise ValueError(f"{tokens} packed tokens; the Triton path takes at most {kernel.MAX_TOKENS}. Split the pack")
    launch, (tau_high, tau_low) = _launch(device), _in_two(tau)
    tiles = max(1, triton.cdiv(tokens, launch.block))
    parts, first = empty((kernel.PARTS, tiles), torch.int64, device), empty(tiles + 1, torch.int32, device)
    with on_device(device):
        kernel._forward[(tiles,)](
            logprob.contiguous(), ref.contiguous(), _contiguous(mask), cu, *per_sequence, *outputs, parts, first, ticket(device),
            tokens, cu.shape[0] - 1, tau_high, tau_low,
            HAS_MASK=mask is not None, HAS_WEIGHT=per_sequence[2] is not None, HAS_EXTRA=per_sequence[3] is not None,
            ALLOW_EMPTY=allow_empty, SUMS=outputs[3] is not None,
            SEARCH=kernel.SEARCH, BLOCK=launch.block, LANES=launch.lanes, LAST=launch.last, num_warps=launch.num_warps,
        )  # fmt: skip
    return first


_pools: dict[torch.device, tuple[Tensor, itertools.count]] = {}  # zeros [TICKETS x TICKET_APART], the next one that nobody has
_tickets: dict[tuple[torch.device, int], Tensor] = {}


def ticket(device: torch.device) -> Tensor:
    """The counter, int32 [1], of the current stream. It is 0 whenever no launch of that stream is running.

    Launches of one stream come one after the other and each leaves 0 behind. A captured launch may be replayed beside any
    stream, so each has a ticket that nobody else will ever have. A launch that is killed takes the CUDA context with it.
    """
    if device.type != "cuda":
        return _tickets.setdefault((device, 0), torch.zeros(1, dtype=torch.int32))
    if torch.cuda.is_current_stream_capturing():
        fresh = _take(device) if device in _pools else None
        return fresh if fresh is not None else torch.zeros(1, dtype=torch.int32, device=device)  # set to 0 in each replay
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _tickets:
        fresh = _take(device) if device in _pools else None
        if fresh is None:
            zeros = torch.zeros(TICKETS * TICKET_APART, dtype=torch.int32, device=device)
            torch.cuda.current_stream(device).synchronize()  # other streams will take from it
            _pools[device] = (zeros, itertools.count())
            fresh = _take(device)
        _tickets[key] = fresh
    return _tickets[key]


def _take(device: torch.device) -> Tensor | None:
    """A ticket of the device's pool that nobody has, None if there is none left."""
    pool, numbers = _pools[device]
    number = next(numbers)
    return pool[number * TICKET_APART :][:1] if number < TICKETS else None


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
    per_sequence = fp32("reward_ptr", "baseline_ptr", "weight_ptr", "extra_ptr")
    results = fp32("loss_ptr", "ratio_ptr", "coefficient_ptr")
    scalars = {"tau_high": "fp32", "tau_low": "fp32"}
    has = {"HAS_WEIGHT": True, "HAS_EXTRA": True, "ALLOW_EMPTY": False}
    tiles = {"SEARCH": kernel.SEARCH, "BLOCK": launch.block, "LANES": launch.lanes, "LAST": launch.last}
    cases = []
    for dtype in ("fp32", "bf16"):
        arrays = {"logprob_ptr": f"*{dtype}", "ref_ptr": f"*{dtype}", "mask_ptr": "*fp32", "cu_ptr": "*i32"} | per_sequence
        arrays |= results | {"sums_ptr": "*i64", "parts_ptr": "*i64", "first_ptr": "*i32", "ticket_ptr": "*i32"}
        for sums in (False, True) if dtype == "fp32" else (False,):
            constants = has | tiles | {"HAS_MASK": True, "SUMS": sums}
            name = f"{'sums' if sums else 'forward'}_{dtype}"
            cases.append(_case(name, target, kernel._forward, arrays, scalars, constants, launch.num_warps))
        arrays = {"mask_ptr": "*fp32", "cu_ptr": "*i32", "first_ptr": "*i32", "coefficient_ptr": "*fp32"}
        arrays |= fp32("g_loss_ptr", "g_ratio_ptr") | {"grad_ptr": f"*{dtype}"}
        constants = {"HAS_MASK": True, "HAS_LOSS": True, "HAS_RATIO": True, "BLOCK": launch.block}
        cases.append(_case(f"gradient_{dtype}", target, kernel._gradient, arrays, {}, constants, launch.num_warps))
    arrays = {"sums_ptr": "*i64", "cu_ptr": "*i32"} | per_sequence | results
    cases.append(_case("finish", target, kernel._finish, arrays, scalars, has | {"LANES": FINISH_LANES}, 4))
    return cases


def _case(name, target, function, arrays, scalars, constants, num_warps) -> CompileCase:
    sizes = {"tokens": "i32"} | ({} if name.startswith("gradient") else {"sequences": "i32"})
    signature = arrays | sizes | scalars | dict.fromkeys(constants, "constexpr")
    return CompileCase(name, target, function, signature, constants, {"num_warps": num_warps}, tuple(arrays))
