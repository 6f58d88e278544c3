"""`python -m benchmarks partial`: token budgets (report 2.6.2) against waiting for the longest response, on the real loop.

--save        keep the result in benchmarks/results
--small       few iterations: shows that everything works; the figures mean nothing
--prompts N   started an iteration, 8 responses each (default 4; with many a CPU is short of throughput, not of time in the tail)
--model DIR   a Hugging Face folder to start from (default: the model of `step`, made once, which takes minutes)
--work DIR    keep the run folder and its log there (default: a temporary folder that goes, but stays after a failure)

One job, whose loops differ in rollout.budget_tokens alone and take turns (controller.py). The gate: as many tokens are sampled in
every arm, budgets are kept, and nothing is off-policy where nothing is continued. Beside it what the simulator of `k15 plan` says
for the same lengths: its two constants of decoding are fitted on the largest and the smallest budget, the others are predicted.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.partial.arms import LONGEST, SLOTS, Iteration, Work, faults, folder_of, read_arm
from benchmarks.step.k15_side import ENVIRONMENT, SLURM, BlockError, base_model, run_logged
from benchmarks.step.run import RESULTS, cache_folder
from benchmarks.step.settings import Work as ModelWork
from k15.plan.lengths import Lengths, percentiles
from k15.plan.simulate import Scenario, over_budgets
from k15.plan.trace import fit, read_trace

PROMPT_TOKENS = 9  # of these problems, on average
TIMEOUT_S = 3600.0


def main(words: Sequence[str]) -> int:
    """Exit code 1 where the job or the gate fails, 2 for wrong words."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks partial", description=__doc__, formatter_class=raw)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--prompts", type=_prompts, default=Work().prompts)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args(words)
    work = replace(Work(), prompts=args.prompts)
    if args.small:
        work = replace(work, budgets=(LONGEST, 32), counted=6)
    folder = args.work if args.work is not None else Path(tempfile.mkdtemp(prefix="k15-partial-"))
    if (folder / "run").exists():
        print(
            f"partial: --work {folder} holds a run of this benchmark already. Give another folder, or remove it.", file=sys.stderr
        )
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    try:
        loads = [machine.foreign_load()]
        run(folder, args.model if args.model is not None else base_model(cache_folder(), ModelWork()), work)
        loads.append(machine.foreign_load())
    except BlockError as error:
        print(f"partial: {error}\nrun folder: {folder}", file=sys.stderr)
        return 1
    arms = {b: read_arm(folder_of(folder / "run", b), work.filling, len(work.budgets)) for b in work.budgets}
    wrong = [] if args.small else faults(arms)
    if wrong:
        print("partial: no time is given, since the arms cannot be compared:", *wrong, f"run folder: {folder}", sep="\n- ",
              file=sys.stderr)  # fmt: skip
        return 1
    result = summary(arms, predicted(folder / "run", work, arms), work, loads)
    show(result)
    if args.save:
        path = RESULTS / f"partial-{result['responses']}-{machine.today()}-{machine.neutral_name()}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: results/{path.name}")
    if args.work is None:
        shutil.rmtree(folder)
    return 0


