"""The figures of a report. Each draws from a RunData and returns its caption, which says what is seen, in numbers.

`FIGURES` is the list; a figure whose metrics are all missing is not drawn (`available`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure as Canvas

from k15.eval import plot_style as ps
from k15.eval.run_data import RunData, held_out

HALF, FULL = (5.6, 3.15), (11.4, 3.7)
KIND_COLOUR = {"greedy": ps.BLUE, "sampled": ps.RUST}
PHASE_COLOUR = {
    "rollout": ps.BLUE, "reward": ps.OCHRE, "train": ps.RUST, "weights": ps.GREEN, "eval": ps.PURPLE, "save": ps.GREY,
}  # fmt: skip
FINISH_COLOUR = {"stop": ps.GREEN, "length": ps.OCHRE, "repetition": ps.ROSE, "budget": ps.BLUE}


@dataclass(frozen=True)
class Figure:
    """`needs`: metrics, any of which makes the figure drawable (`x_*`: any that begins so); `rollouts`: scored ones."""

    name: str
    title: str
    section: str
    needs: tuple[str, ...]
    draw: Callable[[RunData], tuple[Canvas, str]]
    wide: bool = False

    def available(self, run: RunData) -> bool:
        if self.needs == ("rollouts",):
            return bool(run.first_and_last())
        return any(run.metrics(n[:-1]) if n.endswith("*") else run.series(n)[0] for n in self.needs)


def change(name: str, x: list[int], y: list[float], form: str = "{:.2f}", unit: str = "") -> str:
    """`mean reward rose from 0.31 (iteration 1) to 0.62 (iteration 30)`; '' without points."""
    if not y:
        return ""
    first, last = form.format(y[0]), form.format(y[-1])
    if len(y) == 1 or first == last:
        return f"{name} {'was' if len(y) == 1 else 'stood at'} {last}{unit} at iteration {x[-1]}"
    verb = "rose" if y[-1] > y[0] else "fell"
    return f"{name} {verb} from {first}{unit} (iteration {x[0]}) to {last}{unit} (iteration {x[-1]})"


def sentences(*parts: str) -> str:
    """Non-empty parts as sentences."""
    return " ".join(f"{p[0].upper()}{p[1:]}." for p in parts if p).replace(" %", "\u00a0%")


def accuracy_length(run: RunData) -> tuple[Canvas, str]:
    """The report's Fig. 5: accuracy and response length against iteration, training and held-out."""
    canvas, (left, right) = ps.new_figure(*FULL, columns=2)
    said = []
    x, y = run.series("accuracy")
    if y:
        ps.curve(left, x, [100 * v for v in y], "training", ps.GREY)
    for h in held_out(run):
        colour, t = KIND_COLOUR[h.kind], list(h.iterations)
        percents = [100 * p.estimate for p in h.points]
        left.plot(t, percents, color=colour, label=h.kind, **ps.markers(t))
        ps.band(left, t, [100 * p.low for p in h.points], [100 * p.high for p in h.points], colour)
        said.append(change(f"held-out accuracy ({h.kind})", t, percents, "{:.1f}", " %"))
        lengths = [(i, v) for i, v in zip(t, h.lengths, strict=True) if v is not None]
        if lengths:
            lx, ly = map(list, zip(*lengths, strict=True))
            right.plot(lx, ly, color=colour, label=h.kind, **ps.markers(lx))
            said.append(change(f"mean length of these answers ({h.kind})", lx, ly, "{:.1f}", " tokens"))
    for metric, label, colour in (
        ("response_length_mean", "training", ps.GREY),
        ("length_correct_mean", "training, right", ps.GREEN),
        ("length_wrong_mean", "training, wrong", ps.ROSE),
    ):
        x, y = run.series(metric)
        if y:
            ps.curve(right, x, y, label, colour, **({} if colour == ps.GREY else {"linestyle": (0, (2, 1.6))}))
    x, y = run.series("reward_length")
    switched_on = next((i for i, v in zip(x, y, strict=True) if v != 0), None)
    if switched_on is not None and switched_on > x[0]:
        ps.mark(right, switched_on - 1, "length penalty on")
        said.append(f"the length penalty works from iteration {switched_on} on")
    ps.finish(left, title="Accuracy, held-out and training", y="right answers, %")
    ps.finish(right, title="Response length, held-out and training", y="tokens")
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    if any(len(h.points) for h in held_out(run)):
        said.append("bands: 95 % intervals")
    return canvas, sentences(*said)


