"""Each finding of the report, and each ablation: what decides, and what the runs say.

A function a finding, from the arms' curves (arm -> seed -> evaluations) to a Result.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from benchmarks.findings import figures
from benchmarks.findings.arms import Lengths, Point
from benchmarks.findings.figures import Curves
from benchmarks.findings.measures import (
    OPPOSITE,
    REPEATS,
    Spread,
    final,
    final_length,
    joint,
    on_the_way,
    samples_to,
    slope,
    spread,
    stated_accuracy,
    verdict,
)  # fmt: skip
from benchmarks.findings.result import Result, shown

INTERVAL = "95 % t interval over seeds of the difference within a seed"


def _over_seeds(curves: Curves, arm: str, measure: Callable[[Sequence[Point]], float]) -> list[float]:
    return [measure(points) for points in curves[arm]]


def _difference(curves: Curves, arm: str, other: str, measure: Callable[[Sequence[Point]], float]) -> Spread:
    """Of `arm` over `other`, seed by seed."""
    pairs = zip(_over_seeds(curves, arm, measure), _over_seeds(curves, other, measure), strict=True)
    return spread([a - b for a, b in pairs])


def accuracy_and_length(curves: Curves) -> Result:
    """Fig. 5."""
    base = curves["base"]
    rows, numbers, verdicts = [], {}, []
    for what, start, end, scale, unit in (
        ("held-out accuracy, %", lambda p: p[0].accuracy, final, 100, " points"),
        ("response length, tokens", lambda p: p[0].length, final_length, 1, " tokens"),
    ):
        gain = spread([end(p) - start(p) for p in base])
        verdicts.append(verdict(gain))
        ends = [spread([f(p) for p in base]) for f in (start, end)]
        rows.append([what, *(shown(e, scale) for e in ends), shown(gain, scale, signed=True, unit=unit), verdicts[-1]])
        numbers[what] = {"start": ends[0], "end": ends[1], "gain": gain}
    return Result(
        "accuracy_and_length", "Accuracy and length grow together (Fig. 5)",
        "during RL both the accuracy and the response length rise.",
        f"both rise from before training to the last two evaluations ({INTERVAL}, above 0).",
        joint(verdicts), ["measure", "before", "after", "change", "alone"], rows,
        partial(figures.against_samples, curves, {"base": "pmd"}, "Accuracy and length during RL"), {"gains": numbers},
    )  # fmt: skip


def accuracy_by_length(curves: Curves) -> Result:
    """Fig. 6."""
    fits = [slope(points) for points in curves["base"]]
    rise = spread([s for s, _ in fits])
    rows = [[f"run {n}", f"{s:+.2f}", f"{r:.2f}"] for n, (s, r) in enumerate(fits, 1)]
    rows.append(["all", shown(rise, digits=2, signed=True), f"{fmean(r for _, r in fits):.2f}"])
    return Result(
        "accuracy_by_length", "Accuracy against response length (Fig. 6)",
        "over a run's checkpoints accuracy rises with the response length, by a straight line.",
        "least squares over each seed's evaluations; the 95 % t interval over seeds of the slope lies above 0.",
        verdict(rise), ["runs", "slope, points a token", "correlation"], rows,
        partial(figures.against_length, curves, {"base": "pmd"}, "Every evaluation of every seed", True), {"slope": rise},
    )  # fmt: skip


def harder_longer(curves: Mapping[str, Sequence[Sequence[Lengths]]]) -> Result:
    """Fig. 5, by benchmark."""
    runs = curves["base"]
    growth = {}
    for kind, length in (("easier", lambda p: p.easier), ("harder", lambda p: p.harder)):
        growth[kind] = [fmean(length(p) for p in run[-2:]) - length(run[0]) for run in runs]
    more = spread([h - e for e, h in zip(growth["easier"], growth["harder"], strict=True)])
    rows = [[f"{kind} half", f"{shown(spread(values), signed=True)} tokens"] for kind, values in growth.items()]
    rows.append(["harder over easier", f"{shown(more, signed=True)} tokens"])
    return Result(
        "harder_longer", "Answers to harder problems grow more (Fig. 5)",
        "on harder benchmarks the response length rises more steeply.",
        "growth of the trained responses' length from the first iteration to the last two, problems above the median difficulty "
        f"less the others ({INTERVAL}), lies above 0.",
        verdict(more), ["problems", "growth"], rows,
        partial(figures.by_difficulty, runs, "Response length by difficulty of the problem"), {"growth": growth | {"more": more}},
    )  # fmt: skip


def small_long_against_large(curves: Curves) -> Result:
    """Fig. 8."""
    parts: list[tuple[str, Spread, float, str]] = []
    starts = [(large[0], small) for large, small in zip(curves["large"], curves["base"], strict=True)]
    pairs = list(zip(curves["large"], curves["base"], strict=True))
    parts.append(("large over small, both before RL", spread([a.accuracy - s[0].accuracy for a, s in starts]), 100, "points"))
    parts.append(("small after RL over large before RL", spread([final(s) - a.accuracy for a, s in starts]), 100, "points"))
    parts.append(("its length over the large one's", spread([final_length(s) - a.length for a, s in starts]), 1, "tokens"))
    parts.append(("large over small, both after RL", spread([final(a) - final(s) for a, s in pairs]), 100, "points"))
    verdicts = [verdict(value) for _, value, _, _ in parts]
    rows = [[what, f"{shown(v, k, signed=True)} {unit}", said] for (what, v, k, unit), said in zip(parts, verdicts, strict=True)]
    for arm, label in (("base", "small"), ("large", "large")):
        for when, accuracy, length in (
            ("before", lambda p: p[0].accuracy, lambda p: p[0].length),
            ("after", final, final_length),
        ):
            values = spread(_over_seeds(curves, arm, accuracy)), spread(_over_seeds(curves, arm, length))
            rows.append([f"{label}, {when} RL", f"{shown(values[0], 100)} % at {shown(values[1])} tokens", ""])
    return Result(
        "small_long_against_large", "A small model with long answers against a large one (Fig. 8)",
        "the larger model is better at first; the smaller one reaches it by longer answers; the larger stays the better one.",
        f"all four lie above 0 ({INTERVAL}): large over small before RL; small after RL over large before RL, and with longer "
        "answers; large over small after RL.",
        joint(verdicts), ["comparison", "value", "alone"], rows,
        partial(figures.against_length, curves, {"base": "small", "large": "large"}, "Every evaluation (open: before RL)", False),
        {"parts": {what: value for what, value, _, _ in parts}},
    )  # fmt: skip


def _comparison(
    curves: Curves, labels: Mapping[str, str], against: str, say: Callable[[Spread], str]
) -> tuple[list[str], list[list[str]], dict[str, object], float, list[str]]:
    """(header, a row an arm, numbers, stated accuracy, notes) of arms beside the arm `against`."""
    stated = stated_accuracy(curves[against])
    header = ["arm", "final accuracy, %", "mean on the way, %", "final length", f"responses to {100 * stated:.1f} %",
              "final - first arm's", "on the way - first arm's", "responses saved", "by the mean on the way"]  # fmt: skip
    rows, numbers, notes = [], {}, []
    reached = {arm: [samples_to(points, stated) for points in curves[arm]] for arm in labels}
    # An arm that never gets there has used up all its samples: its mean is a lower bound.
    spent = {arm: [points[-1].samples if n is None else n for n, points in zip(reached[arm], curves[arm], strict=True)]
             for arm in labels}  # fmt: skip
    for arm, label in labels.items():
        if missing := sum(n is None for n in reached[arm]):
            notes.append(f"{label}: {missing} of {len(reached[arm])} seeds never reach it; their whole run is counted.")
        values = {name: spread(_over_seeds(curves, arm, f)) for name, f in MEASURES.items()} | {"samples": spread(spent[arm])}
        cells = [label, shown(values["final"], 100), shown(values["on_the_way"], 100), shown(values["length"]),
                 shown(values["samples"], digits=0)]  # fmt: skip
        numbers[arm] = dict(values)
        if arm == against:
            rows.append([*cells, "", "", "", ""])
            continue
        gains = {name: _difference(curves, arm, against, f) for name, f in MEASURES.items()}
        gains["saved"] = spread([b - a for a, b in zip(spent[arm], spent[against], strict=True)])
        numbers[arm]["difference"] = gains
        rows.append([*cells, shown(gains["final"], 100, signed=True), shown(gains["on_the_way"], 100, signed=True),
                     shown(gains["saved"], digits=0, signed=True), say(gains["on_the_way"])])  # fmt: skip
    return header, rows, {"arms": numbers, "stated_accuracy": stated}, stated, notes


MEASURES: dict[str, Callable[[Sequence[Point]], float]] = {"final": final, "on_the_way": on_the_way, "length": final_length}


def curriculum(curves: Curves) -> Result:
    """Fig. 9."""
    labels = {"base": "uniform", "curriculum": "curriculum"}
    header, rows, numbers, stated, notes = _comparison(curves, labels, "base", verdict)
    return Result(
        "curriculum", "Curriculum against uniform sampling (Fig. 9)",
        "all problems first, then the hard ones only, ends above uniform sampling.",
        f"final accuracy, curriculum less uniform ({INTERVAL}), lies above 0. Both are alike while all problems are drawn, so "
        "the mean on the way and the samples to the stated accuracy are shown, but do not decide.",
        verdict(numbers["arms"]["curriculum"]["difference"]["final"]), header, rows,
        partial(figures.against_samples, curves, labels, "Curriculum against uniform", stated), numbers, notes,
    )  # fmt: skip


def negative_gradients(name: str, rate: str, rest: str, pmd: str, curves: Curves) -> Result:
    """Fig. 10, at one learning rate."""
    labels = {rest: "ReST", pmd: "policy mirror descent"}
    header, rows, numbers, stated, notes = _comparison(curves, labels, rest, verdict)
    return Result(
        name, f"Negative gradients: policy mirror descent against ReST, learning rate {rate} (Fig. 10)",
        "at equal numbers of samples the loss with negative gradients is ahead of ReST.",
        f"mean accuracy on the way, policy mirror descent less ReST at the same learning rate ({INTERVAL}), lies above 0.",
        rows[-1][-1], header, rows,
        partial(figures.against_samples, curves, labels, f"Policy mirror descent against ReST, learning rate {rate}", stated),
        numbers, notes,
    )  # fmt: skip


def _better(difference: Spread) -> str:
    """Of an ablation, about which the report claims nothing."""
    said = verdict(difference)
    return "better" if said == REPEATS else "worse" if said == OPPOSITE else "not told apart"


def ablation(name: str, title: str, labels: Mapping[str, str], against: str, curves: Curves) -> Result:
    """Arms beside one of them, on accuracy on the way; the report makes no claim."""
    header, rows, numbers, stated, notes = _comparison(curves, {against: labels[against], **labels}, against, _better)
    said = "; ".join(f"{row[0]}: {row[-1]}" for row in rows[1:])
    return Result(
        name, title, "no claim that could be held against it.",
        f"mean accuracy on the way less that of `{labels[against]}` ({INTERVAL}): better above 0, worse below, "
        "else not told apart.",
        said, header, rows, partial(figures.against_samples, curves, labels, title, stated), numbers, notes,
    )  # fmt: skip


def _ablation(name: str, title: str, against: str = "base", **labels: str) -> Callable[[Curves], Result]:
    return partial(ablation, name, title, labels, against)


ALL: dict[str, Callable[[Mapping], Result]] = {
    "accuracy_and_length": accuracy_and_length,
    "accuracy_by_length": accuracy_by_length,
    "harder_longer": harder_longer,
    "negative_gradients": partial(negative_gradients, "negative_gradients", "1e-4", "rest", "base"),
    "negative_gradients_high_lr": partial(
        negative_gradients, "negative_gradients_high_lr", "2e-4", "rest_lr_high", "lr_high"
    ),
    "curriculum": curriculum,
    "small_long_against_large": small_long_against_large,
    "per_token_square": _ablation(
        "per_token_square", "Ablation: one square a sequence or a token", base="per sequence", per_token="per token"
    ),
    "old_segments": _ablation(
        "old_segments", "Ablation: older segments in or out of the loss", against="old_in", old_in="all segments",
        old_out="newest only",
    ),
    "optimizer_reset": _ablation(
        "optimizer_reset", "Ablation: optimizer reset at every iteration", base="reset", keep_optimizer="kept"
    ),
    "baseline": _ablation(
        "baseline", "Ablation: baseline", base="mean", leave_one_out="leave one out", log_partition="log partition",
        no_baseline="none",
    ),
    "tau": _ablation("tau", "Ablation: tau", base="0.1", tau_low="0.01", tau_high="1"),
}  # fmt: skip
