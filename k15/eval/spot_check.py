"""The report's spot check of reward models (2.3.5: Classic 84.4, Chain-of-thought 98.5): labelled triples, judged.

    checks of one or several methods on the same triples -> spot_check.md (one table), .png, .json

For each method: accuracy with its 95 % interval, the confusion counts, accuracy by the kind of response, the calibration
where it gives probabilities, and the disagreements with the label, listed, for a human to look at.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from k15.errors import DataError
from k15.eval import plot_style as ps
from k15.eval.intervals import paired_gain, wilson
from k15.reward.classic import expected_calibration_error, reliability
from k15.types import Triple

LISTED = 20  # disagreements a method in the Markdown; the JSON lines hold all
REPORT = {"classic": 84.4, "cot": 98.5}
TITLES = {"classic": "Classic", "cot": "Chain-of-thought"}


@dataclass(frozen=True, slots=True)
class Check:
    """A triple with its label, a method's verdict on it, its probability of "correct" (None: it gives none), and a note."""

    triple: Triple
    verdict: bool
    probability: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.triple.correct is None:
            raise DataError(f"the triple {self.triple.question[:60]!r} has no label; a spot check needs one.")

    @property
    def agrees(self) -> bool:
        return self.verdict == self.triple.correct


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(c)) + "\n" for c in checks))


