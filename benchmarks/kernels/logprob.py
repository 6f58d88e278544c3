"""`python -m benchmarks.kernels.logprob`: hidden and head weight to log p(target), k15 beside its peers.

Shapes: T tokens, H hidden, V vocabulary. Work: forward 2THV operations, forward and backward 6THV that are needed (8THV where
logits are made twice); TFLOP/s are of the 6THV (2THV), whatever a contender really does, and GB/s of the bytes that must move:
inputs once (twice with a backward), gradients once. Both stand beside the ceilings measured in the same run. Memory is at the
peak of forward and backward, beyond inputs and beyond the gradients themselves. `beside_eager`: time and memory as shares of
what plain PyTorch took in turn with it.

The gate: every contender's log-probs and gradients against float64 on a small problem, at most GATE times the error of plain
PyTorch in the same dtype. A contender that fails it is reported, and not timed.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from k15.kernels.logprob import linear_logprob
from k15.kernels.logprob.fused import linear_pmd
from k15.kernels.logprob.product import way_of
from k15.kernels.pmd import pmd_loss
from torch import Tensor

from benchmarks.kernels import frame

GATE = 4.0
TAU = 0.1
GPU_SIZES = [
    *((t, 4096, 151936) for t in (16384, 1024, 4096)),  # the one that counts first
    (16384, 4096, 32000), (16384, 2048, 151936), (16384, 4096, 128256), (65536, 4096, 151936), (16384, 8192, 151936),
]  # fmt: skip
GPU_QUICK = [(16384, 4096, 151936)]
CPU_SIZES = [(1024, 256, 151936), (1024, 256, 32000), (1024, 1024, 151936)]
CPU_QUICK = [(256, 128, 151936)]
COMPARED = ("peak_beyond_gradients_mb", "forward_backward_s", "forward_s")
EAGER_LIMIT_BYTES = 48 << 30  # larger logits are not tried

LogProb = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden, weight, target) -> log-probs [T]; or their sum, by contenders that know no other gradient."""


