"""`python -m benchmarks step`: k15 and TRL take turns on the same work; the gate; the figures.

--tune        first try every candidate setting of both sides for a few iterations, then measure each at its best
--small       2 iterations of 8 prompts x 4: shows in two minutes that everything works; the figures mean nothing
--out DIR     where the JSON and the chart go (default: benchmarks/results; with --small: nowhere)
--work DIR    keep run folders and logs there (default: a temporary folder that goes, but stays after a failure)
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.step.gate import check
from benchmarks.step.k15_side import BlockError, base_model, run_k15
from benchmarks.step.record import Run
from benchmarks.step.result import GateError, summary, text, write
from benchmarks.step.settings import K15_CANDIDATES, TRL_CANDIDATES, K15Setting, TrlSetting, Work
from benchmarks.step.trl_side import environment, run_trl

RESULTS = Path(__file__).resolve().parents[1] / "results"
SMALL = Work(prompts_per_iteration=8, samples_per_prompt=4, iterations=2, blocks=1)
TUNE_ITERATIONS = 3


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "k15"


class Bench:
    """Runs blocks of either side, each in a folder of its own, and says how each went."""

    def __init__(self, folder: Path, model: Path, python: Path) -> None:
        self.folder, self.model, self.python = folder, model, python
        self._count = 0

    def block(self, setting: K15Setting | TrlSetting, work: Work) -> Run:
        self._count += 1
        side = "k15" if isinstance(setting, K15Setting) else "trl"
        folder = self.folder / f"{self._count:02d}-{side}"
        start = time.monotonic()
        if isinstance(setting, K15Setting):
            run = run_k15(folder, self.model, work, setting)
        else:
            run = run_trl(folder, self.python, self.model, work, setting)
        print(f"  {side}, {setting.name}: {work.iterations} iterations, {time.monotonic() - start:.0f} s with start", flush=True)
        return run

    def best(self, candidates: Sequence[K15Setting | TrlSetting], work: Work) -> K15Setting | TrlSetting:
        """The candidate with the quickest iteration after the first."""
        short = replace(work, iterations=TUNE_ITERATIONS)
        seconds = {}
        for setting in candidates:
            seconds[setting.name] = min(i.wall_s for i in self.block(setting, short).counted())
            print(f"    {seconds[setting.name]:.2f} s an iteration", flush=True)
        return min(candidates, key=lambda c: seconds[c.name])


def measure(bench: Bench, work: Work, tune: bool) -> tuple[list[Run], dict[str, object]]:
    """All blocks in turn, and where and when they were taken. The first candidates are the best that we know of."""
    k15, trl = K15_CANDIDATES[0], TRL_CANDIDATES[0]
    if tune:
        k15, trl = bench.best(K15_CANDIDATES, work), bench.best(TRL_CANDIDATES, work)
    others = [machine.foreign_load()]
    runs = []
    for _ in range(work.blocks):
        runs += [bench.block(k15, work), bench.block(trl, work)]
        others.append(machine.foreign_load())
    place = {
        "date": machine.today(), "commit": machine.commit(), "device": machine.device(),
        "busy_cores_of_others": others, "under_load": max(others) > machine.BUSY_CORES,
    }  # fmt: skip
    return runs, place


def main(words: Sequence[str]) -> int:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks step", description=__doc__, formatter_class=raw)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that children end with us
    work = SMALL if args.small else Work()
    folder = args.work if args.work is not None else Path(tempfile.mkdtemp(prefix="k15-step-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(folder, base_model(cache_folder(), work), environment(cache_folder()))
        if args.prepare:
            print("ready to measure")
            return 0
        runs, place = measure(bench, work, args.tune)
        result = summary(runs, work, check(runs, work), place)
    except (GateError, BlockError) as error:
        print(f"step: {error}\nrun folders: {folder}", file=sys.stderr)
        return 1
    print(text(result))
    out = args.out if args.out is not None else None if args.small else RESULTS
    if out is not None:
        path = write(result, out, f"step-{place['date']}-{machine.neutral_name()}")
        print(f"written: {path} and its chart")
    else:
        print(json.dumps(result["ratio_by_block"]))
    if args.work is None:
        shutil.rmtree(folder)
    return 0
