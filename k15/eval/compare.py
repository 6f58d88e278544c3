"""Several runs side by side: one table, one figure, and the settings in which they differ."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from k15.eval import plot_style as ps
from k15.eval.page import environment
from k15.eval.run_data import HeldOut, RunData, held_out
from k15.log.files import atomic_write


def build_comparison(runs: Sequence[RunData], out: str | Path) -> Path:
    """Write `out`/index.html and `out`/figures/comparison.png; returns the page."""
    folder = Path(out)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    names = _names(runs)
    with ps.style_context():
        canvas = _figure(runs, names)
        ps.save_png(canvas, folder / "figures" / "comparison.png")
        svg = Markup(ps.themed_svg(canvas, "Accuracy and length of all runs"))
    settings = differing(runs)
    rows = [
        {
            "name": name,
            "settings": [_short(run.setting(s)) for s in settings],
            "iteration": run.rows[-1]["iteration"] if run.rows else 0,
            "kinds": {h.kind: h for h in held_out(run)},
            "length": _lengths(run),
        }
        for name, run in zip(names, runs, strict=True)
    ]
    page = environment().get_template("compare.html").render(rows=rows, settings=settings, svg=svg, kinds=_kinds(rows))
    atomic_write(folder / "index.html", page.encode("utf-8"))
    return folder / "index.html"


def differing(runs: Sequence[RunData]) -> list[str]:
    """Dotted names of the settings that are not the same in all runs; the run folder and name apart."""
    flat = [_flatten(run.config) for run in runs]
    keys = dict.fromkeys(k for f in flat for k in f)
    return [k for k in keys if k not in ("run_dir", "name") and len({repr(f.get(k)) for f in flat}) > 1]


def _flatten(node: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}


def _names(runs: Sequence[RunData]) -> list[str]:
    """Folder names, with the parent's where two are the same (a sweep's points are 0, 1, 2 ...)."""
    names = [r.name for r in runs]
    return names if len(set(names)) == len(names) else [f"{r.folder.resolve().parent.name}/{r.name}" for r in runs]


def _kinds(rows: Sequence[dict[str, object]]) -> list[str]:
    return [k for k in ("greedy", "sampled") if any(k in r["kinds"] for r in rows)]


def _lengths(run: RunData) -> tuple[float, float] | None:
    y = run.series("response_length_mean")[1]
    return (y[0], y[-1]) if y else None


def _short(value: object) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 40 else f"…{text[-39:]}"


def _figure(runs: Sequence[RunData], names: Sequence[str]):
    """Held-out accuracy (greedy where measured, else sampled, else training) and training length, a colour a run."""
    canvas, (left, right) = ps.new_figure(11.4, 4.1, columns=2)
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        colour, style = ps.SERIES[i % len(ps.SERIES)], ("-", "--", ":")[i // len(ps.SERIES) % 3]
        kinds: list[HeldOut] = held_out(run)
        if kinds:
            h = kinds[0]
            percents, mark = [100 * p.estimate for p in h.points], ps.markers(h.iterations)
            left.plot(h.iterations, percents, linestyle=style, color=colour, label=ps.text(name), **mark)
            low, high = [100 * p.low for p in h.points], [100 * p.high for p in h.points]
            ps.band(left, list(h.iterations), low, high, colour)
        else:
            x, y = run.series("accuracy")
            ps.curve(left, x, [100 * v for v in y], f"{name} (training)", colour, linestyle=style)
        x, y = run.series("response_length_mean")
        ps.curve(right, x, y, name, colour, linestyle=style)
    ps.finish(left, title="Held-out accuracy, with 95 % intervals", y="right answers, %")
    ps.finish(right, title="Response length in training", y="tokens", legend=False)
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    return canvas
