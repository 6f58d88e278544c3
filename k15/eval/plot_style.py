"""How figures look: one style, one palette, PNG files for use elsewhere and SVG that follows the page's theme.

Imports matplotlib; only the report does so. Figures are made without pyplot, so no state is shared between them.
"""

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID, PAPER = "#20242c", "#69707d", "#e4e6ea", "#ffffff"
BLUE, RUST, GREEN, PURPLE = "#2463a6", "#c4541a", "#2c8257", "#7b52a6"
OCHRE, TEAL, ROSE, GREY = "#b3830d", "#11808a", "#b43568", "#8b919b"
SERIES = (BLUE, RUST, GREEN, PURPLE, OCHRE, TEAL, ROSE, GREY)

# Colours in the SVG become CSS variables of the page (see report.css), so that one drawing serves light and dark.
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES)}

STYLE = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "k15",
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}
SMOOTH_ABOVE = 40  # points; longer curves are drawn faint, under their moving average
MAX_BARS = 100


def new_figure(width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with `columns` panels side by side. Call under `style_context()`."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06, w_pad=0.08, h_pad=0.06)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def curve(ax: Axes, x: list[int], y: list[float], label: str, colour: str, **style: object) -> None:
    """A line; few points get markers, many points are drawn faint under a centred moving average."""
    if len(x) > SMOOTH_ABOVE:
        ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.9)
        ax.plot(x, smooth(y), color=colour, label=text(label), **style)
    else:
        ax.plot(x, y, color=colour, label=text(label), **markers(x), **style)


def markers(x: Sequence[int]) -> dict[str, object]:
    """Dots for a curve of few points (a single one would be invisible without)."""
    return {"marker": "o", "markersize": 3.4} if len(x) <= 14 else {}


def smooth(y: list[float]) -> np.ndarray:
    """Centred moving average over a twentieth of the curve (at least 5 points); the window shrinks at the ends."""
    half = max(5, len(y) // 20) // 2
    return np.array([np.mean(y[max(0, i - half) : i + half + 1]) for i in range(len(y))])


def band(ax: Axes, x: list[int], low: list[float], high: list[float], colour: str) -> None:
    ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)


def mark(ax: Axes, x: float, label: str) -> None:
    """A vertical line at x, named at its foot."""
    ax.axvline(x, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    ax.annotate(
        label, (x, 0.03), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points", color=GREY, fontsize=8
    )


def stacked_bars(ax: Axes, x: list[int], layers: dict[str, list[float]], colours: dict[str, str]) -> int:
    """Bars of stacked layers; more than MAX_BARS iterations are averaged in equal bins. Returns iterations a bar."""
    size = -(-len(x) // MAX_BARS)
    starts = range(0, len(x), size)
    left = np.array([x[i] for i in starts], dtype=float)
    centres = left + (np.array([x[min(i + size, len(x)) - 1] for i in starts]) - left) / 2
    floor = np.zeros(len(centres))
    for name, values in layers.items():
        height = np.array([np.mean(values[i : i + size]) for i in starts])
        ax.bar(centres, height, width=0.84 * size, bottom=floor, label=text(name), color=colours[name], linewidth=0)
        floor += height
    return size


def finish(ax: Axes, *, title: str = "", x: str = "iteration", y: str = "", legend: bool = True) -> None:
    """Labels, whole-number iterations, and the legend in a row above the panel."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if x == "iteration":
        ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 5, 10], integer=True))
    labels = ax.get_legend_handles_labels()[1]
    rows = 0
    if legend and labels:
        columns = min(8 if ax.figure.axes == [ax] and ax.figure.get_figwidth() > 8 else 5, len(labels))
        rows = -(-len(labels) // columns)
        ax.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2,
            columnspacing=1.3, handlelength=1.3, handletextpad=0.5, labelspacing=0.25,
        )  # fmt: skip
    if title:
        ax.set_title(title, pad=6 + 13 * max(rows, 1), fontweight="bold")


def text(value: object) -> str:
    """A label as it stands: `$` would start matplotlib's own mathematics, `_` would hide it from the legend."""
    escaped = str(value).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def save_png(figure: Figure, path: Path) -> None:
    """Lay the figure out and write it; a later `themed_svg` keeps this layout."""
    figure.savefig(path, dpi=170, format="png", metadata={"Software": None})
    figure.set_layout_engine("none")


def themed_svg(figure: Figure, label: str) -> str:
    """An inline <svg> whose colours are the page's CSS variables and whose font is the page's."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_VARIABLES[m[0]]})" if m[0] in _VARIABLES else m[0], svg)
    svg = re.sub(r'font-family: [^;"]*', "font-family: inherit", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


@contextmanager
def style_context() -> Iterator[None]:
    """`with style_context(): ...` draws in k15's style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield
