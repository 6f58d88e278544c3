"""The report's comparison of reward models (2.3.5: Classic 84.4, Chain-of-thought 98.5) at small scale, in one command.

Both are the same tiny model, trained from scratch on the same generated triples with the same number of optimizer steps
and about as many tokens a step (a judgement is long, so the Classic model sees three times as many triples), and judge the
same held-out triples: `k15 reward_model` once for each kind, side by side, then one table and one figure.
It is a comparison of accuracies, not of speed: it may run on a busy machine.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import commit, device, neutral_name, today

RESULTS = Path(__file__).parents[1] / "results"
LEARNING_RATE = {"classic": 2e-3, "cot": 5e-3}
TRIPLES = {"classic": 192, "cot": 64}  # a step; about 4,300 tokens in both


def main(words: list[str] | None = None) -> int:
    """The exit code: 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="benchmarks reward_models", description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the two runs (default: a temporary one)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/reward_models-<date>-<machine>.*")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out if args.out is not None else Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        runs = {kind: _start(kind, out, args) for kind in LEARNING_RATE}
        codes = {kind: process.wait() for kind, process in runs.items()}
        if any(codes.values()):
            for kind in (k for k, code in codes.items() if code):
                print(f"{kind} failed:\n{(out / f'{kind}.log').read_text()[-3000:]}")
            return 1
        subprocess.run([*_K15, "compare", str(out / "classic"), str(out / "cot")], check=True)
        if args.save:
            _save(out / "cot" / "compare", out, args)
    return 0


_K15 = [sys.executable, "-P", "-m", "k15", "reward_model"]


def _start(kind: str, out: Path, args: argparse.Namespace) -> subprocess.Popen:
    words = [f"kind={kind}", f"run_dir={out / kind}", f"seed={args.seed}", f"fit.steps={args.steps}",
             f"fit.batch_size={TRIPLES[kind]}", f"fit.lr={LEARNING_RATE[kind]}"]  # fmt: skip
    with (out / f"{kind}.log").open("w") as log:
        return subprocess.Popen([*_K15, *words], stdout=log, stderr=log)


def _save(compared: Path, out: Path, args: argparse.Namespace) -> None:
    """Result files named by date and kind of machine."""
    found = json.loads((compared / "spot_check.json").read_text())
    result = {
        "benchmark": "reward_models", "what": "Classic against Chain-of-thought on generated triples", "date": today(),
        "commit": commit(), "device": device(), "steps": args.steps, "triples_a_step": TRIPLES, "seed": args.seed,
        "learning_rate": LEARNING_RATE, "methods": found["methods"], "gain": found["gain"],
        "runs": {kind: json.loads((out / kind / "spot_check.json").read_text())["facts"] for kind in LEARNING_RATE},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"reward_models-{today()}-{neutral_name()}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    for suffix in (".png", ".md"):
        shutil.copyfile(compared / f"spot_check{suffix}", stem.with_suffix(suffix))
    print(f"written: {stem.name}.json, .png, .md")
