"""Did both sides do the same work? Findings in words; a speed may be printed only where there is none."""

from collections.abc import Sequence

from benchmarks.step.record import Run
from benchmarks.step.settings import Work

LENGTH_TOLERANCE = 0.2
REWARD_ERRORS = 3.5  # standard errors: the first iterations sample from the very same weights


def check(runs: Sequence[Run], work: Work) -> list[str]:
    """What speaks against comparing these runs; empty where nothing does. Needs runs of both sides."""
    faults = [f"{run.side}, {run.setting}: {fault}" for run in runs for fault in own_faults(run, work)]
    sides = {side: [r for r in runs if r.side == side] for side in ("k15", "trl")}
    for side, mine in sides.items():
        if not mine:
            faults.append(f"there is no run of {side}")
    if faults:
        return faults
    reference = sides["k15"][0]
    for run in runs:
        if run.prompt_ids != reference.prompt_ids:
            faults.append(f"{run.side}, {run.setting}: prompts become other tokens than k15's")
        for number, (a, b) in enumerate(zip(run.iterations, reference.iterations, strict=True), 1):
            if a.counts() != b.counts():
                faults.append(f"{run.side}, {run.setting}: iteration {number} sampled other prompts than k15's")
    return faults + comparison_faults(sides["k15"], sides["trl"])


def own_faults(run: Run, work: Work) -> list[str]:
    """Faults that a run shows by itself: its amount of work, its lengths, its update."""
    faults = []
    if len(run.iterations) != work.iterations:
        faults.append(f"{len(run.iterations)} iterations instead of {work.iterations}")
    for number, iteration in enumerate(run.iterations, 1):
        counts = iteration.counts()
        if len(counts) != work.prompts_per_iteration or set(counts.values()) != {work.samples_per_prompt}:
            faults.append(
                f"iteration {number} trained on {len(counts)} prompts with {sorted(set(counts.values()))} samples each "
                f"instead of {work.prompts_per_iteration} with {work.samples_per_prompt}"
            )
        if not all(1 <= s.length <= work.max_response_tokens for s in iteration.samples):
            faults.append(f"iteration {number} has a response outside 1..{work.max_response_tokens} tokens")
    if not run.weights_moved > 0:
        faults.append("the weights did not change")
    # AdamW moves a weight by at most about lr a step (its first steps go nearly the full lr).
    elif run.weights_moved > 3 * work.lr * work.iterations:
        faults.append(f"weights moved by {run.weights_moved:.2g}, more than {work.iterations} steps at lr {work.lr:g} may")
    return faults


def comparison_faults(k15: Sequence[Run], trl: Sequence[Run]) -> list[str]:
    """Lengths over all iterations within LENGTH_TOLERANCE; rewards of the first ones, same weights, within noise."""
    faults = []
    lengths = [mean_length(k15), mean_length(trl)]
    if max(lengths) > (1 + LENGTH_TOLERANCE) * min(lengths):
        faults.append(f"mean lengths differ by more than {LENGTH_TOLERANCE:.0%}: k15 {lengths[0]:.1f}, TRL {lengths[1]:.1f}")
    (a, a_error), (b, b_error) = first_reward(k15), first_reward(trl)
    if abs(a - b) > REWARD_ERRORS * (a_error**2 + b_error**2) ** 0.5:
        faults.append(
            f"rewards of the first iteration differ: k15 {a:.3f} (standard error {a_error:.3f}), TRL {b:.3f} ({b_error:.3f})"
        )
    return faults


def mean_length(runs: Sequence[Run]) -> float:
    """Tokens a response, over all iterations."""
    lengths = [s.length for run in runs for i in run.iterations for s in i.samples]
    return sum(lengths) / len(lengths)


def first_reward(runs: Sequence[Run]) -> tuple[float, float]:
    """(mean reward of the first iterations, its standard error); blocks that sampled the very same count once.

    k15's seeds belong to the rollout, so its blocks repeat each other's first iteration; they are no independent samples.
    """
    distinct = {tuple(sorted((s.prompt, s.length, s.reward) for s in r.iterations[0].samples)): r for r in runs}
    firsts = [r.iterations[0] for r in distinct.values()]
    n = len(firsts)
    return sum(i.mean_reward for i in firsts) / n, sum(i.reward_error() ** 2 for i in firsts) ** 0.5 / n
