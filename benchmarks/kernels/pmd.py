"""`python -m benchmarks.kernels.pmd`: packed log-probs to the policy loss and its gradient, k15 beside plain PyTorch.

Shapes: T packed tokens, S sequences. The bytes that must move: log-probs and references are read, the gradient is written,
12 T in fp32; GB/s are of these. The gate is float64.

On a GPU every contender is also timed without its host, queued behind other work and as a CUDA graph, on cold data (from
T = 1M on), and so are, in the same run and the same ways,
    copy        one torch copy that moves 12 T bytes (6 T read, 6 T written): `of_copy` is the share of copy bandwidth
    two copies  one that moves the forward's 8 T bytes, one that moves the backward's 4 T: `of_two_copies`
"""

import json
import sys
from typing import Any

import torch
from k15.kernels.pmd import pmd_loss
from torch import Tensor

from benchmarks.kernels import frame

GATE = 4.0
TAU = 0.1
COPIES = ("copy", "two copies")
SETS = 16  # of data that the calls work on in turn: at a million tokens more than any L2 holds
# (tokens, how the sequences' lengths are spread)
# The one that counts comes first.
GPU_CASES = [(1 << 20, "equal"), (1 << 23, "equal"), (1 << 20, "one giant"), (1 << 20, "lognormal")] + [
    (n, spread) for n in (1 << 14, 1 << 17) for spread in ("equal", "one giant", "lognormal")
]
CPU_CASES = [(1 << 14, "lognormal"), (1 << 20, "lognormal"), (1 << 20, "one giant")]


