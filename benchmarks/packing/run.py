"""`python -m benchmarks packing`: how long the planner of micro-batches takes, and how evenly it spreads the work over ranks.

8,192 sequences on 64 data-parallel ranks, lengths with heavy tails, work as a 7 B model (Qwen2.5-7B's shape) has it, packs of
32,768 tokens. Beside it, the same planner balancing tokens instead of work, and a round-robin split. Times are processor
seconds of one core, the fastest of 15 runs; the median is in the result.

The gate, before any time is shown: every sequence is in exactly one pack, no pack is over its budget, all ranks have equally
many packs, and max/mean work is at most 1.03 wherever the longest sequence alone leaves that possible.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.machine import BUSY_CORES, commit, device, foreign_load, neutral_name, today
from k15.train.packing import Plan, Work, balance, pack, plan_micro_batches
from k15.train.shape import read_shape

SEQUENCES, RANKS, BUDGET, RUNS = 8192, 64, 32768, 15
TARGET_S, TARGET_BALANCE = 0.05, 1.03
MODEL = {
    "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4,
}  # fmt: skip
LENGTHS: dict[str, Callable[[Random], float]] = {
    "log-normal, median 665, up to 32k": lambda r: r.lognormvariate(6.5, 1.2),
    "Pareto, alpha 1.1, from 64, up to 32k": lambda r: 64 * r.paretovariate(1.1),
    "log-normal, median 3,000, up to 32k": lambda r: r.lognormvariate(8.0, 1.0),
    "uniform up to 8k": lambda r: r.uniform(16, 8192),
}


def main(words: list[str]) -> int:
    """Exit code 1 where the gate or a target is missed."""
    if words:
        print(__doc__, file=sys.stdout if words[0] in ("-h", "--help") else sys.stderr)
        return 0 if words[0] in ("-h", "--help") else 2
    load, rows, faults = foreign_load(), [], []
    for name, draw in LENGTHS.items():
        row, wrong = measure(name, draw)
        rows.append(row)
        faults += wrong
        print(
            f"  {name}: {row['fastest_ms']:.1f} ms, max/mean work {row['balance']:.4f} (by tokens "
            f"{row['balance_by_tokens']:.3f}, round robin {row['balance_round_robin']:.3f}); {row['packs']} packs a rank, "
            f"{row['packs_at_least']} at least"
        )  # fmt: skip
    result = {
        "benchmark": "packing", "device": device(), "commit": commit(), "date": today(), "foreign_load_cores": round(load, 2),
        "under_load": load > BUSY_CORES, "sequences": SEQUENCES, "ranks": RANKS, "budget_tokens": BUDGET, "runs": RUNS,
        "target_ms": 1e3 * TARGET_S, "target_balance": TARGET_BALANCE, "cases": rows, "faults": faults,
    }  # fmt: skip
    out = Path(__file__).parents[1] / "results" / f"packing-{today()}-{neutral_name()}.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(*(f"FAULT: {f}" for f in faults), f"written: results/{out.name}", sep="\n")
    return 1 if faults else 0


def measure(name: str, draw: Callable[[Random], float]) -> tuple[dict, list[str]]:
    """(figures, what is wrong with them) for lengths drawn by `draw`."""
    random, work = Random(0), Work.of(read_shape(MODEL))
    lengths = [min(BUDGET, max(16, int(draw(random)))) for _ in range(SEQUENCES)]
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        costs = [work(n, n // 2) for n in lengths]
        plan = plan_micro_batches(lengths, costs, RANKS, BUDGET)
        times.append(time.process_time() - start)
    faults = [f"{name}: {f}" for f in wrong(plan, lengths)]
    found, bound = balance(plan, costs), max(costs) * RANKS / sum(costs)
    if found > max(TARGET_BALANCE, bound * 1.001):
        faults.append(f"{name}: max/mean work is {found:.4f}")
    fastest = min(times)
    if fastest > TARGET_S:
        faults.append(f"{name}: {1e3 * fastest:.1f} ms")
    robin = [pack(range(r, SEQUENCES, RANKS), lengths, BUDGET) for r in range(RANKS)]
    row = {
        "lengths": name, "tokens": sum(lengths), "fastest_ms": round(1e3 * fastest, 2),
        "median_ms": round(1e3 * statistics.median(times), 2), "balance": round(found, 5),
        "balance_bound": round(max(1.0, bound), 5),
        "packs": len(plan[0]),
        "balance_by_tokens": round(balance(plan_micro_batches(lengths, lengths, RANKS, BUDGET), costs), 4),
        "balance_round_robin": round(balance(robin, costs), 4), "packs_at_least": -(-sum(lengths) // (BUDGET * RANKS)),
    }  # fmt: skip
    return row, faults


def wrong(plan: Plan, lengths: list[int]) -> list[str]:
    """The gate: what a plan must be, whatever its speed."""
    faults = []
    if sorted(i for rank in plan for part in rank for i in part) != list(range(len(lengths))):
        faults.append("a sequence is in no pack or in two")
    if any(len(part) > 1 and sum(lengths[i] for i in part) > BUDGET for rank in plan for part in rank):
        faults.append("a pack is over its budget")
    if len({len(rank) for rank in plan}) != 1:
        faults.append("ranks have different numbers of packs")
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
