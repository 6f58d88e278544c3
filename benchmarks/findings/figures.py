"""The figures: curves of arms with every seed, their mean and its interval; points of accuracy against length."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.findings.arms import Lengths, Point
from benchmarks.findings.measures import slope, spread
from k15.eval import plot_style as ps

Curves = Mapping[str, Sequence[Sequence[Point]]]
"""Arm -> seed -> its evaluations."""
SIZE = (11.4, 3.9)


def _mean_and_seeds(ax: Axes, x: list[float], seeds: list[list[float]], label: str, colour: str) -> None:
    """Every seed thin, their mean thick, and the 95 % interval of the mean as a band."""
    for y in seeds:
        ax.plot(x, y, color=colour, alpha=0.35, linewidth=0.8)
    spreads = [spread(at) for at in zip(*seeds, strict=True)]
    ax.plot(x, [s.mean for s in spreads], color=colour, label=ps.text(label), marker="o", markersize=3.4)
    if len(seeds) > 1:
        limits = ax.get_ylim()
        ps.band(ax, x, [s.low for s in spreads], [s.high for s in spreads], colour)
        ax.set_ylim(limits)  # three seeds have wide intervals: the curves set the scale


def against_samples(curves: Curves, labels: Mapping[str, str], title: str, stated: float | None = None) -> Figure:
    """Held-out accuracy (left) and response length (right) against the responses trained on; `stated`: an accuracy to mark."""
    canvas, (left, right) = ps.new_figure(*SIZE, columns=2)
    for ax, value, unit in (
        (left, lambda p: 100 * p.accuracy, "held-out accuracy, %"), (right, lambda p: p.length, "response length, tokens"),
    ):  # fmt: skip
        for arm, colour in zip(labels, ps.SERIES, strict=False):
            x = [fmean(p.samples for p in at) for at in zip(*curves[arm], strict=True)]
            _mean_and_seeds(ax, x, [[value(p) for p in seed] for seed in curves[arm]], labels[arm], colour)
        ps.finish(ax, x="responses trained on", y=unit, title=title if ax is left else "", legend=True)
    if stated is not None:
        left.axhline(100 * stated, color=ps.GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    return canvas


def by_difficulty(runs: Sequence[Sequence[Lengths]], title: str) -> Figure:
    """Length of the trained responses against the iteration, for the easier and the harder half of the problems."""
    canvas, (ax,) = ps.new_figure(SIZE[0] * 0.62, SIZE[1])
    shared = sorted(set.intersection(*({p.iteration for p in run} for run in runs)))
    for label, value, colour in (("easier", lambda p: p.easier, ps.BLUE), ("harder", lambda p: p.harder, ps.RUST)):
        seeds = [[value(p) for p in run if p.iteration in shared] for run in runs]
        _mean_and_seeds(ax, shared, seeds, label, colour)
    ps.finish(ax, y="response length, tokens", title=title)
    return canvas


def against_length(curves: Curves, labels: Mapping[str, str], title: str, lines: bool) -> Figure:
    """Accuracy against mean length, a dot an evaluation (open: before training); `lines`: each seed's least-squares line."""
    canvas, (ax,) = ps.new_figure(SIZE[0] * 0.62, SIZE[1])
    for arm, colour in zip(labels, ps.SERIES, strict=False):
        for number, seed in enumerate(curves[arm]):
            x, y = [p.length for p in seed], [100 * p.accuracy for p in seed]
            ax.plot(x[1:], y[1:], "o", color=colour, markersize=3.8, label=ps.text(labels[arm]) if number == 0 else None)
            ax.plot(x[:1], y[:1], "o", color=colour, markersize=5, fillstyle="none")
            if lines:
                rise = slope(seed)[0]
                ends = [min(x), max(x)]
                ax.plot(ends, [fmean(y) + rise * (e - fmean(x)) for e in ends], color=colour, alpha=0.6, linewidth=1.0)
            else:
                ax.plot(x, y, color=colour, alpha=0.3, linewidth=0.8)
    ps.finish(ax, x="mean response length, tokens", y="held-out accuracy, %", title=title)
    return canvas
