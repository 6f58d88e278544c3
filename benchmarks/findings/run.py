"""`python -m benchmarks findings [NAME ...]`: the report's findings repeated at small scale, one table and one figure each.

Runs are `k15 rl experiment=finding/ARM` on generated arithmetic, kept in --out: a killed command goes on where it was, a
second one with other names makes only the runs that are missing. `long2short` (Fig. 7) is long2short.py's.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.findings.arms import commits, lengths, points, run_all, seconds
from benchmarks.findings.plan import FINDINGS, jobs
from benchmarks.findings.result import markdown, write
from k15.errors import K15Error

RESULTS = Path(__file__).resolve().parents[1] / "results"
NAMES = (*FINDINGS, "long2short")
READERS = {"harder_longer": lengths}  # the others look at evaluations


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a run failed, 2 for wrong words."""
    args = _parser().parse_args(words)
    names = args.name or list(NAMES)
    if unknown := [n for n in names if n not in NAMES]:
        print(f"findings: there is no {unknown[0]!r}; allowed: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if args.save and args.small:
        print("findings: --save is for whole runs: leave --small out.", file=sys.stderr)
        return 2
    out = args.out.absolute()
    try:
        _findings([n for n in names if n in FINDINGS], out, args)
    except K15Error as error:
        print(f"findings: {error}\nThe runs are in {args.out}; the same command goes on from there.", file=sys.stderr)
        return 1
    if "long2short" not in names:
        return 0
    own = ["--seeds", ",".join(map(str, args.seeds)), "--out", str(out), "--parallel", str(args.parallel)]
    own += [f"--{flag}" for flag in ("small", "save") if getattr(args, flag)]
    return importlib.import_module("benchmarks.findings.long2short").main(own)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks findings", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"all by default: {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="0,1,2 by default")
    parser.add_argument("--out", type=Path, default=Path("runs/findings"), help="folder of the runs (default runs/findings)")
    parser.add_argument("--parallel", type=_parallel, default=2, help="runs at once, about a core each (default 2)")
    parser.add_argument("--small", action="store_true", help="runs of four iterations: shows that all works, decides nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/findings-NAME-<date>-<machine>.*")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 0,1,2") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds must be different and at least 0")
    return seeds


def _parallel(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _findings(names: Sequence[str], out: Path, args: argparse.Namespace) -> None:
    """The runs that are missing, of all findings in one queue; then the tables and figures."""
    start, before = time.monotonic(), machine.cpu_seconds()
    run_all(jobs(names, args.seeds, args.small), out, args.parallel)
    after = machine.cpu_seconds()
    busy = (after[0] - before[0]) / max(after[1] - before[1], 1e-9) * (os.cpu_count() or 1)
    print(f"all runs are there: {time.monotonic() - start:.0f} s, {busy:.1f} cores busy meanwhile", flush=True)
    others = machine.foreign_load()
    for name in names:
        _write(name, out, args, others)


def _write(name: str, out: Path, args: argparse.Namespace, others: float) -> None:
    """The finding's table to the terminal, its files to OUT (and, with --save, to benchmarks/results)."""
    from benchmarks.findings.findings import ALL  # scipy and matplotlib: after the runs

    read = READERS.get(name, points)
    curves = {arm: [read(out / "runs" / f"{arm}-{seed}") for seed in args.seeds] for arm in FINDINGS[name]}
    result = ALL[name](curves)
    names = [job.name for job in jobs([name], args.seeds, args.small)]
    settings = {
        "seeds": list(args.seeds), "small": args.small, "cores_in_use_by_others_at_the_end": round(others, 1),
        "run_seconds": {n: seconds(out, n) for n in names}, "run_commits": commits(out, names),
        "curves": {arm: [[vars(p) for p in seed] for seed in every] for arm, every in curves.items()},
    }  # fmt: skip
    stems = [out / f"findings-{name}"]
    stems += [RESULTS / f"findings-{name}-{machine.today()}-{machine.neutral_name()}"] if args.save else []
    for stem in stems:
        write(result, stem, settings)
    print(markdown(result), f"figure: {stems[-1]}.png", sep="\n", flush=True)
    if args.small:
        print("(--small: these numbers decide nothing)", flush=True)
