"""Response lengths for the simulator: measured ones, or a lognormal with the tail that is asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from k15.errors import ConfigError, DataError
from k15.log.rollouts import list_rollouts, read_rollouts

_Z99 = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True)
class Lengths:
    """Draws lengths in tokens, 1..maximum. `measured`: as many times as they stand there; else lognormal(mu, sigma)."""

    maximum: int
    measured: tuple[int, ...] = ()
    mu: float = 0.0
    sigma: float = 0.0

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [n]; what would be longer is cut at `maximum`, as the engine does."""
        if self.measured:
            found = rng.choice(np.asarray(self.measured), n)
        else:
            found = np.rint(rng.lognormal(self.mu, self.sigma, n))
        return np.clip(found, 1, self.maximum).astype(np.int64)


def lognormal(median: float, p99_over_p50: float, maximum: int) -> Lengths:
    """With this median (tokens), and a 99th percentile `p99_over_p50` times as long (before the cut at `maximum`)."""
    if not (median >= 1 and p99_over_p50 >= 1):
        raise ConfigError(f"a length of median {median} with p99/p50 {p99_over_p50} cannot be; both must be at least 1.")
    return Lengths(maximum, mu=math.log(median), sigma=math.log(p99_over_p50) / _Z99)


def of_run(folder, maximum: int, last: int = 5) -> Lengths:
    """Lengths of the finished responses of the last `last` iterations that a run folder has. Raises DataError."""
    files = dict(list_rollouts(folder))
    if not files:
        raise DataError(
            f"{folder} has no rollouts/*.jsonl.zst, so there are no lengths to draw from (log.rollouts=true writes them)."
        )
    found: list[int] = []
    for iteration in sorted(files)[-last:]:
        found += [int(r["length"]) for r in read_rollouts(files[iteration]) if r.get("correct") is not None]
    if not found:
        raise DataError(f"{folder}: no response of its last {last} iterations was finished.")
    return Lengths(maximum, measured=tuple(found))


def percentiles(lengths: Sequence[int] | np.ndarray) -> dict[str, float]:
    """p50, p99 and their ratio."""
    p50, p99 = np.percentile(np.asarray(lengths), (50, 99))
    return {"p50": float(p50), "p99": float(p99), "ratio": float(p99 / p50)}
