"""From verdicts to numbers: pass@1, pass@k, maj@k, each with a 95 % interval over problems, and how it was made.

pass@k is the unbiased estimator over n >= k samples (1 - C(n-c, k) / C(n, k)). maj@k votes on classes of equivalent answers;
where classes tie, a problem counts with the share of right ones among them (the mean over random tie-breaking).
Wilson's interval where a problem counts 0 or 1, with the effective number of answers for pass@1 of several samples, else a
percentile bootstrap over problems.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from k15.errors import ConfigError
from k15.eval.intervals import Interval, clustered_wilson, paired_gain, wilson

_MOST_SUBSETS = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric of a task. `values`: of each problem, 0..1; `method`: how the interval was made."""

    metric: str
    interval: Interval
    method: str
    values: tuple[float, ...]


def pass_at(n: int, correct: int, k: int) -> float:
    """The chance that one of k answers drawn from these n (of which `correct` are right) is right."""
    assert 0 <= correct <= n and 1 <= k <= n
    return 1.0 - comb(n - correct, k) / comb(n, k)


def majority(classes: Sequence[int | None], right: Sequence[bool]) -> float:
    """0..1 for one problem: is the largest class right? `classes[i]`: of answer i, None where it has no answer (no vote).

    A class is right where its first answer is.
    """
    votes = Counter(c for c in classes if c is not None)
    if not votes:
        return 0.0
    first = {c: right[list(classes).index(c)] for c in votes}
    top = [c for c, n in votes.items() if n == max(votes.values())]
    return sum(first[c] for c in top) / len(top)


def majority_at(classes: Sequence[int | None], right: Sequence[bool], k: int, seed: str = "") -> float:
    """`majority` of k of the answers: the mean over all subsets, or over 200 seeded ones where there are more."""
    n = len(classes)
    assert 1 <= k <= n == len(right)
    if comb(n, k) <= _MOST_SUBSETS:
        subsets = [list(s) for s in combinations(range(n), k)]
    else:
        rng = random.Random(f"k15 maj@{k} {seed}")
        subsets = [sorted(rng.sample(range(n), k)) for _ in range(_MOST_SUBSETS)]
    return sum(majority([classes[i] for i in s], [right[i] for i in s]) for s in subsets) / len(subsets)


def estimates(
    verdicts: Sequence[Sequence[bool]], classes: Sequence[Sequence[int | None]] | None, ks: Sequence[int]
) -> list[Estimate]:
    """pass@1; pass@k and (with `classes`) maj@k for every k > 1 of `ks`. `verdicts[i]`: of the answers to problem i."""
    n = min(len(v) for v in verdicts)
    if bad := [k for k in ks if not 1 <= k <= n]:
        raise ConfigError(f"pass_at has {bad[0]}, but there are {n} samples a problem; give 1 to {n}, or more sampling.samples.")
    share = tuple(sum(v) / len(v) for v in verdicts)
    method = "Wilson" if n == 1 else "Wilson, effective number of answers"
    found = [Estimate("pass@1", clustered_wilson(verdicts) if n > 1 else of_values(share)[0], method, share)]
    for k in sorted({k for k in ks if k > 1}):
        found.append(_named(f"pass@{k}", [pass_at(len(v), sum(v), k) for v in verdicts]))
        if classes is not None:
            values = [majority_at(c, v, k, str(i)) for i, (c, v) in enumerate(zip(classes, verdicts, strict=True))]
            found.append(_named(f"maj@{k}", values))
    return found


def _named(metric: str, values: Sequence[float]) -> Estimate:
    interval, method = of_values(values)
    return Estimate(metric, interval, method, tuple(values))


def of_values(values: Sequence[float]) -> tuple[Interval, str]:
    """The mean over problems with its interval, and the method's name."""
    if all(v in (0.0, 1.0) for v in values):
        return wilson(sum(values), len(values)), "Wilson"
    found = paired_gain([0.0] * len(values), values)
    method = "bound on other values" if len(set(values)) == 1 else "bootstrap over problems"
    return Interval(found.estimate, max(0.0, found.low), min(1.0, found.high)), method
