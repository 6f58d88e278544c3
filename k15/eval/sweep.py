"""`k15 report SWEEP`: the points of a `--multirun` in one table and one plot, and the best of them with its interval.

sweep.json -> a row a point (what was swept, how it stands, accuracy, gain, length) -> SWEEP/report/index.html
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from k15.errors import DataError
from k15.eval import plot_style as ps
from k15.eval.intervals import Interval, difference
from k15.eval.page import environment
from k15.eval.results import aligned
from k15.eval.run_data import RunData, held_out, load_run, percent, points
from k15.log.files import atomic_write
from k15.log.sweep import is_finished, read_sweep

SPOT_CHECK = "spot check"  # what the accuracy of a reward model is


@dataclass(frozen=True)
class Row:
    """A point: the values that were swept, and its last accuracy. `value` is None while there is none.

    An accuracy of training rollouts has no interval: low = high = estimate.
    """

    number: int
    settings: tuple[str, ...]
    state: str
    iteration: int | None = None
    value: Interval | None = None
    gain: Interval | None = None
    length: float | None = None


def sweep_rows(folder: Path) -> tuple[list[str], str, list[Row]]:
    """(names of what was swept, what the accuracy is, a row a point). Raises DataError for a damaged sweep.json."""
    found = read_sweep(folder)
    given = {n: dict(o.lstrip("+").partition("=")[::2] for o in p.overrides) for n, p in sorted(found.points.items())}
    names = [k for k in dict.fromkeys(k for g in given.values() for k in g) if len({g.get(k) for g in given.values()}) > 1]
    if found.command == "reward_model":
        return names, SPOT_CHECK, [_spot_checked(n, tuple(g.get(k, "-") for k in names), folder / found.points[n].folder)
                                   for n, g in given.items()]  # fmt: skip
    runs = {n: _run(folder / p.folder) for n, p in found.points.items()}
    kind = _kind([run for run in runs.values() if run is not None])
    rows = []
    for number, values in given.items():
        run = runs[number]
        state = "finished" if is_finished(folder / found.points[number].folder) else "not finished"
        if run is None:
            rows.append(Row(number, tuple(values.get(k, "-") for k in names), state))
            continue
        value, gain, length = _outcome(run, kind)
        iteration = int(run.rows[-1]["iteration"]) if run.rows else None
        rows.append(Row(number, tuple(values.get(k, "-") for k in names), state, iteration, value, gain, length))
    return names, kind, rows


def _spot_checked(number: int, settings: tuple[str, ...], folder: Path) -> Row:
    """A reward model's accuracy on its held-out triples (`k15.eval.spot_check`), where it is there."""
    state = "finished" if is_finished(folder) else "not finished"
    path = folder / "spot_check.json"
    if not path.is_file():
        return Row(number, settings, state)
    try:
        (found,) = json.loads(path.read_text())["methods"].values()
        value = Interval(found["accuracy"], found["low"], found["high"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no spot check ({error!r}); remove it and run the point again.") from None
    return Row(number, settings, state, value=value)


def _run(folder: Path) -> RunData | None:
    """None where the point has no metrics (yet): it never started, or its command makes none."""
    return load_run(folder) if (folder / "metrics.jsonl").is_file() else None


def _kind(runs: Sequence[RunData]) -> str:
    """The accuracy that most points have; held-out before training's."""
    counts = {kind: sum(any(h.kind == kind for h in held_out(run)) for run in runs) for kind in ("greedy", "sampled")}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else "training"


def _outcome(run: RunData, kind: str) -> tuple[Interval | None, Interval | None, float | None]:
    if kind == "training":
        y, lengths = run.series("accuracy")[1], run.series("response_length_mean")[1]
        return (Interval(y[-1], y[-1], y[-1]) if y else None), None, (lengths[-1] if lengths else None)
    found = next((h for h in held_out(run) if h.kind == kind), None)
    return (found.after, found.gain, found.lengths[-1]) if found is not None else (None, None, None)


def best(rows: Sequence[Row]) -> tuple[Row | None, list[Row]]:
    """(the point with the highest accuracy, the others whose 95 % interval of the difference to it holds zero)."""
    valued = [r for r in rows if r.value is not None]
    if not valued:
        return None, []
    top = max(valued, key=lambda r: r.value.estimate)
    if top.value.low == top.value.high:  # no intervals
        return top, []
    return top, [r for r in valued if r is not top and difference(r.value, top.value).low <= 0]


def sentences(names: Sequence[str], kind: str, rows: Sequence[Row]) -> list[str]:
    """What the sweep says, and what it cannot say."""
    top, near = best(rows)
    where = f"{kind} accuracy" if kind == "training" else f"held-out accuracy ({kind})"
    missing = [str(r.number) for r in rows if r.state != "finished"]
    said = [f"not finished: point{'s' * (len(missing) > 1)} {', '.join(missing)} of {len(rows)}"] if missing else []
    if top is None:
        return [*said, "no point has an accuracy"]
    what = ", ".join(f"{k}={v}" for k, v in zip(names, top.settings, strict=True))
    interval = top.value.low < top.value.high
    shown = percent(top.value) if interval else f"{100 * top.value.estimate:.1f} % (no interval: not held out)"
    said.insert(0, f"best: point {top.number} ({what}), {where} {shown}")
    if near:
        said.append(f"not told apart from it at 95 %: point{'s' * (len(near) > 1)} {', '.join(str(r.number) for r in near)}")
    if interval and len(rows) > 1:
        said.append("the best of several points looks better than it is: its interval does not count the choice")
    return said


def table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Aligned text, a line a point."""
    columns = ["point", *names, "state", "iteration", "accuracy", "gain", "tokens"]
    cells = [
        [str(r.number), *r.settings, r.state, "-" if r.iteration is None else str(r.iteration),
         "-" if r.value is None else percent(r.value) if r.value.low < r.value.high else f"{100 * r.value.estimate:.1f} %",
         "-" if r.gain is None else points(r.gain), "-" if r.length is None else f"{r.length:.1f}"]
        for r in rows
    ]  # fmt: skip
    return aligned(columns, cells)


def build_sweep(folder: Path) -> tuple[Path, str]:
    """Write `folder`/report/index.html and report/figures/sweep.png; (the page, the text for the terminal). Raises DataError."""
    names, kind, rows = sweep_rows(folder)
    if not rows:
        raise DataError(f"the sweep {folder} has no points.")
    out = folder / "report"
    (out / "figures").mkdir(parents=True, exist_ok=True)
    said = sentences(names, kind, rows)
    svg = None
    with ps.style_context():
        if any(r.value is not None for r in rows):
            canvas = _figure(names, kind, rows)
            ps.save_png(canvas, out / "figures" / "sweep.png")
            svg = Markup(ps.themed_svg(canvas, "Accuracy of all points"))
    page = environment().get_template("sweep.html").render(
        name=folder.resolve().name, names=names, kind=kind, rows=rows, said=said, svg=svg, best=best(rows)[0]
    )  # fmt: skip
    atomic_write(out / "index.html", page.encode("utf-8", errors="backslashreplace"))
    return out / "index.html", "\n".join([table(names, rows), *said])


def _figure(names: Sequence[str], kind: str, rows: Sequence[Row]):
    """A dot and its 95 % interval a point; the last swept setting along the axis, a colour for each choice of the others."""
    canvas, (ax,) = ps.new_figure(11.4, 3.9)
    valued = [r for r in rows if r.value is not None]
    ticks = list(dict.fromkeys(r.settings[-1] if names else str(r.number) for r in rows))
    groups = list(dict.fromkeys(r.settings[:-1] for r in valued))
    for i, group in enumerate(groups):
        mine = [r for r in valued if r.settings[:-1] == group]
        shift = 0.5 * ((i + 0.5) / len(groups) - 0.5)
        x = [ticks.index(r.settings[-1] if names else str(r.number)) + shift for r in mine]
        y = [100 * r.value.estimate for r in mine]
        bars = [[100 * (r.value.estimate - r.value.low) for r in mine], [100 * (r.value.high - r.value.estimate) for r in mine]]
        label = ", ".join(f"{k}={v}" for k, v in zip(names, group))
        ax.errorbar(x, y, yerr=bars, fmt="o", color=ps.SERIES[i % len(ps.SERIES)], label=ps.text(label), capsize=4, linewidth=1.1)
    ax.set_xticks(range(len(ticks)), [ps.text(t) for t in ticks])
    top = best(rows)[0]
    ax.axhline(100 * top.value.estimate, color=ps.GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    ps.finish(ax, x=names[-1] if names else "point", y="right answers, %", legend=len(names) > 1,
              title=f"{'Training' if kind == 'training' else 'Held-out'} accuracy of every point")  # fmt: skip
    return canvas
