"""Triton kernels of `linear_logprob` and `linear_pmd`, and their host wrappers.

Shapes: T tokens, H hidden, V this rank's vocabulary rows, N = columns of a block of logits. Inputs are 16-bit or fp32, all
sums are fp32. No atomics: every element of every output has one writer and one order of additions, so results repeat
bit for bit. Sizes that change from batch to batch (T, N) are never specialised on: they cannot trigger a compilation.

    _linear_stats   hidden, weight -> per column tile: max and sum of exp (for the entropy one more); no logits are stored
    _product        a [M, K] @ b [K, N] -> fp32, overwriting or accumulating; used where the library has no such product
    _row_stats      a block of logits -> the same statistics of whole rows
    _d_logits       a block of logits -> its gradient in the input dtype
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backend import interpreted, on_device
from ..compile_case import TARGETS, CompileCase
from ..scratch import empty
from .tuning import TABLE, Tile, Tuning

# Row offsets into per-token vectors follow sequence boundaries, so neither sizes nor alignment may select a variant.
_SIZES = ["rows", "cols", "inner", "col_tiles", "first_col", "stats_row"]
WIDEN = tl.constexpr(interpreted())  # the interpreter multiplies the bit patterns of bf16 operands as integers; fp32 is exact
_VECTORS = ["local", "stats", "picked", "parts", "log_z", "grad", "grad_entropy", "entropy"]


@triton.jit
def _tile_of(rows, cols, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Row and column tile of this program: GROUP row tiles sweep the columns together, so that both stay in the L2."""
    pid = tl.program_id(0)
    row_tiles = tl.cdiv(rows, BM)
    per_group = GROUP * tl.cdiv(cols, BN)
    first = (pid // per_group) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    return first + (pid % per_group) % height, (pid % per_group) // height


@triton.jit
def _tile_product(
    a, b, row, col, rows, cols, inner, a_row, a_k, b_k, b_col,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, ROW16: tl.constexpr, COL16: tl.constexpr,
):  # fmt: skip
    """fp32 [BM, BN]: rows `row` of a times columns `col` of b. Rows and columns past the end repeat others (masked later).

    ROW16, COL16: that size is a multiple of 16, which the compiler must know to load along it in 16-byte pieces.
    """
    if ROW16:
        rows = (rows // 16) * 16
    if COL16:
        cols = (cols // 16) * 16
    k = tl.arange(0, BK)
    a_tile = a + (row % rows).to(tl.int64)[:, None] * a_row + k[None, :].to(tl.int64) * a_k
    b_tile = b + k[:, None].to(tl.int64) * b_k + (col % cols).to(tl.int64)[None, :] * b_col
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, inner, BK):
        if EVEN_K:
            x = tl.load(a_tile)
            y = tl.load(b_tile)
        else:
            x = tl.load(a_tile, mask=(k < inner - start)[None, :], other=0.0)
            y = tl.load(b_tile, mask=(k < inner - start)[:, None], other=0.0)
        if WIDEN:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        acc = tl.dot(x, y, acc)
        a_tile += BK * a_k
        b_tile += BK * b_k
    return acc


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_VECTORS)
def _linear_stats(
    hidden, weight, local, parts, picked, rows, cols, inner, col_tiles, hidden_row, weight_row, scale,
    ENTROPY: tl.constexpr, EVEN_K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """parts [2 or 3, col_tiles, T]: a tile's max, sum of e = exp(. - max), sum of e (. - max); picked [T] where the target is."""
    row_tile, col_tile = _tile_of(rows, cols, BM, BN, GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    col = col_tile * BN + tl.arange(0, BN)
    logits = _tile_product(
        hidden, weight, row, col, rows, cols, inner, hidden_row, 1, 1, weight_row, BM, BN, BK, EVEN_K, False, False
    )
    row_ok = row < rows
    target = tl.load(local + row, mask=row_ok, other=-1)
    here = row_ok & (target >= col_tile * BN) & (target < col_tile * BN + BN)
    # 32-bit distances from this tile: the comparison below then costs no registers that the sums need.
    at = tl.where(here, target - col_tile * BN, -1).to(tl.int32)
    value = tl.sum(tl.where(tl.arange(0, BN)[None, :] == at[:, None], logits, 0.0), axis=1)
    tl.store(picked + row, value * scale, mask=here)
    logits = tl.where((tl.arange(0, BN) < cols - col_tile * BN)[None, :], logits * scale, float("-inf"))
    top = tl.max(logits, axis=1)
    out = parts + col_tile.to(tl.int64) * rows + row
    plane = col_tiles.to(tl.int64) * rows
    tl.store(out, top, mask=row_ok)
    shifted = logits - top[:, None]
    e = tl.exp(shifted)
    total = tl.sum(e, axis=1)
    tl.store(out + plane, total, mask=row_ok)
    if ENTROPY:
        # exp(-inf) * -inf would be NaN past the last column.
        weighted = tl.sum(e * tl.maximum(shifted, -1e30), axis=1)
        tl.store(out + 2 * plane, weighted, mask=row_ok)


@triton.jit(do_not_specialize=_SIZES)
def _product(
    a, b, out, rows, cols, inner, a_row, a_k, b_k, b_col, out_row,
    ACCUMULATE: tl.constexpr, EVEN_K: tl.constexpr, ROW16: tl.constexpr, COL16: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile = _tile_of(rows, cols, BM, BN, GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    col = col_tile * BN + tl.arange(0, BN)
    acc = _tile_product(a, b, row, col, rows, cols, inner, a_row, a_k, b_k, b_col, BM, BN, BK, EVEN_K, ROW16, COL16)
    place = out + row.to(tl.int64)[:, None] * out_row + col[None, :]
    ok = (row < rows)[:, None] & (col < cols)[None, :]
    if ACCUMULATE:
        acc += tl.load(place, mask=ok, other=0.0)
    tl.store(place, acc, mask=ok)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_VECTORS)
def _row_stats(
    logits, local, stats, cols, logits_row, stats_row, scale,
    ENTROPY: tl.constexpr, COL16: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """stats [3 or 4, rows]: max, sum of e = exp(. - max), the target's logit (0 where local is -1), sum of e (. - max)."""
    row = tl.program_id(0).to(tl.int64)
    if COL16:  # as in _tile_product
        cols = (cols // 16) * 16
    line = logits + row * logits_row
    col = tl.arange(0, BLOCK)
    top = float("-inf")
    total = 0.0
    weighted = 0.0
    for start in range(0, cols, BLOCK):
        ok = col < cols - start
        x = tl.load(line + start + col, mask=ok, other=float("-inf")) * scale
        higher = tl.maximum(top, tl.max(x, axis=0))
        e = tl.exp(x - higher)
        fade = tl.exp(top - higher)
        if ENTROPY:  # relative to the maximum: no digits are lost where logits are large
            drop = tl.maximum(top - higher, -1e30)
            weighted = (weighted + drop * total) * fade + tl.sum(e * tl.maximum(x - higher, -1e30), axis=0)
        total = total * fade + tl.sum(e, axis=0)
        top = higher
    target = tl.load(local + row)
    here = (target >= 0) & (target < cols)
    picked = tl.load(line + target, mask=here, other=0.0) * scale
    tl.store(stats + row, top)
    tl.store(stats + stats_row + row, total)
    tl.store(stats + 2 * stats_row + row, picked)
    if ENTROPY:
        tl.store(stats + 3 * stats_row + row, weighted)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_VECTORS)
def _d_logits(
    logits, out, local, log_z, grad, grad_entropy, entropy, cols, first_col, logits_row, out_row, scale,
    ENTROPY: tl.constexpr, COL16: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = scale * (grad * (onehot - p) - grad_entropy * p * (log p + entropy)), p from the logits and log_z."""
    if COL16:
        cols = (cols // 16) * 16
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = col < cols
    g = tl.load(grad + row)
    logp = tl.load(logits + row * logits_row + col, mask=ok, other=0.0) * scale - tl.load(log_z + row)
    p = tl.exp(logp)
    target = tl.load(local + row) - first_col
    d = tl.where(col == target, g, 0.0) - g * p
    if ENTROPY:
        d -= tl.load(grad_entropy + row) * p * (logp + tl.load(entropy + row))
    tl.store(out + row * out_row + col, (d * scale).to(out.dtype.element_ty), mask=ok)


def column_tiles(cols: int, entropy: bool, tuning: Tuning) -> int:
    """How many partial results a token `linear_stats` merges."""
    return triton.cdiv(cols, (tuning.stats_entropy if entropy else tuning.stats).n)


def linear_stats(hidden: Tensor, weight: Tensor, local: Tensor, scale: float, entropy: bool, tuning: Tuning) -> Tensor:
    """Statistics [3 or 4, T] fp32 (order as in `row_stats`) of hidden [T, H] @ weight [V, H].T * scale, 16-bit inputs.

    local [T] int64: the target's row of weight, or -1. Scratch: 2 or 3 numbers a token and column tile.
    """
    (tokens, inner), cols, tile = hidden.shape, weight.shape[0], tuning.stats_entropy if entropy else tuning.stats
    col_tiles = column_tiles(cols, entropy, tuning)
    parts = empty((3 if entropy else 2, col_tiles, tokens), torch.float32, hidden.device)
    picked = torch.zeros(tokens, dtype=torch.float32, device=hidden.device)  # written only where the target lies
    grid = (triton.cdiv(tokens, tile.m) * col_tiles,)
    with on_device(hidden.device):
        _linear_stats[grid](
            hidden, weight, local, parts, picked, tokens, cols, inner, col_tiles, hidden.stride(0), weight.stride(0), scale,
            ENTROPY=entropy, EVEN_K=inner % tile.k == 0, **_launch(tile),
        )  # fmt: skip
    top = parts[0].amax(0)
    drop = parts[0] - top
    fade = drop.exp()
    rows = [top, (parts[1] * fade).sum(0), picked]
    if entropy:
        rows.append(((parts[2] + drop * parts[1]) * fade).sum(0))
    return torch.stack(rows)


def product_into(out: Tensor, a: Tensor, b: Tensor, *, accumulate: bool, tuning: Tuning, even_k: bool = False) -> None:
    """out [M, N] fp32 (rows contiguous) = or += a [M, K] @ b [K, N], 16-bit inputs of any strides.

    even_k: K does not depend on the batch (a hidden size, a vocabulary block): only then may it select a variant without
    masks. N never depends on it here, and M only where a is not transposed.
    """
    (rows, inner), cols, tile = a.shape, b.shape[1], tuning.product
    grid = (triton.cdiv(rows, tile.m) * triton.cdiv(cols, tile.n),)
    with on_device(a.device):
        _product[grid](
            a, b, out, rows, cols, inner, *a.stride(), *b.stride(), out.stride(0),
            ACCUMULATE=accumulate, EVEN_K=even_k and inner % tile.k == 0,
            ROW16=a.stride(0) == 1 and rows % 16 == 0, COL16=cols % 16 == 0, **_launch(tile),
        )  # fmt: skip


def row_stats(logits: Tensor, local: Tensor, scale: float, out: Tensor, tuning: Tuning) -> None:
    """out [3 or 4, rows] = max, sum of e = exp(. - max), target's logit, sum of e (. - max), of logits [rows, N] fp32 * scale."""
    rows, cols = logits.shape
    with on_device(logits.device):
        _row_stats[(rows,)](
            logits, local, out, cols, logits.stride(0), out.stride(0), scale,
            ENTROPY=out.shape[0] == 4, COL16=cols % 16 == 0, BLOCK=tuning.row_block, num_warps=tuning.row_warps,
        )  # fmt: skip


def d_logits(
    logits: Tensor, out: Tensor, local: Tensor, first_col: int, log_z: Tensor, scale: float,
    grad: Tensor, grad_entropy: Tensor | None, entropy: Tensor | None, tuning: Tuning,
) -> None:  # fmt: skip
    """out [rows, N] in the input dtype: gradient of the unscaled logits [rows, N], columns first_col.. of this rank's.

    local [rows] int64 (column of this rank's, or -1); log_z, grad, grad_entropy, entropy [rows] fp32.
    """
    rows, cols = logits.shape
    with on_device(logits.device):
        _d_logits[(rows, triton.cdiv(cols, tuning.d_block))](
            logits, out, local, log_z, grad, grad if grad_entropy is None else grad_entropy, grad if entropy is None else entropy,
            cols, first_col, logits.stride(0), out.stride(0), scale,
            ENTROPY=grad_entropy is not None, COL16=cols % 16 == 0, BLOCK=tuning.d_block, num_warps=tuning.d_warps,
        )  # fmt: skip


def _launch(tile: Tile) -> dict[str, int]:
    return {"BM": tile.m, "BN": tile.n, "BK": tile.k, "GROUP": tile.group, "num_warps": tile.warps, "num_stages": tile.stages}


def compile_cases() -> list[CompileCase]:
    """One case a kernel and layout that a run can launch in bf16, and one a kernel in fp16, for every target."""
    return [case for target in TARGETS for case in _cases(target, TABLE[target])]


def _cases(target: str, tuning: Tuning) -> list[CompileCase]:
    fp32 = lambda *names: dict.fromkeys(names, "*fp32")  # noqa: E731
    i32 = lambda *names: dict.fromkeys(names, "i32")  # noqa: E731
    cases = []
    for entropy in (False, True):
        tail = "_entropy" if entropy else ""
        blocks, options = _split(tuning.stats_entropy if entropy else tuning.stats)
        for dtype in ("bf16",) if entropy else ("bf16", "fp16"):
            signature = {
                "hidden": f"*{dtype}", "weight": f"*{dtype}", "local": "*i64", **fp32("parts", "picked"),
                **i32("rows", "cols", "inner", "col_tiles", "hidden_row", "weight_row"), "scale": "fp32",
            }  # fmt: skip
            constants = {"ENTROPY": entropy, "EVEN_K": True, **blocks}
            aligned = ("hidden", "weight", "hidden_row", "weight_row")
            cases.append(_case(f"linear_stats_{dtype}{tail}", target, _linear_stats, signature, constants, options, aligned))
        signature = {
            "logits": "*fp32",
            "local": "*i64",
            "stats": "*fp32",
            **i32("cols", "logits_row", "stats_row"),
            "scale": "fp32",
        }
        constants = {"ENTROPY": entropy, "COL16": True, "BLOCK": tuning.row_block}
        launch = {"num_warps": tuning.row_warps}
        cases.append(_case(f"row_stats{tail}", target, _row_stats, signature, constants, launch, ("logits", "logits_row")))
        for dtype in ("bf16", "fp16", "fp32"):
            signature = {
                "logits": "*fp32", "out": f"*{dtype}", "local": "*i64", **fp32("log_z", "grad", "grad_entropy", "entropy"),
                **i32("cols", "first_col", "logits_row", "out_row"), "scale": "fp32",
            }  # fmt: skip
            constants = {"ENTROPY": entropy, "COL16": True, "BLOCK": tuning.d_block}
            launch = {"num_warps": tuning.d_warps}
            aligned = ("logits", "out", "logits_row", "out_row")
            cases.append(_case(f"d_logits_{dtype}{tail}", target, _d_logits, signature, constants, launch, aligned))
    return cases + _product_cases(target, *_split(tuning.product))


def _split(tile: Tile) -> tuple[dict[str, int], dict[str, int]]:
    """(constexprs, launch options) of `_launch`."""
    launch = _launch(tile)
    return {k: v for k, v in launch.items() if k.isupper()}, {k: v for k, v in launch.items() if not k.isupper()}


def _product_cases(target: str, blocks: dict[str, int], options: dict[str, int]) -> list[CompileCase]:
    # name: the strides that are 1 (they are constants then), accumulate, even_k
    layouts = {
        "logits": ({"a_k", "b_k"}, False, True),
        "d_hidden": ({"a_k", "b_col"}, False, True),
        "d_hidden_add": ({"a_k", "b_col"}, True, True),
        "d_hidden_last": ({"a_k", "b_col"}, True, False),  # the vocabulary's last, shorter block
        "d_weight": ({"a_row", "b_col"}, False, False),
        "d_weight_add": ({"a_row", "b_col"}, True, False),
    }
    cases = []
    for name, (ones, accumulate, even_k) in layouts.items():
        for dtype in ("bf16", "fp16") if name == "logits" else ("bf16",):
            strides = ("a_row", "a_k", "b_k", "b_col", "out_row")
            signature = {"a": f"*{dtype}", "b": f"*{dtype}", "out": "*fp32", **dict.fromkeys(("rows", "cols", "inner"), "i32")}
            signature |= {s: "constexpr" if s in ones else "i32" for s in strides}
            constants = {
                **dict.fromkeys(sorted(ones), 1),
                "ACCUMULATE": accumulate,
                "EVEN_K": even_k,
                "ROW16": "a_row" in ones,
                "COL16": True,
            }
            constants |= blocks
            aligned = ("a", "b", "out", *(s for s in strides if s not in ones))
            cases.append(_case(f"product_{name}_{dtype}", target, _product, signature, constants, options, aligned))
    return cases


def _case(name, target, kernel, signature, constants, options, aligned) -> CompileCase:
    signature = {**signature, **{k: "constexpr" for k in constants}}
    return CompileCase(f"logprob.{name}", target, kernel, signature, constants, options, aligned)
