"""`python -m benchmarks findings long2short`: the report's methods of making a long model short, side by side (2.4, 3.4, Fig. 7).

    long-SEED       RL without the length reward: answers get long. The base is the checkpoint that `k15 eval best` names;
                    the short model is the one before RL, which mostly answers at once
    merge-SEED      average of the two
    sft-SEED        shortest of 8 right answers of the base, learned by the base
    dpo-SEED        pairs of the same answers
    rl-SEED         long2short RL: length reward on, half the maximum length

Every model answers the same held-out problems of its seed. How settings were found: TUNED.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.findings.arms import Job, RunError, commits, points, run_all, seconds
from benchmarks.findings.long2short_measure import Measured, Model, measure
from benchmarks.findings.long2short_result import LONG, SHORT, Row, result, rows
from benchmarks.findings.result import markdown, write
from benchmarks.machine import foreign_load, neutral_name, today
from k15.errors import K15Error
from k15.eval.efficiency import KIND, best, evaluated, export_folder

RESULTS = Path(__file__).resolve().parents[1] / "results"
TUNED = "fine-tuning was tried once, on a long model of an earlier commit and problems of seed 100"
ENGINES = 2  # that answer held-out problems
GATE = 0.01  # or one problem: accuracy of the base, measured here against the run's own evaluation of the same weights
COMMON = ("experiment=arithmetic", "cluster=local", "reward.length.weight=0", "rollout.budget_tokens=96")
LONG_RUN = ("algo.iterations=15", "save.exports=all", "save.keep=1", "log.tensorboard=false", "log.rollouts=false")
SHORT_RUN = ("experiment=long2short", "cluster=local", "rollout.max_response_tokens=48",
             "rollout.budget_tokens=48", "algo.iterations=10", "eval.every=10", "eval.size=64", "save.every=10", "save.keep=1",
             "log.tensorboard=false", "log.rollouts=false")  # fmt: skip
ASKED = ("experiment=shortest_tiny", "cluster=local", "data.train_size=512")
LEARNED = ("experiment=sft_tiny", "cluster=local", "data.arithmetic=0", "stages.first.epochs=5", "stages.first.batch_tokens=2048",
           "stages.first.lr=3e-4", "stages.first.final_lr=3e-5", "stages.second.epochs=0", "log.tensorboard=false")  # fmt: skip
PREFERRED = ("experiment=dpo_tiny", "cluster=local", "stage.batch_tokens=8192", "log.tensorboard=false")
SMALL = ("eval.size=32", "algo.prompts_per_iteration=8", "algo.samples_per_prompt=4")
SMALL_LONG = (*SMALL, "warmup.steps=60", "algo.iterations=5")
SMALL_ASKED = ("data.train_size=64",)


def long_job(seed: int, small: bool) -> Job:
    """The run that makes the long model, and on its way the short one."""
    words = ("rl", *COMMON, *LONG_RUN, f"seed={seed}", f"run_dir={{runs}}/long-{seed}", *(SMALL_LONG if small else ()))
    return Job(f"long-{seed}", words)


def base_name(out: Path, seed: int) -> str:
    """The export of the long run that all methods start from, relative to OUT/runs."""
    chosen = best(evaluated(out / "runs" / f"long-{seed}", KIND))
    return str(export_folder(Path(f"long-{seed}"), chosen.iteration))


def short_jobs(seed: int, base: str, small: bool) -> list[Job]:
    """All methods, from `base` (below OUT/runs)."""
    long, asked = f"{{runs}}/{base}", f"shortest-{seed}"
    before = f"{{runs}}/{export_folder(Path(f'long-{seed}'), 0)}"
    few, fewer = (SMALL_ASKED, SMALL) if small else ((), ())

    def own(name: str, command: str, *words: str, needs: tuple[str, ...] = ()) -> Job:
        return Job(name, (command, *words, f"seed={seed}", f"run_dir={{runs}}/{name}", f"model.path={long}"), needs)

    return [
        own(f"rl-{seed}", "rl", *SHORT_RUN, *fewer),
        own(asked, "shortest", *ASKED, *few),
        Job(f"merge-{seed}", ("merge", long, before, "--out", f"{{runs}}/merge-{seed}")),
        own(f"sft-{seed}", "sft", *LEARNED, f"data.paths=[{{runs}}/{asked}/shortest.jsonl]", needs=(asked,)),
        own(f"dpo-{seed}", "dpo", *PREFERRED, f"data.paths=[{{runs}}/{asked}/pairs.jsonl]", needs=(asked,)),
    ]


def models(out: Path, seed: int, base: str) -> list[Model]:
    """What is measured; the base is not the first, so that the engines have loaded it over another's weights."""
    runs = out / "runs"
    folders = {
        SHORT: export_folder(runs / f"long-{seed}", 0), LONG: runs / base, "merge": runs / f"merge-{seed}",
        "shortest": runs / f"sft-{seed}" / "hf", "dpo": runs / f"dpo-{seed}" / "hf", "rl": runs / f"rl-{seed}" / "hf",
    }  # fmt: skip
    return [(f"{method}-{seed}", seed, folder) for method, folder in folders.items()]


