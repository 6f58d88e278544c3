"""The sandbox's speed: `python -m benchmarks sandbox [--runs N] [--judgements N] [--soak N] [--save]`, about three minutes.

How fast sandboxes start (`starts.py`) and how many Python judgements a second the HTTP service gives (`http.py`), beside what
was asked for and what the Kimi k1.5 report says (section 2.6.4). `--soak 20000` looks for what so many runs leave.
On a machine that others use the figures by the clock say nothing; those of processor time still do.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.sandbox import http, soak, starts

RESULTS = Path(__file__).parents[1] / "results"


def main(words: list[str] | None = None) -> int:
    """The exit code: 1 where an answer was wrong, a job failed or something was left behind."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sandbox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300, help="starts of each kind")
    parser.add_argument("--judgements", type=int, default=2000)
    parser.add_argument("--soak", type=int, default=0, help="also run so many mixed jobs and look for what they leave")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    args = parser.parse_args(words)
    for name, least in (("runs", 20), ("judgements", 20), ("soak", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    with tempfile.TemporaryDirectory() as folder:
        place = RESULTS if args.save else Path(folder)
        started, judged = (
            place / f"sandbox-{what}-{machine.today()}-{machine.neutral_name()}.json" for what in ("starts", "http")
        )
        codes = [starts.main(["--runs", str(args.runs), "--out", str(started)])]
        codes.append(http.main(["--judgements", str(args.judgements), "--out", str(judged)]))
        show(json.loads(started.read_text()), json.loads(judged.read_text()))
    if args.soak:
        codes.append(soak.main(["--runs", str(args.soak), *(["--save"] if args.save else [])]))
    return max(codes)


def show(started: dict, judged: dict) -> None:
    """A line for each figure that was asked for."""
    load = max(started["foreign_load_cores"], started["foreign_load_cores_after"], judged["foreign_load_cores"])
    report, cold = started["report"], started["rows"]["cold python3, no sandbox"]
    print(f"load by others up to {load:.2f} cores" + (": not to be quoted" if load > machine.BUSY_CORES else ""))
    for backend, (rate, median) in started["targets"].items():
        row = started["rows"].get(f"{backend}: true")
        if row is None:
            print(f"{backend}: not here")
            continue
        ok = row["starts_per_s_core"] >= rate and row["median_ms"] <= median
        print(
            f"{backend}: {row['starts_per_s_core']:.0f} starts/s a core, median {row['median_ms']:.1f} ms; asked {rate:.0f} and "
            f"{median:.0f} ms; report {report['starts_per_s_core']} and {report['start_ms']:.0f} ms; cold python3 "
            f"{cold['median_ms']:.1f} ms: {'reached' if ok else 'NOT reached'}"
        )
    python = judged["python"]
    print(
        f"warm Python over HTTP: {python['per_s_a_core']:.0f} judgements/s a core (asked {judged['target_per_s_a_core']:.0f}), "
        f"{python['per_cpu_s']:.0f} a processor second of service and sandboxes: "
        f"{'reached' if judged['reached'] else 'NOT reached'}"
    )