def eager(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy((hidden @ weight.T).float(), target, reduction="none")


def contenders(device: torch.device) -> dict[str, LogProb | str]:
    """Name -> log-probs [T] by that implementation, or why it is not here."""
    found: dict[str, LogProb | str] = {"k15": linear_logprob, "torch eager": eager}
    compiler = os.environ.get("CXX", "g++")
    can_compile = device.type == "cuda" or shutil.which(compiler) is not None
    found["torch compile"] = torch.compile(eager) if can_compile else f"no C++ compiler ({compiler})"
    if device.type != "cuda":
        return found | dict.fromkeys(("liger", "cut-cross-entropy"), "Triton kernels: without a GPU Triton has no driver")
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Liger

        def liger(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            out = Liger.apply(hidden, weight, target, None, None, -100, 0.0, 0.0, "none")
            return -(out[0] if isinstance(out, tuple) else out)

        def liger_sum(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            out = Liger.apply(hidden, weight, target, None, None, -100, 0.0, 0.0, "sum")
            return -(out[0] if isinstance(out, tuple) else out)

        found["liger"] = liger  # some releases have no gradient for coefficients of one's own: the gate sees it
        found["liger, sum"] = liger_sum
    except ImportError as error:
        found["liger"] = f"not installed ({error})"
    try:
        from cut_cross_entropy import linear_cross_entropy

        found["cut-cross-entropy"] = lambda hidden, weight, target: (
            -linear_cross_entropy(hidden, weight, target, reduction="none")
        )
    except ImportError as error:
        found["cut-cross-entropy"] = f"not installed ({error})"
    return found


def problem(tokens: int, hidden: int, vocab: int, device: torch.device, dtype: torch.dtype, seed: int = 0):
    """(hidden, weight, target, upstream gradient): logits of unit scale, 8 sequences' worth of coefficients."""
    g = torch.Generator(device=device).manual_seed(seed)
    h = torch.randn(tokens, hidden, generator=g, device=device, dtype=torch.float32).to(dtype)
    w = (torch.randn(vocab, hidden, generator=g, device=device, dtype=torch.float32) / hidden**0.5).to(dtype)
    y = torch.randint(vocab, (tokens,), generator=g, device=device)
    c = torch.randn(8, generator=g, device=device).repeat_interleave(-(-tokens // 8))[:tokens] / tokens
    return h.requires_grad_(), w.requires_grad_(), y, c


def run(function: LogProb, data, backward: bool) -> tuple[Tensor, ...]:
    h, w, y, c = data
    if not backward:
        with torch.no_grad():
            return (function(h, w, y),)
    logprob = function(h, w, y)
    if logprob.ndim == 0:
        return (logprob.detach(), *torch.autograd.grad(logprob, (h, w)))
    return (logprob.detach(), *torch.autograd.grad((logprob * c.to(logprob.dtype)).sum(), (h, w)))


def run_fused(data, separate: bool = False) -> tuple[Tensor, ...]:
    """Log-probs, loss and gradients of the policy loss over 8 sequences: `linear_pmd`, or its two ops one after the other."""
    h, w, y, c = data
    tokens = len(y)
    bounds = torch.tensor([tokens * i // 8 for i in range(9)], dtype=torch.int32)
    acc = torch.promote_types(h.dtype, torch.float32)
    per_sequence = torch.linspace(-1, 1, 8, device=h.device, dtype=acc)
    ref = c.to(acc) * tokens - 5
    rest = {"reward": per_sequence, "baseline": torch.zeros_like(per_sequence), "tau": TAU}
    if separate:
        loss, _ = pmd_loss(linear_logprob(h, w, y), ref, cu_seqlens=bounds.to(h.device), **rest)
    else:
        loss, _, _ = linear_pmd(h, w, y, ref, cu_seqlens=bounds, **rest)
    return (loss.detach(), *torch.autograd.grad(loss, (h, w)))


def errors(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> list[float]:
    """Relative root-mean-square error of each output."""
    return [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(got, want, strict=True)]


def gate(device: torch.device, dtype: torch.dtype, found: dict[str, LogProb | str]) -> dict[str, dict[str, Any]]:
    """name -> {ok, errors (log-prob, d hidden, d weight), allowed}; or {ok, errors, failed} for a peer that does not run."""
    data = problem(512, 256, 4099, device, dtype)
    exact_data = tuple(x.detach().double().requires_grad_() if x.requires_grad else x for x in data)
    verdicts = {}
    for name, function in found.items():
        if not isinstance(function, str):
            of = (lambda f: lambda *x: f(*x).sum()) if name.endswith(", sum") else lambda f: f
            want = run(of(eager_double), exact_data, True)
            allowed = [GATE * e + 1e-7 for e in errors(run(of(eager), data, True), want)]
            try:
                seen = errors(run(function, data, True), want)
            except Exception as error:  # a peer may not run here at all; k15 must
                if name.startswith("k15"):
                    raise
                verdicts[name] = {"ok": False, "errors": [], "failed": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
                continue
            verdicts[name] = {"ok": all(e <= a for e, a in zip(seen, allowed, strict=True)), "errors": seen, "allowed": allowed}
    exact = run_fused(exact_data, separate=True)
    seen = errors(run_fused(data), exact)
    limits = [GATE * e + 1e-7 for e in errors(run_fused(data, separate=True), exact)]
    verdicts["k15 fused with pmd"] = {
        "ok": all(e <= a for e, a in zip(seen, limits, strict=True)),
        "errors": seen,
        "allowed": limits,
    }
    return verdicts


def eager_double(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return torch.log_softmax(hidden @ weight.T, -1).gather(1, target[:, None]).squeeze(1)


def measure(
    size: tuple[int, int, int], device: torch.device, dtype: torch.dtype, functions: dict[str, Any], repeats: int, limits: dict
) -> list[dict]:
    """A row a contender; limits: the measured ceilings."""
    tokens, hidden, vocab = size
    data = problem(tokens, hidden, vocab, device, dtype)
    gradients = (tokens + vocab) * hidden * data[0].element_size()
    rows, both, forward = {}, {}, {}
    for name, function in functions.items():
        row: dict[str, Any] = {"name": name, "tokens": tokens, "hidden": hidden, "vocab": vocab}
        rows[name] = row
        if name.startswith("torch") and tokens * vocab * 4 > EAGER_LIMIT_BYTES:
            row["skipped"] = "logits above the limit"
            continue
        fused = "fused" in name
        call = (lambda: run_fused(data)) if fused else (lambda f=function: run(f, data, True))
        try:
            call()  # pays for tables and allocator
            row["peak_beyond_gradients_mb"] = round((frame.peak_extra_bytes(call, device) - gradients) / 1e6, 1)
        except torch.cuda.OutOfMemoryError:
            row["skipped"] = "out of memory"
            torch.cuda.empty_cache()
            continue
        except Exception as error:  # as in the gate
            if name.startswith("k15"):
                raise
            row["skipped"] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
            continue
        both[name] = call
        if not fused:
            forward[name] = lambda f=function: run(f, data, False)
    kinds = {"forward_backward": (both, 6, 3 * gradients), "forward": (forward, 2, gradients)}
    for what, (calls, products, moved) in kinds.items():
        for name, taken in frame.side_by_side(calls, device, repeats).items():
            row = rows[name]
            row[f"{what}_s"] = taken
            row[f"{what}_tflops"] = products * tokens * hidden * vocab / taken / 1e12
            row[f"{what}_of_product_ceiling"] = row[f"{what}_tflops"] / limits["product_tflops"]
            row[f"{what}_gb_s"] = moved / taken / 1e9
            row[f"{what}_of_copy_ceiling"] = row[f"{what}_gb_s"] / limits["copy_gb_s"]
    eager_row = rows.get("torch eager", {})
    for name, row in rows.items():
        shares = {k: row[k] / eager_row[k] for k in COMPARED if k in row and eager_row.get(k, 0) > 0}
        if shares and name != "torch eager":
            row["beside_eager"] = shares
        print({k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}, flush=True)
    return list(rows.values())


def main(words: list[str] | None = None) -> int:
    """Exit code 1 where k15 itself fails the gate."""
    parser = frame.arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin no further size after so many seconds")
    args, began = parser.parse_args(words), time.monotonic()
    device = frame.the_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = contenders(device)
    verdicts = gate(device, dtype, found)
    for name, verdict in verdicts.items():
        text = verdict.get("failed", [f"{e:.1e}" for e in verdict["errors"]])
        print(f"gate: {name}: {'ok' if verdict['ok'] else 'FAILED'} {text}", flush=True)
    functions = {n: found.get(n, run_fused) for n, v in verdicts.items() if v["ok"]}
    sizes = {"cuda": (GPU_SIZES, GPU_QUICK), "cpu": (CPU_SIZES, CPU_QUICK)}[device.type][args.quick]
    result: dict[str, Any] = frame.where(device) | {"dtype": str(dtype), "ceilings": frame.ceilings(device, dtype)}
    if device.type == "cuda":  # "library", "scratch" or "triton": see there
        result["products"] = {"written": way_of(device, dtype, False), "added": way_of(device, dtype, True)}
    result["absent"] = {n: f for n, f in found.items() if isinstance(f, str)}
    result["gate"] = verdicts
    repeats = 3 if device.type == "cpu" else 5 if args.quick else 10
    result["rows"], result["sizes_left_out"] = [], []
    for size in sizes:
        if time.monotonic() - began > args.limit_s:
            result["sizes_left_out"].append(size)
        else:
            result["rows"] += measure(size, device, dtype, functions, repeats, result["ceilings"])
        frame.keep("kernel-logprob", result, device, args.out)
    frame.save("kernel-logprob", result, device, args.out)
    return 0 if all(v["ok"] for n, v in verdicts.items() if n.startswith("k15")) else 1


if __name__ == "__main__":
    sys.exit(main())
