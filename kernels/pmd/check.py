"""What `pmd_loss` refuses. Shapes, types and devices are looked at always; the values of cu_seqlens on the host only."""

from itertools import pairwise

import torch
from torch import Tensor


def check_inputs(
    logprob: Tensor,
    ref_logprob: Tensor,
    cu_seqlens: Tensor,
    per_token: dict[str, Tensor | None],
    per_sequence: dict[str, Tensor | None],
    allow_empty: bool,
) -> None:
    """ValueError for shapes, dtypes or devices that do not fit, and on the CPU for a wrong cu_seqlens.

    On a GPU the values of cu_seqlens are not read back (that would stop the host); a wrong one makes the results NaN.
    """
    _check_shapes(logprob, cu_seqlens, {"ref_logprob": ref_logprob} | per_token, per_sequence)
    others = {"ref_logprob": ref_logprob, "cu_seqlens": cu_seqlens} | per_token | per_sequence
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.device != logprob.device:
            raise ValueError(f"{name} is on {tensor.device} and logprob on {logprob.device}; move them to one device")
        if tensor.requires_grad:
            raise ValueError(f"{name} requires a gradient, but the loss is differentiated in logprob only; detach it")
    if not logprob.is_floating_point() or ref_logprob.dtype != logprob.dtype:
        raise ValueError(f"logprob is {logprob.dtype} and ref_logprob {ref_logprob.dtype}; both must have one floating dtype")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens is {cu_seqlens.dtype}; it must be int32 (or int64)")
    if cu_seqlens.device.type == "cpu":
        check_bounds(cu_seqlens.tolist(), logprob.shape[0], allow_empty)


def check_bounds(bounds: list[int], tokens: int, allow_empty: bool = False) -> None:
    """ValueError unless bounds = [0, ..., tokens] rises (or, with `allow_empty`, does not fall)."""
    if bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"cu_seqlens goes from {bounds[0]} to {bounds[-1]}; it must go from 0 to {tokens} (tokens)")
    for s, (a, b) in enumerate(pairwise(bounds)):
        if b < a:
            raise ValueError(f"cu_seqlens falls from {a} to {b} at sequence {s}; it must rise")
        if b == a and not allow_empty:
            raise ValueError(f"sequence {s} is empty; drop it before the loss")


def _check_shapes(logprob, cu_seqlens, per_token, per_sequence) -> None:
    if logprob.ndim != 1:
        raise ValueError(f"logprob has shape {tuple(logprob.shape)}; it must be [T], the packed tokens")
    tokens, reward = logprob.shape[0], per_sequence.get("reward")
    sequences = cu_seqlens.numel() - 1 if reward is None else reward.numel()
    if sequences < 1:
        raise ValueError(f"there is no sequence: {'cu_seqlens has no two bounds' if reward is None else 'reward is empty'}")
    wanted = [(n, t, tokens) for n, t in per_token.items()] + [(n, t, sequences) for n, t in per_sequence.items()]
    for name, tensor, want in [*wanted, ("cu_seqlens", cu_seqlens, sequences + 1)]:
        if tensor is not None and tuple(tensor.shape) != (want,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {tokens} tokens in {sequences} sequences need [{want}]")
