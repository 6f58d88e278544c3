"""The length reward (report 2.3.3): among a prompt's k responses, short correct ones gain and long ones lose."""

from collections.abc import Sequence


def length_reward(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """lam_i = 0.5 - (len_i - min_len) / (max_len - min_len); all 0 where the lengths are equal.

    A correct response gets lam_i, an incorrect one min(0, lam_i). Lengths in tokens; values in [-0.5, 0.5], unweighted.
    """
    if len(lengths) != len(correct):
        raise ValueError(f"there are {len(lengths)} lengths but {len(correct)} verdicts; give one each a response")
    if not lengths:
        return []
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    lam = [0.5 - (n - shortest) / (longest - shortest) for n in lengths]
    return [v if ok else min(0.0, v) for v, ok in zip(lam, correct, strict=True)]


def length_weight(weight: float, warmup_iterations: int, iteration: int) -> float:
    """0 during the first `warmup_iterations` iterations (counted from 0), then `weight`, constant."""
    return 0.0 if iteration < warmup_iterations else weight
