"""The text of `k15 plan`."""

from collections.abc import Sequence

from k15.plan.answer import Answer, parameters
from k15.plan.known import MEASURED
from k15.plan.simulate import BudgetRow
from k15.plan.trace import Replay

GB = 1e9
EFFICIENT = 0.85


def describe(found: Answer, name: str, device: str) -> list[str]:
    """Model, memory of a device by part, host memory, hand-off, training time by part."""
    s, job = found.setup, found.setup.job
    every, active = parameters(s)
    p, parts, engine, share = job.parallel, found.parts, found.engine, found.sharing
    lines = [
        f"{name}: {every / 1e9:.3g} B parameters ({active / 1e9:.3g} B met by a token), {job.dtype_bytes * 8}-bit, on "
        f"{job.ranks} x {device} ({s.nodes} nodes)",
        f"layout: tensor {p.tensor}, pipeline {p.pipeline}, expert {p.expert}, context {p.context}, data {job.data}, "
        f"recompute {'on' if p.recompute else 'off'}, {job.micro_batches} micro-batches of up to "
        f"{job.pack_here * p.context:.0f} tokens",
        "",
        f"memory of a trainer rank (stage {found.stage}, the fullest), GB:",
        "  " + ", ".join(f"{k} {v / GB:.2f}" for k, v in parts.table().items()),
        f"  peak {parts.peak / GB:.2f} of {s.room / GB:.2f} that it may take"
        + ("" if parts.moments_in_backward else " (moments are reset, so they never meet activations)"),
        "memory of an engine on each of its devices, GB:",
        f"  weights {engine.weights / GB:.2f}, working {engine.activations / GB:.2f}, cache {engine.cache / GB:.2f}; "
        f"{s.concurrent} sequences of {s.context} tokens would take {engine.wanted / GB:.2f}; {engine.slots} of mean length fit",
        f"at a time, GB: {share.training / GB:.2f} while training, {share.sampling / GB:.2f} while sampling",
        f"host memory of a node, GB: shared {share.shared / GB:.2f}, with offloaded state and sleeping engines "
        f"{share.host / GB:.2f}",
        f"hand-off: {found.handoff['node_bytes'] / GB:.2f} GB into each node; "
        + ", ".join(f"{k} {found.handoff[k]:.2f} s" for k in ("publish", "pull", "load")),
        "",
        f"training: {found.train_s:.2f} s an iteration, {found.utilisation:.0%} of the data sheet",
        "  " + ", ".join(f"{k} {v:.2f} s" for k, v in found.train.items() if v > 0.005 * found.train_s),
    ]
    return lines


def costs(found: Answer, rows: Sequence[BudgetRow], iterations: int, price: float, budget: int) -> list[str]:
    """Rollout with and without partial rollouts, the whole iteration, GPU-hours and their price."""
    whole = max(rows, key=lambda r: r.budget)
    mine = next(r for r in rows if r.budget == budget)
    devices = max(found.setup.job.ranks, found.setup.nodes * found.setup.engines_per_node * found.setup.engine_tensor)
    hours = mine.iteration_s * iterations * devices / 3600
    return [
        f"rollout: {mine.rollout_s:.1f} s at rollout.budget_tokens={mine.budget} ({mine.off_policy:.0%} of the tokens from older "
        f"weights), {whole.rollout_s:.1f} s when waiting for the longest of {whole.budget} tokens",
        f"iteration: {mine.iteration_s:.1f} s, step efficiency {mine.efficiency:.0%}",
        f"{iterations} iterations: {mine.iteration_s * iterations / 3600:.1f} h, {hours:,.0f} GPU-hours, {hours * price:,.0f} at "
        f"{price:g} a GPU-hour",
    ]


def budget_table(rows: Sequence[BudgetRow]) -> list[str]:
    """Over token budgets, the price beside the gain."""
    longest = max(rows, key=lambda r: r.budget)
    head = "  budget  rollout s  shorter  iteration s  tokens/s  off-policy  oldest  efficiency  time that is lost"
    return [head, *(
        f"  {r.budget:6d}  {r.rollout_s:9.1f}  {longest.rollout_s / r.rollout_s:6.2f}x  {r.iteration_s:11.1f}  "
        f"{r.tokens_per_s:8.0f}  {r.off_policy:10.1%}  {r.oldest:6d}  {r.efficiency:10.1%}  {reason(r)}" for r in rows
    )]  # fmt: skip


def scale_table(rows: Sequence[tuple[int, int, BudgetRow]]) -> list[str]:
    """(devices, prompts, row): one budget on clusters of many sizes."""
    return ["  GPUs    prompts  iteration s  efficiency  time that is lost", *(
        f"  {n:6,d}  {p:7,d}  {r.iteration_s:11.1f}  {r.efficiency:10.1%}  {reason(r)}" for n, p, r in rows
    )]  # fmt: skip


def reason(row: BudgetRow) -> str:
    """The parts that are lost, the largest first; said to be too much below 85 %."""
    lost = {k: v for k, v in row.lost.items() if k not in ("ideal", "train") and v > 0.005 * row.iteration_s}
    text = ", ".join(f"{k} {v / row.iteration_s:.0%}" for k, v in sorted(lost.items(), key=lambda item: -item[1]))
    return text + ("" if row.efficiency >= EFFICIENT else f"  < {EFFICIENT:.0%}")


def replayed(found: Replay) -> list[str]:
    """How well a run's own iterations are reproduced."""

    def one(name: str, pair: tuple[float, float], deviation: float) -> str:
        return (f"  {name}: {pair[0]:.2f} s, measured {pair[1]:.2f} s ({pair[0] / pair[1] - 1:+.1%}); "
                f"single iterations {deviation:.0%} off on average")  # fmt: skip

    return [
        f"constants fitted on every other iteration; the {found.iterations} between:",
        one("rollout", found.rollout, found.rollout_deviation), one("iteration", found.iteration, found.iteration_deviation),
    ]  # fmt: skip


def error_line() -> str:
    return f"known error: {MEASURED}"