def read_checks(path: Path) -> list[Check]:
    """The inverse of `write_checks`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Check(Triple(**row.pop("triple")), **row) for row in rows]


def summary(checks: Sequence[Check]) -> dict:
    """Plain numbers of one method; shares are 0..1. Raises DataError without checks."""
    if not checks:
        raise DataError("a spot check needs at least one triple.")
    count = {"accepted_right": (True, True), "accepted_wrong": (True, False), "refused_right": (False, True),
             "refused_wrong": (False, False)}  # fmt: skip
    interval = wilson(sum(c.agrees for c in checks), len(checks))
    by_kind: dict[str, list[bool]] = {}
    for c in checks:
        by_kind.setdefault(c.triple.kind.split(",")[0] or "all", []).append(c.agrees)
    found = {
        "n": len(checks), "accuracy": interval.estimate, "low": interval.low, "high": interval.high,
        "confusion": {k: sum((c.verdict, c.triple.correct) == v for c in checks) for k, v in count.items()},
        "by_kind": {k: {"n": len(v), "accuracy": sum(v) / len(v)} for k, v in sorted(by_kind.items())},
    }  # fmt: skip
    if all(c.probability is not None for c in checks):
        p, right = [float(c.probability or 0) for c in checks], [bool(c.triple.correct) for c in checks]
        found["expected_calibration_error"] = expected_calibration_error(p, right)
        found["calibration"] = [asdict(b) for b in reliability(p, right)]
    return found


def write_spot_check(folder: Path, methods: Mapping[str, Sequence[Check]], facts: Mapping[str, object]) -> dict:
    """Write spot_check.{md,png,json} and return what the JSON holds. `facts`: how the models were made, for the page.

    Raises DataError where methods have not judged the same triples.
    """
    first = next(iter(methods.values()))
    if any([_asked(c) for c in checks] != [_asked(c) for c in first] for checks in methods.values()):
        raise DataError("the methods were not checked on the same triples; compare runs of one seed and size.")
    result: dict = {"facts": dict(facts), "methods": {name: summary(checks) for name, checks in methods.items()}}
    if len(methods) == 2:
        before, after = ([float(c.agrees) for c in checks] for checks in methods.values())
        result["gain"] = asdict(paired_gain(before, after, resamples=4000))
    (folder / "spot_check.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "spot_check.md").write_text(_page(result, methods))
    _figure(folder / "spot_check.png", result)
    return result


def _asked(check: Check) -> tuple[object, ...]:
    return check.triple.question, check.triple.reference, check.triple.response, check.triple.correct


def _page(result: dict, methods: Mapping[str, Sequence[Check]]) -> str:
    found = result["methods"]
    lines = ["# Spot check of the reward models", "", *(f"- {k}: {v}" for k, v in result["facts"].items()), ""]
    columns = ["method", "triples", "accuracy (95 % interval)", "right, accepted", "wrong, accepted", "right, refused"]
    columns += ["wrong, refused", "calibration error", "the report's %"]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, m in found.items():
        counts = " | ".join(
            str(m["confusion"][k]) for k in ("accepted_right", "accepted_wrong", "refused_right", "refused_wrong")
        )
        error = f"{m['expected_calibration_error']:.3f}" if "expected_calibration_error" in m else "-"
        lines.append(f"| {TITLES.get(name, name)} | {m['n']} | {_share(m)} | {counts} | {error} | {REPORT.get(name, '-')} |")
    if "gain" in result:
        gain = result["gain"]
        lines += ["", f"Gain of the second over the first on the same triples: {100 * gain['estimate']:.1f} points "
                  f"({100 * gain['low']:.1f} to {100 * gain['high']:.1f})."]  # fmt: skip
    kinds = sorted({k for m in found.values() for k in m["by_kind"]})
    lines += ["", "| form of the answer | triples | " + " | ".join(TITLES.get(n, n) for n in found) + " |"]
    lines += ["|---" * (len(found) + 2) + "|"]
    for kind in kinds:
        rows = [m["by_kind"][kind] for m in found.values()]
        lines.append(f"| {kind} | {rows[0]['n']} | " + " | ".join(f"{100 * r['accuracy']:.1f} %" for r in rows) + " |")
    for name, checks in methods.items():
        lines += ["", *_disagreements(TITLES.get(name, name), [c for c in checks if not c.agrees])]
    return "\n".join(lines) + "\n"


def _share(m: dict) -> str:
    return f"{100 * m['accuracy']:.1f} % ({100 * m['low']:.1f} to {100 * m['high']:.1f})"


def _disagreements(title: str, wrong: Sequence[Check]) -> list[str]:
    """A list for human eyes: the surest ones first where there is a probability."""
    ordered = sorted(wrong, key=lambda c: -abs((c.probability if c.probability is not None else 0.5) - 0.5))
    lines = [f"## {title}: {len(wrong)} disagreements with the label", ""]
    for c in ordered[:LISTED]:
        sure = f", probability {c.probability:.2f}" if c.probability is not None else ""
        t = c.triple
        said = f"; said {c.note[-160:]!r}" if c.note else ""
        lines.append(
            f"- `{t.question!r}`, reference `{t.reference!r}`, response `{t.response[-120:]!r}` ({t.kind}): labelled "
            f"{'right' if t.correct else 'wrong'}, judged {'right' if c.verdict else 'wrong'}{sure}{said}"
        )
    return lines + ([f"- ... and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else [])


def _figure(path: Path, result: dict) -> None:
    """Accuracies with intervals, and the calibration curve of each method that gives probabilities."""
    with ps.style_context():
        canvas, (left, right) = ps.new_figure(9.0, 3.3, columns=2)
        for i, (name, m) in enumerate(result["methods"].items()):
            bar = [[100 * (m["accuracy"] - m["low"])], [100 * (m["high"] - m["accuracy"])]]
            left.bar([i], [100 * m["accuracy"]], width=0.55, color=ps.SERIES[i], linewidth=0)
            left.errorbar([i], [100 * m["accuracy"]], yerr=bar, color=ps.INK, capsize=4, linewidth=1.1)
            if name in REPORT:
                left.plot([i - 0.32, i + 0.32], [REPORT[name]] * 2, color=ps.MUTED, linestyle="--", linewidth=1.1)
            if "calibration" in m:
                x, y = zip(*((b["confidence"], b["accuracy"]) for b in m["calibration"]), strict=True)
                right.plot(x, y, color=ps.SERIES[i], marker="o", markersize=3.4, label=TITLES.get(name, name))
        left.set_xticks(range(len(result["methods"])), [TITLES.get(n, n) for n in result["methods"]])
        left.set_ylim(0, 103)
        right.plot([0, 1], [0, 1], color=ps.GREY, linewidth=0.9, linestyle=":", label="perfect")
        ps.finish(left, title="Accuracy (dashed: the report's)", x="", y="%", legend=False)
        ps.finish(right, title="Calibration", x="probability of correct", y="share that is correct")
        ps.save_png(canvas, path)
