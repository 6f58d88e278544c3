"""`python -m benchmarks.kernels.train_step`: one policy update of a Qwen2.5-0.5B shape, whose head is k15's or plain PyTorch's.

A plain transformer (no Megatron, so that a bare GPU machine can run it): forward, policy loss, backward, AdamW. What differs is
the way from hidden states to the loss: materialised logits; `linear_logprob` then `pmd_loss`; `linear_pmd`. The gate: the same
loss and gradient of the first layer's norm as with the logits, within 4 times what bf16 alone does to them.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from k15.kernels.logprob import linear_logprob
from k15.kernels.logprob.fused import linear_pmd
from k15.kernels.pmd import pmd_loss
from torch import Tensor, nn

from benchmarks.kernels import frame
from benchmarks.kernels.pmd import plain

TAU = 0.1
GATE = 4.0


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    sequences: int
    length: int


GPU = Shape(24, 896, 14, 2, 4864, 151936, 16, 1024)
CPU = Shape(2, 128, 4, 2, 352, 32000, 4, 128)


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s, self.width = s, s.hidden // s.heads
        self.norm1, self.norm2 = nn.RMSNorm(s.hidden), nn.RMSNorm(s.hidden)
        self.qkv = nn.Linear(s.hidden, (s.heads + 2 * s.kv_heads) * self.width)
        self.out = nn.Linear(s.hidden, s.hidden, bias=False)
        self.gate_up, self.down = (
            nn.Linear(a, b, bias=False) for a, b in ((s.hidden, 2 * s.intermediate), (s.intermediate, s.hidden))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [S, L, H] -> [S, L, H]; without positions, which cost nothing here."""
        s = self.s
        n, length, _ = x.shape
        heads = (s.heads, s.kv_heads, s.kv_heads)
        parts = self.qkv(self.norm1(x)).view(n, length, sum(heads), self.width).transpose(1, 2).split(heads, 1)
        attended = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
        x = x + self.out(attended.transpose(1, 2).reshape(n, length, s.hidden))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Policy(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(s.vocab, s.hidden), nn.Linear(s.hidden, s.vocab, bias=False)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [S, L] -> hidden [S * L, H]"""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).flatten(0, 1)


def loss_by(kind: str, hidden: Tensor, weight: Tensor, target: Tensor, ref: Tensor, reward: Tensor, cu: Tensor) -> Tensor:
    baseline = torch.zeros_like(reward)
    if kind == "torch eager":
        logprob = -F.cross_entropy((hidden @ weight.T).float(), target, reduction="none")
        return plain(logprob, ref, reward, baseline, cu.to(hidden.device), TAU)
    if kind == "k15 two ops":
        return pmd_loss(linear_logprob(hidden, weight, target), ref, reward, baseline, cu.to(hidden.device), tau=TAU)[0]
    return linear_pmd(hidden, weight, target, ref, reward, baseline, cu, tau=TAU)[0]


def main(words: list[str] | None = None) -> int:
    """Exit code 1 where k15 itself fails the gate."""
    args = frame.arguments(__doc__.split("\n", 1)[0]).parse_args(words)
    device = frame.the_device()
    s, dtype = (GPU, torch.bfloat16) if device.type == "cuda" else (CPU, torch.float32)
    torch.manual_seed(0)
    model = Policy(s).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # the weights stay: every kind starts from the same ones
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(s.vocab, (s.sequences, s.length + 1), generator=g).to(device)
    cu = torch.arange(s.sequences + 1, dtype=torch.int32) * s.length
    reward = torch.randn(s.sequences, generator=g).to(device)
    target = tokens[:, 1:].reshape(-1)
    with torch.no_grad():
        ref = linear_logprob(model(tokens[:, :-1]), model.head.weight, target) + 0.01
    result: dict[str, Any] = frame.where(device) | {"shape": s.__dict__, "dtype": str(dtype)}
    first = model.layers[0].norm1.weight

    def step(kind: str) -> tuple[float, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        hidden = model(tokens[:, :-1])
        loss = loss_by(kind, hidden, model.head.weight, target, ref, reward, cu)
        loss.backward()
        optimizer.step()
        return float(loss.detach()), first.grad

    kinds = ("torch eager", "k15 two ops", "k15 fused")
    seen = {kind: step(kind) for kind in kinds}
    noise = 1e-5 if dtype == torch.float32 else 2e-2
    loss, gradient = seen["torch eager"]
    rows, bad = [], False
    for kind in kinds:
        off = abs(seen[kind][0] - loss) / abs(loss), float((seen[kind][1] - gradient).float().norm() / gradient.float().norm())
        ok = max(off) <= GATE * noise
        row: dict[str, Any] = {"name": kind, "loss": seen[kind][0], "off": off, "ok": ok}
        if ok:
            row["peak_extra_mb"] = round(frame.peak_extra_bytes(lambda k=kind: step(k), device) / 1e6, 1)
            row["seconds"] = frame.seconds(lambda k=kind: step(k), device, 3 if args.quick else 7)
            row["tokens_per_s"] = round(s.sequences * s.length / row["seconds"], 1)
        bad |= not ok
        rows.append(row)
        print(row, flush=True)
        frame.keep("kernel-train-step", result | {"rows": rows}, device, args.out)
    frame.save("kernel-train-step", result | {"rows": rows}, device, args.out)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
