"""Baselines b of the k rewards of one prompt (report 2.3.2).

`mean`: the report's choice, the mean of all k rewards, the sample's own included. `log_partition`:
tau * log(1/k sum_j exp(r_j / tau)), which the mean approximates for large tau. `leave_one_out`: the mean of the other
k - 1 rewards; r_j - b is then k/(k-1) times that of `mean`, so it rescales the reward against tau. `none`: 0, for ablations.
"""

import math
from collections.abc import Sequence

from k15.errors import ConfigError, unknown_name

KINDS = ("mean", "log_partition", "leave_one_out", "none")


def baselines(rewards: Sequence[float], kind: str = "mean", tau: float = 0.1) -> list[float]:
    """One baseline for each of the k rewards of a prompt (equal for all but `leave_one_out`). Raises ConfigError."""
    if kind not in KINDS:
        raise unknown_name("algo.baseline", kind, KINDS)
    if not rewards:
        return []
    if kind == "none":
        return [0.0] * len(rewards)
    if kind == "mean":
        return [math.fsum(rewards) / len(rewards)] * len(rewards)
    if kind == "log_partition":
        return [log_partition(rewards, tau)] * len(rewards)
    if len(rewards) < 2:
        raise ConfigError(
            "algo.baseline=leave_one_out needs at least two samples of a prompt, but there is 1; "
            "set algo.samples_per_prompt to 2 or more, or algo.baseline=mean."
        )
    total = math.fsum(rewards)
    return [(total - r) / (len(rewards) - 1) for r in rewards]


def log_partition(rewards: Sequence[float], tau: float) -> float:
    """tau * log(1/k sum_j exp(r_j / tau)), shifted by the largest reward so that small tau cannot overflow."""
    if tau <= 0:
        raise ConfigError(f"algo.tau is {tau}, but it must be greater than 0; the report's loss divides by it.")
    top = max(rewards)
    return top + tau * math.log(math.fsum(math.exp((r - top) / tau) for r in rewards) / len(rewards))
