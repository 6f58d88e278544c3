"""`k15 report`: a run folder as one page, report/index.html, readable without a network, with its figures as PNG.

    run folder -> RunData -> headline, figures (SVG in the page, PNG beside it), sampled rollouts -> index.html

Model text goes through autoescaping; nothing in the page is a script.
"""

import argparse
import statistics
import sys
from pathlib import Path

from markupsafe import Markup

from k15.errors import ConfigError, DataError, K15Error
from k15.eval import plot_style
from k15.eval.compare import build_comparison
from k15.eval.page import environment
from k15.eval.plots import FIGURES
from k15.eval.results import is_evaluation
from k15.eval.run_data import HeldOut, RunData, headline, held_out, load_run
from k15.eval.samples import choose
from k15.eval.standings import evaluations
from k15.eval.sweep import build_sweep
from k15.log.files import atomic_write
from k15.log.progress import duration
from k15.log.sweep import is_sweep, read_sweep

_HERE = Path(__file__).parent


def build_report(run_dir: str | Path) -> Path:
    """Write `run_dir`/report/index.html and report/figures/*.png; returns the page. Gaps in the run are named in it."""
    return _build(load_run(run_dir))


def _build(run: RunData, out: Path | None = None) -> Path:
    """`out`: where the page goes; None: report/ of the run folder."""
    out = run.folder / "report" if out is None else out
    (out / "figures").mkdir(parents=True, exist_ok=True)
    sections = _sections(run, out / "figures")
    results = held_out(run)
    page = (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            subtitle=_subtitle(run),
            results=results,
            length=_length(run, results),
            facts=_facts(run),
            sections=sections,
            shown=choose(run),
            notes=run.notes,  # last: drawing and choosing may have found damaged files
        )
    )
    atomic_write(out / "index.html", page.encode("utf-8", errors="backslashreplace"))
    return out / "index.html"


def _sections(run: RunData, folder: Path) -> list[dict[str, object]]:
    sections: dict[str, dict[str, list]] = {}
    for figure in FIGURES:
        section = sections.setdefault(figure.section, {"figures": [], "absent": []})
        path = folder / f"{figure.name}.png"
        if not figure.available(run):
            section["absent"].append(figure.title)
            path.unlink(missing_ok=True)  # of an earlier report
            continue
        with plot_style.style_context():
            canvas, caption = figure.draw(run)
            plot_style.save_png(canvas, path)
            svg = Markup(plot_style.themed_svg(canvas, figure.title))
        section["figures"].append(
            {"name": figure.name, "title": figure.title, "caption": caption, "svg": svg, "wide": figure.wide}
        )
    return [{"name": name, **section} for name, section in sections.items()]


def _subtitle(run: RunData) -> str:
    def get(name: str) -> object:
        return run.setting(name)

    parts = []
    if run.config:
        parts.append(Path(str(get("model.path"))).name if get("model.path") is not None else "tiny model")
    if get("algo.loss") is not None:
        parts.append(f"{get('algo.loss')} loss, τ {get('algo.tau')}, baseline {get('algo.baseline')}")
    if get("algo.prompts_per_iteration") is not None:
        parts.append(f"{get('algo.prompts_per_iteration')} prompts × {get('algo.samples_per_prompt')} responses")
    if get("seed") is not None:
        parts.append(f"seed {get('seed')}")
    return " · ".join(parts)


def _length(run: RunData, results: list[HeldOut]) -> dict[str, object] | None:
    """Mean response length before and after: held-out greedy, else held-out sampled, else of the training rollouts."""
    x, y = run.series("response_length_mean")
    training = f"In training: {y[0]:.1f} → {y[-1]:.1f} tokens (iterations {x[0]} to {x[-1]})." if y else ""
    for h in results:
        if h.gain is not None and h.lengths[0] is not None and h.lengths[-1] is not None:
            return {
                "where": f"held-out, {h.kind}", "before": h.lengths[0], "after": h.lengths[-1],
                "first": h.iterations[0], "last": h.iterations[-1], "more": training,
            }  # fmt: skip
    if len(y) > 1:
        return {"where": "training", "before": y[0], "after": y[-1], "first": x[0], "last": x[-1], "more": ""}
    return None