def reward_parts(run: RunData) -> tuple[Canvas, str]:
    canvas, (ax,) = ps.new_figure(*HALF)
    x, y = run.series("reward_mean")
    if y:
        ps.curve(ax, x, y, "total", ps.INK)
    said = [change("mean reward", x, y, "{:.3f}")]
    others = ("reward_mean", "reward_audit_", "reward_failures_")
    parts = [m for m in run.metrics("reward_") if not m.startswith(others)]
    for i, metric in enumerate(parts):
        px, py = run.series(metric)
        ps.curve(ax, px, py, metric.removeprefix("reward_"), ps.SERIES[i % len(ps.SERIES)])
    ps.finish(ax, y="mean over rollouts")
    if parts:
        said.append(f"parts: {', '.join(p.removeprefix('reward_') for p in parts)}, each with its weight")
    return canvas, sentences(*said)


def finish_reasons(run: RunData) -> tuple[Canvas, str]:
    canvas, (ax,) = ps.new_figure(*HALF)
    names = run.metrics("finish_")
    rows = [r for r in run.rows if any(m in r for m in names)]
    counts = {m.removeprefix("finish_"): [float(r.get(m) if m in r else 0) for r in rows] for m in names}
    totals = np.maximum(np.sum(list(counts.values()), axis=0), 1)
    shares = {k: list(100 * np.array(v) / totals) for k, v in counts.items()}
    colours = {k: FINISH_COLOUR.get(k, ps.SERIES[(i + 4) % len(ps.SERIES)]) for i, k in enumerate(shares)}
    ps.stacked_bars(ax, [int(r["iteration"]) for r in rows], shares, colours)
    ax.set_ylim(0, 100)
    ps.finish(ax, y="share of rollouts, %")
    ends = ", ".join(f"{k} {v[-1]:.1f} %" for k, v in shares.items())
    return canvas, sentences(
        f"why responses ended; at iteration {rows[-1]['iteration']}: {ends}",
        "budget means unfinished, to be continued in the next iteration" if "budget" in shares else "",
    )


def sampled_difficulty(run: RunData) -> tuple[Canvas, str]:
    """What the sampler chose (report 2.3.4): tracked success rate of the prompts of each iteration, when they were drawn."""
    canvas, (ax,) = ps.new_figure(*FULL)
    names = ["sampled_new", *(m for m in run.metrics("sampled_rate_"))]
    rows = [r for r in run.rows if "sampled_new" in r]
    labels = ["not tried yet", *(m.removeprefix("sampled_rate_").replace("_", " to ") + " %" for m in names[1:])]
    counts = {label: [float(r.get(m) or 0) for r in rows] for label, m in zip(labels, names, strict=True)}
    colours = {label: colour for label, colour in zip(labels, (ps.GREY, ps.RUST, ps.ROSE, ps.OCHRE, ps.GREEN, ps.BLUE))}
    ps.stacked_bars(ax, [int(r["iteration"]) for r in rows], counts, colours)
    ps.finish(ax, y="prompts")
    last = ", ".join(f"{label} {v[-1]:.0f}" for label, v in counts.items())
    return canvas, sentences(
        f"success rate so far of the prompts that were drawn; at iteration {rows[-1]['iteration']}: {last}",
        f"sampler {run.setting('sampler.kind')}" if run.setting("sampler.kind") is not None else "",
    )