def _prompts(word: str) -> int:
    if not word.isdecimal() or int(word) < 1 or int(word) * Work().samples > SLOTS:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 to {SLOTS // Work().samples}, the engine's slots")
    return int(word)


def run(folder: Path, model: Path, work: Work) -> None:
    """The job, to its end. Raises BlockError."""
    argv = [sys.executable, "-P", "-m", "benchmarks.partial.job", str(folder / "run"), *work.words(model.absolute())]
    env = {k: v for k, v in os.environ.items() if not k.startswith(SLURM)} | ENVIRONMENT
    env |= {"PYTHONPATH": str(machine.ROOT), "K15_BUDGETS": ",".join(map(str, work.budgets))}
    run_logged(argv, env, folder / "job.log", TIMEOUT_S)


def predicted(run_dir: Path, work: Work, arms: dict[int, Sequence[Iteration]]) -> dict[int, dict[str, float]]:
    """What the simulator says of each budget, for the lengths that were trained on with the largest."""
    ends = (max(work.budgets), min(work.budgets))
    seen = [s for b in ends for s in read_trace(folder_of(run_dir, b), PROMPT_TOKENS)[work.filling :]]
    fitted = fit(seen, engines=1, slots=SLOTS)
    lengths = tuple(n for i in arms[LONGEST] for n in i.lengths)
    scenario = Scenario(
        engines=1, speed=fitted.speed, lengths=Lengths(LONGEST, measured=lengths), prompts=work.prompts, samples=work.samples,
        prompt_tokens=PROMPT_TOKENS, budget=LONGEST, train_fixed_s=fitted.train_fixed_s, train_token_s=fitted.train_token_s,
        handoff_s=max(fitted.rest_s, 0.0),
    )  # fmt: skip
    rows = over_budgets(scenario, work.budgets, iterations=200, seed=work.seed)
    return {
        r.budget: {
            "rollout_s": r.rollout_s + fitted.fixed_s, "off_policy": r.off_policy, "oldest": r.oldest,
            "fitted": r.budget in ends,
        }
        for r in rows
    }  # fmt: skip


def summary(
    arms: dict[int, Sequence[Iteration]], said: dict[int, dict[str, float]], work: Work, loads: Sequence[float]
) -> dict[str, Any]:
    """What is saved. Times are medians over the counted iterations."""
    lengths = percentiles([n for i in arms[LONGEST] for n in i.lengths])
    full = statistics.median(i.rollout_s for i in arms[LONGEST])
    rows = []
    for budget, iterations in arms.items():
        seconds = statistics.median(i.rollout_s for i in iterations)
        trained = sum(sum(i.lengths) for i in iterations)
        rows.append({
            "budget": budget, "rollout_s": seconds, "shorter": full / seconds,
            "tail_s": statistics.median(i.tail_s for i in iterations),
            "iteration_s": statistics.median(i.whole_s for i in iterations),
            "tokens": statistics.fmean(i.tokens for i in iterations), "oldest": max(i.oldest for i in iterations),
            "off_policy": sum(i.off_policy * sum(i.lengths) for i in iterations) / max(trained, 1),
            "every_rollout_s": [round(i.rollout_s, 4) for i in iterations],
            "simulator": said[budget] | {"shorter": said[LONGEST]["rollout_s"] / said[budget]["rollout_s"]},
        })  # fmt: skip
    return {
        "benchmark": "partial", "what": "rollout phase of one iteration on the real loop, by rollout.budget_tokens",
        "device": machine.device(), "commit": machine.commit(), "date": machine.today(),
        "foreign_load_cores": [round(x, 2) for x in loads], "under_load": max(loads) > machine.BUSY_CORES,
        "responses": work.prompts * work.samples, "slots": SLOTS, "counted": work.counted, "lengths": lengths, "rows": rows,
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    n = result["lengths"]
    print(
        f"  {result['responses']} responses an iteration, p50 {n['p50']:.0f}, p99 {n['p99']:.0f} tokens (ratio {n['ratio']:.1f})"
    )
    for r in result["rows"]:
        s = r["simulator"]
        print(
            f"  budget {r['budget']:3d}: rollout {r['rollout_s']:6.3f} s ({r['shorter']:.2f}x shorter), iteration "
            f"{r['iteration_s']:6.3f} s, off-policy {r['off_policy']:5.1%} (oldest {r['oldest']})   simulator: "
            f"{s['rollout_s']:6.3f} s{' (fitted)' if s['fitted'] else ''} {s['shorter']:.2f}x, off-policy {s['off_policy']:5.1%}"
        )  # fmt: skip
    if result["under_load"]:
        print("  TAKEN UNDER LOAD: other processes were busy; the arms took turns, so ratios bear it better than seconds")
