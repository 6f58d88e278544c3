"""What each method keeps of the long model's accuracy, and with how many of its tokens (report Fig. 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.findings.long2short_measure import Measured
from benchmarks.findings.measures import Spread, spread
from benchmarks.findings.result import Result, shown
from k15.eval import plot_style as ps

LONG, SHORT = "long", "short"
METHODS = {
    LONG: "long model",
    SHORT: "short model",
    "merge": "merge",
    "shortest": "shortest rejection sampling",
    "dpo": "DPO",
    "rl": "long2short RL",
}
"""The models of a seed as they are shown."""
KINDS = ("greedy", "sampled")
ACCURACY, TOKENS = 0.95, 0.70  # the target
MET, ON_AVERAGE, NOT_MET = "met", "met on average", "not met"
RULE = (
    "Accuracy of a method over that of the long model that it was made from, on the same problems of the same seed; mean tokens "
    "alike. Target: at least 95 % of the accuracy with at most 70 % of the tokens, by greedy answers: `met` where both 95 % t "
    "intervals over seeds say so, `met on average` where the means do, else `not met`."
)
REPORT = "long2short RL has the highest token efficiency, above DPO, shortest rejection sampling and merging."


@dataclass(frozen=True)
class Row:
    """A method by one kind of answers. Shares are 0..1; `keeps`, `uses`: of the long model's accuracy and tokens."""

    method: str
    kind: str
    accuracy: Spread
    tokens: Spread
    keeps: Spread
    uses: Spread
    by_seed: tuple[tuple[float, float], ...]  # (tokens, accuracy)

    @property
    def target(self) -> str:
        """Of the rule above; `-` for the models that the methods start from."""
        if self.method in (LONG, SHORT):
            return "-"
        if self.keeps.low >= ACCURACY and self.uses.high <= TOKENS:
            return MET
        return ON_AVERAGE if self.keeps.mean >= ACCURACY and self.uses.mean <= TOKENS else NOT_MET

    @property
    def line(self) -> str:
        """`DPO keeps 97.1 % (95.0 to 99.2) of the accuracy with 61.0 % (58.4 to 63.6) of the tokens: target met`."""
        kept, used = (shown(s, 100, unit=" %") for s in (self.keeps, self.uses))
        return f"{METHODS[self.method]} keeps {kept} of the accuracy with {used} of the tokens: target {self.target}"


def rows(measured: Mapping[int, Mapping[str, Measured]]) -> list[Row]:
    """A row for each kind and method. `measured`: by seed, then by method."""
    return [_row(method, kind, list(measured.values())) for kind in KINDS for method in METHODS]


def _row(method: str, kind: str, seeds: Sequence[Mapping[str, Measured]]) -> Row:
    def values(name: str, what: str) -> list[float]:
        return [models[name][f"eval_{kind}_{what}"] for models in seeds]

    accuracy, tokens = values(method, "accuracy"), values(method, "length")
    shares = [[a / b for a, b in zip(values(method, w), values(LONG, w), strict=True)] for w in ("accuracy", "length")]
    return Row(
        method, kind, spread(accuracy), spread(tokens), spread(shares[0]), spread(shares[1]),
        tuple(zip(tokens, accuracy, strict=True)),
    )  # fmt: skip


def conclusion(found: Sequence[Row]) -> str:
    """Who reaches the target, by greedy answers."""
    for verdict in (MET, ON_AVERAGE):
        names = [METHODS[r.method] for r in found if r.kind == "greedy" and r.target == verdict]
        if names:
            return f"target {verdict} by {', '.join(names)}"
    return "no method keeps 95 % of the accuracy with 70 % of the tokens at this scale"


def result(found: Sequence[Row], notes: Sequence[str]) -> Result:
    """Table and figure."""
    header = ["model", "answers", "accuracy, %", "tokens", "accuracy kept, %", "tokens used, %", "target"]
    table = [
        [METHODS[r.method], r.kind, shown(r.accuracy, 100), shown(r.tokens), shown(r.keeps, 100), shown(r.uses, 100), r.target]
        for r in found
    ]
    numbers = {
        f"{r.kind}_{r.method}": {"accuracy": r.accuracy, "tokens": r.tokens, "accuracy_kept": r.keeps, "tokens_used": r.uses,
                                 "tokens_and_accuracy_by_seed": r.by_seed}
        for r in found
    }  # fmt: skip
    lines = [r.line for r in found if r.kind == "greedy" and r.target != "-"]
    return Result(
        "long2short", "Long2short: accuracy against tokens (Fig. 7)", REPORT, RULE, conclusion(found), header, table,
        lambda: figure(found), numbers, [*lines, *notes],
    )  # fmt: skip


def figure(found: Sequence[Row]) -> Figure:
    """Accuracy against tokens: a small dot a seed, a large one for the mean with its intervals; shaded: the target."""
    canvas, axes = ps.new_figure(11.4, 4.3, columns=2)
    for ax, kind in zip(axes, KINDS, strict=True):
        mine = [r for r in found if r.kind == kind]
        long = next(r for r in mine if r.method == LONG)
        ax.fill_between(
            [0, TOKENS * long.tokens.mean], 100 * ACCURACY * long.accuracy.mean, 100, color=ps.GREEN, alpha=0.08, linewidth=0
        )
        for row, colour in zip(mine, (ps.INK, *ps.SERIES)):
            _dots(ax, row, colour)
        ax.set_xlim(left=0)
        ax.set_ylim(0, 100)
        ps.finish(ax, title=f"{kind} answers", x="mean tokens of an answer", y="held-out accuracy, %", legend=False)
    canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS))
    return canvas


def _dots(ax: Axes, row: Row, colour: str) -> None:
    for tokens, accuracy in row.by_seed:
        ax.plot(tokens, 100 * accuracy, "o", color=colour, markersize=2.6, alpha=0.5)
    errors = {
        name: [[scale * (s.mean - s.low)], [scale * (s.high - s.mean)]]
        for name, s, scale in (("xerr", row.tokens, 1), ("yerr", row.accuracy, 100)) if s.seeds > 1
    }  # fmt: skip
    ax.errorbar(
        [row.tokens.mean], [100 * row.accuracy.mean], fmt="o", color=colour, markersize=7, elinewidth=1,
        label=METHODS[row.method], **errors,
    )  # fmt: skip