def length_histogram(run: RunData) -> tuple[Canvas, str]:
    canvas, (ax,) = ps.new_figure(*HALF)
    ends = run.first_and_last()
    lengths = [[int(r["length"]) for r in records] for _, records in ends]
    top = max(max(v) for v in lengths)
    step = max(1, -(-top // 40))  # whole tokens a bin
    bins = np.arange(0, top + 2 * step, step)
    said = []
    for (i, _), values, colour in zip(ends, lengths, (ps.GREY, ps.BLUE)[-len(ends) :], strict=True):
        weights = np.full(len(values), 100 / len(values))
        ax.hist(values, bins=bins, weights=weights, color=colour, alpha=0.55, label=f"iteration {i}", linewidth=0)
        said.append(f"iteration {i}: median {np.median(values):.0f}, 95th percentile {np.quantile(values, 0.95):.0f} tokens")
    ps.finish(ax, x="response length, tokens", y="share of responses, %")
    return canvas, sentences("finished responses by length", *said)


def pass_rates(run: RunData) -> tuple[Canvas, str]:
    """How many prompts are hopeless, mixed or solved: only the mixed ones teach."""
    canvas, (ax,) = ps.new_figure(*HALF)
    ends, said = run.first_and_last(), []
    edges = np.linspace(0, 1, 10)  # nine classes: k = 8 samples give nine rates
    for j, ((i, records), colour) in enumerate(zip(ends, (ps.GREY, ps.BLUE)[-len(ends) :], strict=True)):
        verdicts: dict[object, list[bool]] = {}
        for r in records:
            verdicts.setdefault(r["prompt_id"], []).append(bool(r["correct"]))
        rates = np.array([np.mean(v) for v in verdicts.values()])
        share = 100 * np.histogram(np.minimum(rates, 1 - 1e-9), bins=edges)[0] / len(rates)
        centres = np.linspace(0, 100, 9)
        ax.bar(centres + (j - (len(ends) - 1) / 2) * 4.6, share, width=4.4, color=colour, label=f"iteration {i}")
        never, always = 100 * np.mean(rates == 0), 100 * np.mean(rates == 1)
        said.append(
            f"iteration {i}: {never:.0f} % of prompts never right, {always:.0f} % always, {100 - never - always:.0f} % mixed"
        )
    ps.finish(ax, x="pass rate of a prompt, %", y="share of prompts, %")
    return canvas, sentences("prompts by the share of their sampled responses that were right", *said)


def log_ratio(run: RunData) -> tuple[Canvas, str]:
    canvas, (left, right) = ps.new_figure(*FULL, columns=2)
    x, mean = run.series("log_ratio_mean")
    sx, std = run.series("log_ratio_std")
    if mean:
        ps.curve(left, x, mean, "mean", ps.BLUE)
    if x == sx:
        low, high = (np.array(mean) + s * np.array(std) for s in (-1, 1))
        ps.band(left, x, list(low), list(high), ps.BLUE)
    mx, top = run.series("log_ratio_max")
    if top:
        ps.curve(left, mx, top, "largest", ps.GREY)
    if std:
        ps.curve(right, sx, [s * s for s in std], "variance", ps.RUST)
        right.set_ylim(bottom=0)
    ps.finish(left, title="Log-ratio of a sequence", y="nats")
    ps.finish(right, title="Its variance over sequences", y="nats²", legend=False)
    return canvas, sentences(
        "the loss's own quantity, summed over a response: log π(y) − log πᵢ(y), after the iteration's updates",
        "band: one standard deviation" if std else "",
        change("standard deviation", sx, std, "{:.2f}", " nats"),
    )


def one_curve(metric: str, y_label: str, colour: str, meaning: str, form: str = "{:.3f}", log: bool = False):
    """A figure with one metric's curve; `meaning` begins its caption."""

    def draw(run: RunData) -> tuple[Canvas, str]:
        canvas, (ax,) = ps.new_figure(*HALF)
        x, y = run.series(metric)
        ps.curve(ax, x, y, metric, colour)
        if log and min(y) > 0:
            ax.set_yscale("log")
        ps.finish(ax, y=y_label, legend=False)
        return canvas, sentences(meaning, change("it", x, y, form))

    return draw


def loss(run: RunData) -> tuple[Canvas, str]:
    canvas, axes = ps.new_figure(*FULL, columns=2)
    said, (held_x, held_y) = [], run.series("eval_loss")  # of fine-tuning
    if held_y:
        axes[0].plot(held_x, held_y, color=ps.RUST, label="held-out", **ps.markers(held_x))
        said.append(change("held-out loss", held_x, held_y, "{:.4g}"))
    for ax, metric, name, colour in zip(
        axes, ("loss", "grad_norm"), ("Loss", "Gradient norm"), (ps.BLUE, ps.PURPLE), strict=True
    ):
        x, y = run.series(metric)
        if y:
            ps.curve(ax, x, y, "training" if metric == "loss" else name, colour)
        said.append(change(name.lower(), x, y, "{:.4g}"))
        ps.finish(ax, title=name, legend=metric == "loss" and bool(held_y))
    return canvas, sentences(*said, "the gradient norm is the one before clipping")


def phase_times(run: RunData) -> tuple[Canvas, str]:
    canvas, (ax,) = ps.new_figure(*FULL)
    names = [m for m in run.metrics("time_") if m.endswith("_s")]
    rows = [r for r in run.rows if any(m in r for m in names)]
    layers = {m[5:-2]: [float(r.get(m) if r.get(m) is not None else 0) for r in rows] for m in names}
    order = [*(p for p in PHASE_COLOUR if p in layers), *(p for p in layers if p not in PHASE_COLOUR)]
    colours = {p: PHASE_COLOUR.get(p, ps.SERIES[(i + 5) % len(ps.SERIES)]) for i, p in enumerate(order)}
    size = ps.stacked_bars(ax, [int(r["iteration"]) for r in rows], {p: layers[p] for p in order}, colours)
    ps.finish(ax, y="seconds")
    total = sum(map(sum, layers.values()))
    trained = sum("time_rollout_s" in r or "time_train_s" in r for r in rows)  # the others only evaluated
    shares = ", ".join(f"{p} {100 * sum(layers[p]) / max(total, 1e-9):.0f} %" for p in order)
    return canvas, sentences(
        f"{total / max(trained, 1):.1f} s an iteration on average: {shares}",
        f"each bar is the mean of {size} iterations" if size > 1 else "",
    )


def partial(run: RunData) -> tuple[Canvas, str]:
    canvas, (left, right) = ps.new_figure(*FULL, columns=2)
    x, y = run.series("segments_mean")
    ps.curve(left, x, y, "segments", ps.TEAL)
    ox, off = run.series("off_policy_token_fraction")
    ps.curve(right, ox, [100 * v for v in off], "off-policy", ps.OCHRE)
    ps.finish(left, title="Segments of a response", y="mean", legend=False)
    ps.finish(right, title="Tokens from older weights", y="% of trained tokens", legend=False)
    right.set_ylim(bottom=0)
    return canvas, sentences(
        "responses that outgrow an iteration's token budget go on in the next one, under newer weights",
        change("segments a response", x, y),
        change("the share of older tokens", ox, [100 * v for v in off], "{:.1f}", " %"),
    )


CANARY = "mean difference between engine and trainer log-probabilities of a fixed text after each hand-off"
FIGURES = (
    Figure("accuracy_length", "Accuracy and response length", "Learning",
           ("eval_greedy_*", "eval_sampled_*", "accuracy", "response_length_mean"), accuracy_length, wide=True),
    Figure("reward_parts", "Reward by part", "Learning", ("reward_*",), reward_parts),
    Figure("finish_reasons", "How responses end", "Learning", ("finish_*",), finish_reasons),
    Figure("length_histogram", "Response lengths, first and last", "Learning", ("rollouts",), length_histogram),
    Figure("pass_rates", "Pass rates, first and last", "Learning", ("rollouts",), pass_rates),
    Figure("sampled_difficulty", "Sampled difficulty", "Learning", ("sampled_new",), sampled_difficulty, wide=True),
    Figure("log_ratio", "Log-ratio", "Policy", ("log_ratio_mean", "log_ratio_std"), log_ratio, wide=True),
    Figure("kl", "KL", "Policy", ("kl",),
           one_curve("kl", "nats a token", ps.PURPLE, "divergence from the iteration's reference weights", "{:.4f}")),
    Figure("entropy", "Entropy", "Policy", ("entropy",),
           one_curve("entropy", "nats a token", ps.GREEN, "mean entropy of the next-token distribution")),
    Figure("loss", "Loss and gradient norm", "Policy", ("loss", "eval_loss", "grad_norm"), loss, wide=True),
    Figure("phase_times", "Time by phase", "System", ("time_*",), phase_times, wide=True),
    Figure("tokens_per_s", "Generation speed", "System", ("tokens_per_s",),
           one_curve("tokens_per_s", "tokens/s", ps.BLUE, "sampled tokens over the rollout phase", "{:,.0f}")),
    Figure("canary", "Engine against trainer", "System", ("canary_mean_abs",),
           one_curve("canary_mean_abs", "nats a token", ps.TEAL, CANARY, "{:.1e}", log=True)),
    Figure("partial", "Partial rollouts", "System", ("segments_mean", "off_policy_token_fraction"), partial, wide=True),
)  # fmt: skip
