"""Inputs and the three computations that tests of logprob compare: exact (float64), plain (low precision), ours."""

from dataclasses import dataclass

import torch
from k15.kernels.logprob import IGNORE, linear_logprob, linear_logprob_naive, linear_pmd
from k15.kernels.pmd import pmd_loss_naive
from torch import Tensor


@dataclass
class Inputs:
    hidden: Tensor
    weight: Tensor
    target: Tensor
    vocab_size: int  # the rows behind it are padding, and large: a path that lets them in is far off
    temperature: float = 0.7


def make(tokens: int, width: int, vocab: int, dtype: torch.dtype, device="cpu", *, padding: int = 4, seed: int = 0) -> Inputs:
    """Logits of about unit variance; the third token, if there is one, is ignored."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=g)
    weight = torch.randn(vocab, width, generator=g) / width**0.5 * 2
    weight[vocab - padding :] = 9.0
    target = torch.randint(0, vocab - padding, (tokens,), generator=g)
    target[2:3] = IGNORE
    return Inputs(hidden.to(device, dtype), weight.to(device, dtype), target.to(device), vocab - padding)


def _plain(hidden, weight, target, *, temperature, vocab_size):
    logits = (hidden @ weight[:vocab_size].T).float() / temperature  # the product rounds its output to the input's dtype
    logp = torch.log_softmax(logits, -1)
    keep = target != IGNORE
    picked = logp.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(keep, picked, 0.0), torch.where(keep, -(logp.exp() * logp).sum(-1), 0.0)


def logprob_and_gradients(x: Inputs, which: str, *, entropy: bool = True, **kwargs) -> dict[str, Tensor]:
    """which: "exact", "plain", or "ours". Upstream gradients differ from token to token, some are zero."""
    hidden, weight = (t.detach().double() if which == "exact" else t.detach() for t in (x.hidden, x.weight))
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    fixed = {"temperature": x.temperature, "vocab_size": x.vocab_size}
    if which == "ours":
        out = linear_logprob(hidden, weight, x.target, return_entropy=entropy, **fixed, **kwargs)
        logprob, ent = out if entropy else (out, None)
    else:
        logprob, ent = (linear_logprob_naive if which == "exact" else _plain)(hidden, weight, x.target, **fixed)
    upstream = torch.linspace(-1, 1, len(logprob), device=logprob.device, dtype=logprob.dtype).relu()
    total = (logprob * (upstream + 0.3)).sum()
    if entropy:
        total = total + (ent * upstream).sum()
    total.backward()
    named = {"logprob": logprob.detach(), "d_hidden": hidden.grad, "d_weight": weight.grad}
    return named | ({"entropy": ent.detach()} if entropy else {})


@dataclass
class Sequences:
    ref: Tensor | None
    reward: Tensor
    baseline: Tensor
    cu_seqlens: Tensor
    mask: Tensor
    weight: Tensor


def sequences(lengths: list[int], *, seed: int = 0, first_step: bool = False, device="cpu") -> Sequences:
    """float64 terms of the loss for packed sequences; a tenth of the tokens is masked out."""
    g = torch.Generator().manual_seed(seed)
    tokens, count = sum(lengths), len(lengths)
    draw = lambda n: torch.rand(n, generator=g, dtype=torch.float64)  # noqa: E731
    ref = None if first_step else (-6 * draw(tokens)).to(device)
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    reward, baseline, mask, weight = draw(count), draw(count), (draw(tokens) > 0.1).double(), 1.0 + draw(count)
    return Sequences(ref, *(t.to(device) for t in (reward, baseline)), cu, *(t.to(device) for t in (mask, weight)))


def pmd_and_gradients(x: Inputs, s: Sequences, which: str, **kwargs) -> dict[str, Tensor]:
    """which: "exact" and "plain" take two steps (log-probs, then the reference loss), "ours" is linear_pmd."""
    hidden, weight = (t.detach().double() if which == "exact" else t.detach() for t in (x.hidden, x.weight))
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    fixed = {"temperature": x.temperature, "vocab_size": x.vocab_size}
    if which == "ours":
        loss, ratio, logprob = linear_pmd(
            hidden, weight, x.target, s.ref, s.reward, s.baseline, s.cu_seqlens,
            tau=0.3, mask=s.mask, weight_s=s.weight, **fixed, **kwargs,
        )  # fmt: skip
    else:
        logprob, _ = (linear_logprob_naive if which == "exact" else _plain)(hidden, weight, x.target, **fixed)
        ref = logprob.detach() if s.ref is None else s.ref
        loss, ratio = pmd_loss_naive(logprob, ref, s.reward, s.baseline, s.cu_seqlens, tau=0.3, mask=s.mask, weight=s.weight)
    (2 * loss).backward()
    values = {"loss": loss, "log_ratio": ratio, "logprob": logprob, "d_hidden": hidden.grad, "d_weight": weight.grad}
    return {name: value.detach() for name, value in values.items()}
