"""A finding's outcome, and its table (Markdown and JSON) and figure files."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.findings.measures import Spread
from k15.eval import plot_style as ps


@dataclass(frozen=True)
class Result:
    """`report`: what the report shows; `rule`: what decides, as it stood before the runs; `numbers`: for the JSON file."""

    name: str
    title: str
    report: str
    rule: str
    verdict: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    draw: Callable[[], Figure]
    numbers: dict[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def shown(value: Spread, scale: float = 1.0, digits: int = 1, signed: bool = False, unit: str = "") -> str:
    """`+3.2 (95 % +1.0 to +5.4)`."""
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    if math.isnan(value.mean):
        return "-"
    text = form.format(scale * value.mean) + unit
    if math.isnan(value.low):
        return text
    return f"{text} ({form.format(scale * value.low)} to {form.format(scale * value.high)})"


def markdown(result: Result) -> str:
    lines = [f"### {result.title}", "", f"Report: {result.report}", "", f"Rule: {result.rule}", "", f"**{result.verdict}**", ""]
    lines += ["| " + " | ".join(result.header) + " |", "|" + "---|" * len(result.header)]
    lines += ["| " + " | ".join(row) + " |" for row in result.rows]
    return "\n".join([*lines, "", *(f"* {note}" for note in result.notes)]).rstrip() + "\n"


def plain(value: object) -> object:
    """JSON has no NaN, and knows no dataclasses."""
    if isinstance(value, Spread):
        return plain(asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def write(result: Result, stem: Path, settings: dict[str, object]) -> None:
    """STEM.md, STEM.json, STEM.png. `settings`: seeds, load and what else the runs had in common; `run_commits` are the runs',
    `commit` is that of the table."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    place = {"date": machine.today(), "commit": machine.commit(), "device": machine.device()}
    content = {
        "benchmark": "findings", "finding": result.name, **place, **settings, "report": result.report, "rule": result.rule,
        "verdict": result.verdict, "table": [dict(zip(result.header, row, strict=True)) for row in result.rows],
        "notes": list(result.notes), **result.numbers,
    }  # fmt: skip
    stem.with_suffix(".json").write_text(json.dumps(plain(content), indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(result))
    with ps.style_context():
        ps.save_png(result.draw(), stem.with_suffix(".png"))
