"""Compiles every kernel that a run will launch, before it trains."""

import torch

from .api import linear_logprob
from .fused import linear_pmd
from .tuning import changed


def warm_up(
    device: torch.device | str,
    dtype: torch.dtype,
    hidden_size: int,
    vocab_size: int,
    *,
    temperature: float = 1.0,
    backend: str = "auto",
) -> None:
    """Runs forward, backward and fused loss once, with and without entropy, on a few tokens; a GPU is synchronised.

    vocab_size: the rows of this rank's weight that count. Kernels specialise on dtype, hidden size and on the vocabulary's
    remainder by 64, never on the number of tokens, so a small stand-in vocabulary compiles all variants of the real one.
    On a CPU it is quick and checks that the path runs.
    """
    device = torch.device(device)
    rows, tokens = 2048 + vocab_size % 64, 40
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=generator).to(device, dtype).requires_grad_()
    weight = (torch.randn(rows, hidden_size, generator=generator) / hidden_size**0.5).to(device, dtype).requires_grad_()
    target = torch.randint(0, rows, (tokens,), generator=generator).to(device)
    share = {"temperature": temperature, "backend": backend}
    per_token = rows * dtype.itemsize
    with changed(device, d_bytes=16 * per_token, logits_bytes=8 * 2 * per_token):
        for entropy in (False, True):
            out = linear_logprob(hidden, weight, target, return_entropy=entropy, **share)
            (out[0] + out[1] if entropy else out).sum().backward()
        ends = torch.tensor([0, 10, 15, tokens])  # two sequences that share a group, and one longer than a group
        ref, reward = torch.zeros(tokens, device=device), torch.tensor([1.0, 0.0, 1.0], device=device)
        linear_pmd(hidden, weight, target, ref, reward, torch.full_like(reward, 0.5), ends, tau=0.1, **share)[0].backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
