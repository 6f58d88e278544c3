"""`python -m benchmarks.kernels.pmd`: packed log-probs to the policy loss and its gradient, k15 beside plain PyTorch.

Shapes: T packed tokens, S sequences. The bytes that must move: log-probs and references are read, the gradient is written,
12 T in fp32; GB/s are of these, beside a copy measured in the same run. The gate is float64.
"""

import sys
from typing import Any

import torch
from k15.kernels.pmd import pmd_loss
from torch import Tensor

from benchmarks.kernels import frame

GATE = 4.0
TAU = 0.1
# (tokens, how the sequences' lengths are spread)
GPU_CASES = [(n, spread) for n in (1 << 14, 1 << 17, 1 << 20) for spread in ("equal", "one giant", "lognormal")]
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
    return loss.detach(), torch.autograd.grad(loss, logprob)[0]


def main(words: list[str] | None = None) -> int:
    """Exit code 1 where k15 itself fails the gate."""
    args = frame.arguments(__doc__.split("\n", 1)[0]).parse_args(words)
    device = frame.the_device()
    functions: dict[str, Any] = {"k15": pmd_loss, "torch": plain}
    if device.type == "cuda":
        functions["torch compile"] = compiled()
    result: dict[str, Any] = frame.where(device) | {"ceilings": frame.ceilings(device, torch.float32)}
    rows, bad = [], False
    for tokens, spread in (GPU_CASES if device.type == "cuda" else CPU_CASES)[-1 if args.quick else 0 :]:
        data = problem(tokens, spread, device)
        exact = run(plain, tuple(x.double() if x.is_floating_point() else x for x in data))
        allowed = [GATE * e + 1e-6 for e in errors(run(plain, data), exact)]
        for name, function in functions.items():
            seen = errors(run(function, data), exact)
            row = {"name": name, "tokens": tokens, "sequences": len(data[4]) - 1, "spread": spread, "errors": seen}
            row["ok"] = all(e <= a for e, a in zip(seen, allowed, strict=True))
            if row["ok"]:
                row["seconds"] = frame.seconds(lambda f=function, d=data: run(f, d), device, 20)
                row["gb_s"] = 12 * tokens / row["seconds"] / 1e9
            bad |= name == "k15" and not row["ok"]
            rows.append(row)
            print({k: (round(v, 6) if isinstance(v, float) else v) for k, v in row.items() if k != "errors"}, flush=True)
    frame.save("kernel-pmd", result | {"rows": rows}, device, args.out)
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
