"""The numbers of an evaluation: results.json, results.md and the table on the terminal, each number with what it stands on."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from k15.errors import DataError
from k15.eval.codeforces import Rating
from k15.eval.estimates import Estimate
from k15.log.columns import columns as lines_of
from k15.log.columns import markdown, one_line
from k15.log.files import atomic_write
from k15.types import Prompt

KIND = "k15 eval"
COLUMNS = ("task", "metric", "value", "95 % interval", "interval by", "problems", "samples", "T", "top_p", "max tokens",
           "mean tokens", "cut off", "seed", "prompt", "chat", "model")  # fmt: skip
Result = dict[str, Any]
"""One number. Keys: task, metric, value, low, high (shares 0..1, or None), method, problems, samples, temperature, top_p,
max_tokens, mean_tokens, truncated, seed, prompt, chat, model, template; BY_PROBLEM where they are known."""
BY_PROBLEM = ("values", "digests")
"""By a problem's id: what it counts, and a digest of question and answer, since an id may be the row's number in any file."""


def numbers(settings: Mapping[str, object], prompts: Sequence[Prompt], estimates: Sequence[Estimate]) -> list[Result]:
    """One result a metric. `settings`: what is printed with each of them."""
    ids, digests = [p.id for p in prompts], {p.id: _digest(p) for p in prompts}
    return [
        {
            "metric": e.metric, "value": e.interval.estimate, "low": e.interval.low, "high": e.interval.high, "method": e.method,
            **settings, "values": dict(zip(ids, e.values, strict=True)), "digests": digests,
        }
        for e in estimates
    ]  # fmt: skip


def _digest(prompt: Prompt) -> str:
    said = f"{prompt.text}\0{prompt.answer}".encode(errors="backslashreplace")
    return hashlib.sha256(said).hexdigest()[:8]


def rating_number(settings: Mapping[str, object], found: Rating) -> Result:
    """The rating as a result; infinite ends are None, as JSON has no infinity."""
    ends = [None if math.isinf(x) else x for x in (found.low, found.high)]
    return {
        "metric": "rating", "value": found.rating, "low": ends[0], "high": ends[1], "percentile": found.percentile,
        "method": "maximum likelihood, profile interval", **settings, "unit": "rating",
    }  # fmt: skip


def write_results(run_dir: Path, results: Sequence[Result], facts: Mapping[str, object]) -> str:
    """Write results.json and results.md; returns the table. `facts` holds for the whole run."""
    body = {"kind": KIND, **facts, "results": list(results)}
    atomic_write(run_dir / "results.json", (json.dumps(body, indent=1, allow_nan=False) + "\n").encode())
    lines = [f"# Evaluation of {facts.get('model')}", "", markdown([COLUMNS, *map(row, results)]), ""]
    lines += [f"* {name}: {value}" for name, value in facts.items()]
    lines += ["", "## Prompts", "", *_prompts(results)]
    atomic_write(run_dir / "results.md", ("\n".join(lines) + "\n").encode())
    return table(results)


def read_results(run_dir: str | Path) -> dict[str, Any]:
    """results.json of a run folder. Raises DataError where it is none of ours."""
    path = Path(run_dir) / "results.json"
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{run_dir} has no results of `k15 eval` ({error}). Give the run_dir of a finished evaluation."
        ) from error
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise DataError(f"{path} was not written by `k15 eval`.")
    found = body.get("results")
    if not isinstance(found, list) or not all(_is_result(r) for r in found):
        raise DataError(f"{path} is damaged: each of `results` must have task, metric and value. Remove it, and evaluate again.")
    return body


def _is_result(found: object) -> bool:
    if not isinstance(found, dict) or not all(isinstance(found.get(k), str) for k in ("task", "metric")):
        return False
    numbers = [found.get(k) for k in ("value", "low", "high")]
    return (
        "value" in found
        and all(x is None or isinstance(x, int | float) for x in numbers)
        and all(isinstance(found.get(k, {}), dict) for k in BY_PROBLEM)
    )


def is_evaluation(run_dir: str | Path) -> bool:
    """Whether a folder holds the results of an evaluation."""
    path = Path(run_dir) / "results.json"
    return path.is_file() and f'"kind": "{KIND}"' in path.read_text()[:200]


def row(result: Mapping[str, Any]) -> list[str]:
    """The cells of one number, as COLUMNS."""
    percent = result.get("unit") is None
    value = number(result["value"], percent)
    if result.get("percentile") is not None:
        value += f" (percentile {result['percentile']:.1f})"
    low, high = result.get("low"), result.get("high")
    interval = "-" if low is None and high is None else f"{number(low, percent, False)} to {number(high, percent, False)}"
    plain = ("method", "problems", "samples", "temperature", "top_p", "max_tokens")
    tokens, cut = result.get("mean_tokens"), result.get("truncated")
    return [
        str(result["task"]), str(result["metric"]), value, interval, *(_cell(result.get(k)) for k in plain),
        "-" if tokens is None else f"{tokens:.1f}", "-" if cut is None else f"{100 * cut:.1f} %",
        *(_cell(result.get(k)) for k in ("seed", "prompt", "chat", "model")),
    ]  # fmt: skip


def number(value: float | None, percent: bool, unit: bool = True) -> str:
    """A share as percent, a rating as it is; a dash for what is not bounded."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}{' %' if unit else ''}" if percent else f"{value:.0f}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal: columns aligned; a column that is the same everywhere is a line below instead."""
    return aligned(COLUMNS, [row(r) for r in results])


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns; those with one and the same value (of several rows, or long) are listed below the table."""
    same = [i for i in range(3, len(columns)) if len({r[i] for r in rows}) == 1]
    kept = [i for i in range(len(columns)) if i not in same]
    shown = lines_of([[r[i] for i in kept] for r in (columns, *rows)])
    return "\n".join([shown, *(["all: " + ", ".join(f"{columns[i]} {one_line(rows[0][i])}" for i in same)] if same else [])])


def _prompts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """How each task asks, in full: the name in the table may stand for a text of the user."""
    shown = {str(r["task"]): r.get("template") for r in results}
    return [f"* {task}: `{json.dumps(text)}`" for task, text in shown.items() if text is not None]
