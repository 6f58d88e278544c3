"""`k15 eval compare RUN RUN ...`: evaluations side by side, with the paired difference to the first on the same problems."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from k15.errors import DataError
from k15.eval.intervals import paired_gain
from k15.eval.results import BY_PROBLEM, aligned, read_results
from k15.eval.results import row as plain
from k15.log.columns import markdown
from k15.log.files import atomic_write

COLUMNS = ("task", "metric", "run", "value", "95 % interval", "difference", "95 % interval of it", "problems", "samples", "T",
           "top_p", "max tokens", "mean tokens", "cut off", "seed", "prompt", "chat", "model")  # fmt: skip
SAME = ("samples", "temperature", "top_p", "max_tokens", "seed", "template", "chat")
"""Settings that a comparison should have in common; where they differ it is said below the table."""


def main(words: Sequence[str]) -> int:
    """Print the table; `--out FOLDER` also writes compare.md and compare.json. Raises DataError."""
    parser = argparse.ArgumentParser(prog="k15 eval compare", allow_abbrev=False, description=__doc__)
    parser.add_argument("run", nargs="+", help="run folders of `k15 eval`; differences are to the first")
    parser.add_argument("--out", help="folder for compare.md and compare.json")
    args = parser.parse_args(list(words))
    if len(args.run) < 2:
        raise DataError("compare needs at least two run folders: k15 eval compare RUN RUN ...")
    return evaluations([Path(run) for run in args.run], Path(args.out) if args.out is not None else None)


def evaluations(runs: Sequence[Path], out: Path | None) -> int:
    """Print the table of finished evaluations; into `out` also compare.md and compare.json. Raises DataError."""
    rows, remarks = compare(runs)
    cells = [_cells(r) for r in rows]
    print(aligned(COLUMNS, cells))
    for remark in remarks:
        print(f"note: {remark}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        text = "\n".join(["# Evaluations compared", "", markdown([COLUMNS, *cells]), "", *(f"* {r}" for r in remarks)]) + "\n"
        atomic_write(out / "compare.md", text.encode())
        atomic_write(out / "compare.json", (json.dumps({"rows": rows, "notes": remarks}, indent=1) + "\n").encode())
    return 0


def compare(runs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """(a row for each number of each run, remarks). `difference`: to the first run that has the task and metric, by problems
    that both have (bootstrap over problems), the same by id, question and answer; None for that run itself and where there is
    none in common."""
    names = _names(runs)
    found = [{(r["task"], r["metric"]): r for r in read_results(run)["results"]} for run in runs]
    rows, remarks = [], []
    for key in dict.fromkeys(k for results in found for k in results):
        holders = [(name, results[key]) for name, results in zip(names, found, strict=True) if key in results]
        first = holders[0][1]
        for name, result in holders:
            shown = {k: v for k, v in result.items() if k not in BY_PROBLEM} | {"run": name, "difference": None}
            if result is not first:
                common = _common(first, result)
                shown |= _difference(first, result, common)
                if (others := len(first.get("values", {}).keys() & result.get("values", {}).keys()) - len(common)) > 0:
                    remarks.append(
                        f"{key[0]}: {others} problems of {name} have the ids of others in {holders[0][0]} (another question or "
                        "answer), and are left out of the difference"
                    )
                elif common and not ("digests" in first and "digests" in result):
                    remarks.append(f"{key[0]}: paired by ids alone; results of an earlier k15 do not tell what the problems are")
                if changed := [k for k in SAME if first.get(k) != result.get(k)]:
                    remarks.append(f"{key[0]} {key[1]}: {name} and {holders[0][0]} differ in {', '.join(changed)}")
            rows.append(shown)
    return rows, list(dict.fromkeys(remarks))


def _common(first: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Ids of the problems that both have. One file's row 7 is not another's; results without digests cannot tell."""
    a, b = first.get("digests", {}), result.get("digests", {})
    ids = [i for i in first.get("values", {}) if i in result.get("values", {})]
    return [i for i in ids if not a or not b or a.get(i) == b.get(i)]


def _difference(first: Mapping[str, Any], result: Mapping[str, Any], common: Sequence[str]) -> dict[str, Any]:
    if not common:
        return {}
    a, b = first["values"], result["values"]
    gain = paired_gain([a[i] for i in common], [b[i] for i in common])
    return {"difference": gain.estimate, "difference_low": gain.low, "difference_high": gain.high, "paired": len(common)}


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names; whole paths where two are the same."""
    short = [f.resolve().name for f in folders]
    return short if len(set(short)) == len(short) else [str(f) for f in folders]


def _cells(row: Mapping[str, Any]) -> list[str]:
    task, metric, value, interval, _, problems, *rest = plain(row)
    gain = row["difference"]
    if gain is None:
        gains = ["-", "-"]
    else:
        gains = [
            f"{100 * gain:+.2f}",
            f"{100 * row['difference_low']:+.2f} to {100 * row['difference_high']:+.2f} ({row['paired']})",
        ]
    return [task, metric, str(row["run"]), value, interval, *gains, problems, *rest]