def gate(out: Path, seed: int, base: str, numbers: Measured) -> None:
    """Raises RunError where the base's greedy accuracy is not what its own run has measured on the same problems."""
    iteration = int(base.rsplit("-", 1)[1])
    own = next(p.accuracy for p in points(out / "runs" / f"long-{seed}", "greedy") if p.iteration == iteration)
    here = numbers["eval_greedy_accuracy"]
    if abs(own - here) > max(GATE, 1.01 / numbers["eval_n"]):
        raise RunError(
            f"long-{seed}: accuracy {here:.4f} here, {own:.4f} in its own run, on the same problems. No table is made."
        )


def run(seeds: Sequence[int], out: Path, parallel: int, small: bool) -> list[Row]:
    """All runs and measurements that are missing; the rows of the table. Raises K15Errors."""
    run_all([long_job(seed, small) for seed in seeds], out, parallel)
    bases = {seed: base_name(out, seed) for seed in seeds}
    run_all([job for seed in seeds for job in short_jobs(seed, bases[seed], small)], out, parallel)
    words = [*COMMON[:1], *COMMON[2:], "eval.samples=2", *(("eval.size=32",) if small else ())]
    found = measure([m for seed in seeds for m in models(out, seed, bases[seed])], words, out / "measured", ENGINES)
    by_seed: dict[int, Mapping[str, Measured]] = {}
    for seed in seeds:
        by_seed[seed] = {name.rsplit("-", 1)[0]: numbers for name, numbers in found.items() if name.endswith(f"-{seed}")}
        gate(out, seed, bases[seed], by_seed[seed][LONG])
    return rows(by_seed)


def main(words: Sequence[str]) -> int:
    """What `benchmarks.findings.run` hands on, its words checked; the exit code, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="benchmarks findings long2short")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args(list(words))
    seeds = [int(seed) for seed in args.seeds.split(",")]
    load = foreign_load()
    try:
        found = run(seeds, args.out.absolute(), args.parallel, args.small)
    except K15Error as error:
        print(f"findings: {error}\nThe runs are in {args.out}; the same command goes on from there.", file=sys.stderr)
        return 1
    names = [job.name for s in seeds for job in (long_job(s, args.small), *short_jobs(s, base_name(args.out, s), args.small))]
    settings = {
        "seeds": seeds, "small": args.small, "cores_in_use_by_others_at_the_start": round(load, 1),
        "run_seconds": {name: seconds(args.out, name) for name in names}, "run_commits": commits(args.out, names),
    }  # fmt: skip
    stems = [args.out / "findings-long2short"]
    stems += [RESULTS / f"findings-long2short-{today()}-{neutral_name()}"] if args.save else []
    for stem in stems:
        write(result(found, [f"settings: {TUNED}"]), stem, settings)
    print(markdown(result(found, [])), f"figure: {stems[-1]}.png", sep="\n", flush=True)
    return 0