def _facts(run: RunData) -> list[tuple[str, str]]:
    """(what, value) of the run as a whole."""
    facts = []
    trained = [r for r in run.rows if "time_rollout_s" in r or "time_train_s" in r]
    planned = run.setting("algo.iterations")
    if run.rows:
        of = f" of {planned}" if planned is not None else ""
        facts.append(("iterations", f"{run.rows[-1]['iteration']}{of}"))
    seconds = [sum(v for k, v in r.items() if k.startswith("time_") and isinstance(v, (int, float))) for r in trained]
    if seconds:
        facts.append(("in all phases", duration(sum(seconds))))
        facts.append(("median iteration", f"{statistics.median(seconds):.1f} s"))
    tokens = run.series("tokens_generated")[1]
    if tokens:
        facts.append(("tokens sampled", f"{sum(tokens):,.0f}"))
    speed = run.series("tokens_per_s")[1]
    if speed:
        facts.append(("tokens/s, median", f"{statistics.median(speed):,.0f}"))
    facts += _audit(run)
    for name, label in (("prompts_seen", "prompts seen"), ("groups_unfinished", "groups left unfinished")):
        values = run.series(name)[1]
        if values:
            facts.append((label, f"{values[-1]:,.0f}"))
    return facts


def _audit(run: RunData) -> list[tuple[str, str]]:
    """Accepted answers that the second method called wrong, of all that it judged (report 2.3.5)."""
    rows = [r for r in run.rows if "reward_audit_disagreement" in r and "reward_audit_n" in r]
    judged = sum(r["reward_audit_n"] for r in rows)
    wrong = sum(r["reward_audit_disagreement"] * r["reward_audit_n"] for r in rows)
    return [("accepted answers disputed in the audit", f"{wrong:,.0f} of {judged:,.0f}")] if judged else []


def main(argv: list[str] | None = None) -> int:
    """`k15 report [run_dir ...]`: a report for each run; for several also a comparison. A sweep: all points on one page.
    Returns the exit status."""
    parser = argparse.ArgumentParser(prog="k15 report", description="Make report/index.html of run folders or sweeps.")
    parser.add_argument("run_dir", nargs="*", help="run folders, or sweeps (none: the newest below ./runs)")
    parser.add_argument("--out", type=Path, help="folder of the page: of one run its report, of several their comparison")
    args = parser.parse_args(argv)
    try:
        folders = [Path(f) for f in args.run_dir] if args.run_dir else [_newest(Path("runs"))]
        sweeps = [folder for folder in folders if is_sweep(folder)]
        if sweeps and args.out is not None:
            raise ConfigError(f"--out is for runs, but {sweeps[0]} is a sweep, whose page is {sweeps[0]}/report. Leave it out.")
        for folder in sweeps:
            _sweep(folder)
        folders = [folder for folder in folders if folder not in sweeps]
        if not folders:
            return 0
        several, default = len(folders) > 1, Path("comparison")
        if all(map(is_evaluation, folders)):
            return evaluations(folders, default if several and args.out is None else args.out)
        runs = [load_run(folder) for folder in folders]  # all are read before the first is written
        for run in runs:
            page = _build(run, None if several else args.out)
            print(f"{run.name}\n{headline(run)}\nreport: {page}")
        if several:
            print(f"comparison: {build_comparison(runs, default if args.out is None else args.out)}")
    except K15Error as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def _sweep(folder: Path) -> None:
    """All points of a sweep on one page; of evaluations, the table of their results as well. Raises DataError."""
    page, text = build_sweep(folder)
    print(f"{text}\nsweep: {page}")
    judged = [folder / p.folder for _, p in sorted(read_sweep(folder).points.items()) if is_evaluation(folder / p.folder)]
    if len(judged) > 1:
        evaluations(judged, folder / "report")


def _newest(root: Path) -> Path:
    files = [*root.glob("*/metrics.jsonl"), *root.glob("*/*/metrics.jsonl")]
    if not files:
        raise DataError(f"no run was given and there is none below {root}/. Give a run folder: k15 report RUN_DIR.")
    return max(files, key=lambda f: f.stat().st_mtime).parent