def lengths_of(tokens: int, spread: str) -> Tensor:
    """Sequence lengths that add up to `tokens`: 1,024 each; one of 131,072 (or half) among tiny ones; or heavy-tailed."""
    if spread == "equal":
        return torch.full((max(1, tokens // 1024),), min(tokens, 1024))
    if spread == "one giant":
        giant = min(131072, tokens // 2)
        return torch.cat((torch.tensor([giant]), torch.full(((tokens - giant) // 32,), 32)))
    g = torch.Generator().manual_seed(0)
    raw = torch.randn(4 * tokens // 64, generator=g).mul(1.2).add(5.0).exp().long().clamp(1, 131072)
    cut = int((raw.cumsum(0) < tokens).sum())
    return torch.cat((raw[:cut], (tokens - raw[:cut].sum()).clamp(min=0)[None])) if raw[:cut].sum() < tokens else raw[:cut]


def plain(logprob, ref, reward, baseline, cu_seqlens, tau: float) -> Tensor:
    """What one writes first: index_add over sequence numbers."""
    lengths = cu_seqlens.long().diff()
    number = torch.repeat_interleave(torch.arange(len(lengths), device=logprob.device), lengths, output_size=len(logprob))
    ratio = torch.zeros_like(reward).index_add(0, number, logprob - ref)
    return (reward - baseline - tau * ratio).square().mean() / (2 * tau)


def compiled():
    return torch.compile(plain, dynamic=True)


def run(function, data) -> tuple[Tensor, Tensor]:
    logprob = data[0].detach().requires_grad_()
    out = function(logprob, *data[1:], tau=TAU)
    loss = out[0] if isinstance(out, tuple) else out
    return loss.detach(), torch.autograd.grad(loss, logprob, torch.ones_like(loss))[0]


def device_times(functions: dict[str, Any], data: tuple[Tensor, ...], device: torch.device) -> dict[str, dict[str, dict]]:
    """queued | graph -> contender -> {us, of_copy, of_two_copies}, copies included."""
    tokens = len(data[0])
    sets = [tuple(x.clone() for x in data) for _ in range(SETS)]
    one = torch.ones((), device=device)

    def step(function, case) -> None:
        logprob = case[0].detach().requires_grad_()
        out = function(logprob, *case[1:], tau=TAU)
        torch.autograd.grad(out[0] if isinstance(out, tuple) else out, logprob, one)

    def copies(*moved: int):
        pairs = [[torch.empty(2, b // 2, dtype=torch.uint8, device=device) for b in moved] for _ in sets]
        return [lambda p=p: [t[0].copy_(t[1]) for t in p] for p in pairs]

    calls = {"copy": copies(12 * tokens), "two copies": copies(8 * tokens, 4 * tokens)}
    calls |= {name: [lambda f=f, c=c: step(f, c) for c in sets] for name, f in functions.items()}
    times: dict[str, dict[str, dict]] = {}
    for way, measure in (("queued", frame.queued_us), ("graph", frame.graph_us)):
        times[way] = {}
        for name, steps in calls.items():
            try:
                us = measure(steps, device)
            except RuntimeError as error:
                if not name.startswith("torch"):
                    raise
                times[way][name] = {"failed": str(error).split("\n", 1)[0]}  # a peer that waits for the device cannot be captured
                continue
            times[way][name] = {"us": us} | {
                f"of_{c.replace(' ', '_')}": times[way].get(c, {"us": us})["us"] / us for c in COPIES
            }
    return times


def main(words: list[str] | None = None) -> int:
    """Exit code 1 where k15 itself fails the gate."""
    args = frame.arguments(__doc__.split("\n", 1)[0]).parse_args(words)
    device = frame.the_device()
    functions: dict[str, Any] = {"k15": pmd_loss, "torch": plain}
    if device.type == "cuda":
        functions["torch compile"] = compiled()
    result: dict[str, Any] = frame.where(device) | {"ceilings": frame.ceilings(device, torch.float32)}
    rows, on_device, bad = [], [], False
    for tokens, spread in (GPU_CASES if device.type == "cuda" else CPU_CASES)[: 1 if args.quick else None]:
        data = problem(tokens, spread, device)
        exact = run(plain, tuple(x.double() if x.is_floating_point() else x for x in data))
        allowed = [GATE * e + 1e-6 for e in errors(run(plain, data), exact)]
        for name, function in functions.items():
            row = {"name": name, "tokens": tokens, "sequences": len(data[4]) - 1, "spread": spread}
            try:
                seen = errors(run(function, data), exact)
            except Exception as error:  # a peer may not run here at all; k15 must
                if name == "k15":
                    raise
                rows.append(row | {"ok": False, "failed": f"{type(error).__name__}: {str(error).splitlines()[:1]}"})
                continue
            row["errors"] = seen
            row["ok"] = all(e <= a for e, a in zip(seen, allowed, strict=True))
            if row["ok"]:
                row["seconds"] = frame.seconds(lambda f=function, d=data: run(f, d), device, 20)
                row["gb_s"] = 12 * tokens / row["seconds"] / 1e9
            bad |= name == "k15" and not row["ok"]
            rows.append(row)
            print({k: (round(v, 6) if isinstance(v, float) else v) for k, v in row.items() if k != "errors"}, flush=True)
            frame.keep("kernel-pmd", result | {"rows": rows, "on_device": on_device}, device, args.out)
        if device.type == "cuda":
            times = device_times({n: f for n, f in functions.items() if n != "k15" or not bad}, data, device)
            on_device.append({"tokens": tokens, "spread": spread} | times)
            for way in times:
                print(way, json.dumps(times[way]), flush=True)
    frame.save("kernel-pmd", result | {"rows": rows, "on_device": on_device}, device, args.out)
    return int(bad)


def problem(tokens: int, spread: str, device: torch.device) -> tuple[Tensor, ...]:
    """(logprob, ref, reward, baseline, cu_seqlens)."""
    lengths = lengths_of(tokens, spread)
    g = torch.Generator().manual_seed(1)
    cu = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0))).int()
    total, sequences = int(cu[-1]), len(lengths)
    logprob = -torch.rand(total, generator=g)
    ref = logprob + 0.01 * torch.randn(total, generator=g)
    reward, baseline = torch.rand(sequences, generator=g), torch.rand(sequences, generator=g)
    return tuple(x.to(device) for x in (logprob, ref, reward, baseline, cu))


def errors(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> list[float]:
    return [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(got, want, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
