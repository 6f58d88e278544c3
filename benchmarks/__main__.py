"""`python -m benchmarks [NAME [words]]`: without a name, list and run all that a machine without a GPU can measure, but for
`findings`, which trains for two hours and is run by its name."""

import sys
from importlib import import_module

CPU = {
    "findings": "the report's findings repeated at small scale: a table and a figure each (about two hours)",
    "handoff": "weights from a trainer's layout to other nodes and to vLLM, by phase, beside memory copy and TCP",
    "kernels": "log-prob, policy loss and repetition check beside their peers (on a GPU as well)",
    "packing": "seconds and balance of the plan of micro-batches: 8,192 sequences on 64 ranks",
    "partial": "rollout phase by token budget against waiting for the longest, on the real loop, beside the simulator",
    "plan": "peak memory and step time of real trainer ranks beside what `k15 plan` predicts",
    "reward": "verdicts/s of the mathematics reward, after a gate of right and wrong answers",
    "reward_models": "accuracy of the Classic against the Chain-of-thought reward model, trained and spot-checked here",
    "sandbox": "starts/s of sandboxes and judgements/s of their service, beside the report's and a cold interpreter's",
    "step": "samples/s of whole RL iterations beside TRL's GRPOTrainer",
    "testgen": "generated tests of 20 contest problems: funnel, and how many wrong submissions they reject",
}


def main(words: list[str]) -> int:
    """The exit code of the benchmark named first, or the worst of all."""
    if words and words[0] in ("-h", "--help", "list"):
        print(__doc__, *(f"  {name:8s} {what}" for name, what in CPU.items()), sep="\n")
        return 0
    if words and words[0] not in CPU:
        print(f"benchmarks: there is no {words[0]!r}; allowed: {', '.join(CPU)}, list", file=sys.stderr)
        return 2
    codes = []
    for name in words[:1] or [n for n in CPU if n != "findings"]:
        print(f"{name}: {CPU[name]}", flush=True)
        codes.append(import_module(f"benchmarks.{name}.run").main(words[1:]))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
