"""Verdicts a second of the mathematics reward on one worker process, on answers like those of MATH-500.

Each problem gets eight answers: the reference, four other ways to write it, and three that are one slip away (a digit
changed, or another problem's answer). Gate: every answer of the first kind is accepted and every one of the second
refused, or no speed is printed. Counted are batches of 64 prompts x 8: `verdicts_per_core_s` by the processor time of the
caller and the worker together, `verdicts_per_s` by the clock, so that a busy machine cannot hide behind the first nor
spoil it. The first pass meets every answer for the first time; references come back with every response, and the worker
keeps its last 8,192 parses. `again` is a second pass, with all parses kept, as in later iterations on the same prompts.
The last part is the worst case: a batch in which hostile answers run into the time limit and workers are replaced.
"""

import argparse
import json
import os
import random
import re
import time
from pathlib import Path

import psutil

from benchmarks.machine import BUSY_CORES, commit, device, foreign_load, neutral_name, today
from k15.reward.math import verdicts
from k15.reward.pool import WorkerPool
from tests.reward.reward_cases import CASES

RESULTS = Path(__file__).parents[1] / "results"
BATCH = 512
TIMEOUT_S = 2.0
Pair = tuple[str, str]


def references() -> tuple[list[str], str]:
    """Answers of MATH-500 where K15_DATA_DIR names it, else those of the hand-written cases; and which of the two."""
    folder = os.environ.get("K15_DATA_DIR")
    path = Path(folder, "math500", "test.jsonl") if folder is not None else None
    if path is not None and path.is_file():
        return [json.loads(line)["answer"] for line in path.read_text().splitlines()], "MATH-500"
    return [answer for answer, _, _ in CASES], "hand-written cases (set K15_DATA_DIR for MATH-500)"


def same(answer: str) -> list[str]:
    """Four other ways to write it."""
    return [f"${answer}$.", answer.replace("\\frac", "\\dfrac") + " ", answer.replace("-", "−"), f"\\displaystyle {answer}"]


def other(answer: str, answers: list[str], chance: random.Random) -> list[str]:
    """Three wrong answers, most of them one digit away."""
    found = []
    visible = re.sub(r"\\(?:text|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?", lambda m: "~" * len(m[0]), answer)
    places = [m.start() for m in re.finditer(r"(?<![\d.])[1-9]", visible)]
    for _ in range(3):
        if places:
            i = chance.choice(places)
            found.append(answer[:i] + str(int(answer[i]) % 9 + 1) + answer[i + 1 :])
        else:
            found.append(chance.choice([a for a in answers if a != answer and not a.isalpha()]) + " + 1")
    return found


def measure(pairs: list[Pair], pool: WorkerPool) -> tuple[float, list[bool]]:
    """(seconds, verdicts) of all pairs in batches."""
    found: list[bool] = []
    started = time.perf_counter()
    for i in range(0, len(pairs), BATCH):
        found += [v.correct for v in verdicts(pairs[i : i + BATCH], "auto", pool)]
    return time.perf_counter() - started, found


def main(words: list[str] | None = None) -> int:
    """The exit code: 1 where the gate is red."""
    parser = argparse.ArgumentParser(prog="benchmarks reward", description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/reward-<date>-<machine>.json")
    args = parser.parse_args(words)
    answers, source = references()
    chance = random.Random(0)
    rows = [(f"Thus \\boxed{{{given}}}", a, ok) for a in answers for ok, group in
            ((True, [a, *same(a)]), (False, other(a, answers, chance))) for given in group]  # fmt: skip
    pairs = [(given, answer) for given, answer, _ in rows]
    busy = foreign_load()
    with WorkerPool(1, TIMEOUT_S) as pool:
        measure([("\\boxed{x+1}", "1+x"), ("\\boxed{(1,\\pi]}", "(1,2\\pi]")], pool)
        cores = [_cpu()]
        seconds, found = measure(pairs, pool)
        cores.append(_cpu())
        measure(pairs, pool)
        cores.append(_cpu())
        wrong = [row for row, ok in zip(rows, found, strict=True) if row[2] is not ok]
    with WorkerPool(1, TIMEOUT_S) as pool:
        texts = ("\\sum_{k=1}^{10^9} \\sin k", "x^" * 160 + "2", "9^{9^{9^9}}", "(" * 200)
        hostile = [f"\\boxed{{{t}}}" for t in texts]
        measure([("\\boxed{x+1}", "1+x")], pool)
        worst, judged = measure([(h, "x+2") for h in hostile] + [("\\boxed{2+x}", "x+2")], pool)
    wrong += [("a hostile answer", "x+2", ok) for ok in judged[:-1] if ok] + ([] if judged[-1] else [("2+x", "x+2", True)])
    if wrong:
        print(f"gate red: {len(wrong)} of {len(rows)} verdicts are wrong, so no speed is given: {wrong[:5]}")
        return 1
    result = {
        "benchmark": "reward", "what": "mathematics verdicts on one worker process", "answers": source, "date": today(),
        "commit": commit(), "device": device(), "foreign_load_cores": round(busy, 2), "under_load": busy > BUSY_CORES,
        "gate": f"{len(rows)} verdicts right", "verdicts": len(rows), "seconds": round(seconds, 3),
        "verdicts_per_s": round(len(rows) / seconds, 1), "core_seconds": round(cores[1] - cores[0], 3),
        "verdicts_per_core_s": round(len(rows) / (cores[1] - cores[0]), 1), "target_per_core_s": 500,
        "again_verdicts_per_core_s": round(len(rows) / (cores[2] - cores[1]), 1),
        "hostile": {"answers": len(hostile), "timeout_s": TIMEOUT_S, "seconds_with_restarts": round(worst, 2)},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"reward-{today()}-{neutral_name()}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path.name}")
    return 0


def _cpu() -> float:
    """Processor seconds of this process and its workers so far."""
    me = psutil.Process()
    return sum(t.user + t.system for t in (p.cpu_times() for p in (me, *me.children())))
