"""Weights from a Megatron layout (Qwen2.5-0.5B shape, synthetic) to other nodes and to vLLM: seconds and GB/s by phase, beside
this machine's memory copy and TCP, measured in the same run; fan-out; and the plain way, save to disk and restart vLLM.

A gate comes first: every byte that arrives is compared with what was sent, and vLLM's log-probabilities after an update in
place with those of a vLLM that read the same weights from disk.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.handoff import engine, limits, moonshot, transfer
from benchmarks.handoff.node import mpiexec
from benchmarks.handoff.weights import Trainer, shape_of
from benchmarks.machine import BUSY_CORES, commit, device, foreign_load, neutral_name, today

RESULTS = Path(__file__).parents[1] / "results"
TRANSPORTS = ("http", "mooncake", "mpi")
TARGET = 0.6  # of the slower of memory copy and link
TARGET_RATIO = 10.0  # in place over save and restart


def main(words: list[str] | None = None) -> int:
    """The exit code: 1 where the gate is red."""
    parser = argparse.ArgumentParser(
        prog="benchmarks handoff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=1.0, help="GB of weights that travel (1 to 8; needs 6 times that in memory)")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--transports", default="http,mooncake", help="of http, mooncake, mpi (needs mpiexec)")
    parser.add_argument("--nodes", type=int, default=4, help="that pull at once, at most")
    parser.add_argument("--fan-out-gb", type=float, default=0.25)
    parser.add_argument(
        "--engine", action=argparse.BooleanOptionalAction, default=True, help="vLLM, 0.5 B in fp32 (8 GB of memory)"
    )
    parser.add_argument("--engine-gb", type=float, default=None, help="a smaller model for vLLM")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/handoff-<date>-<machine>.json")
    args = parser.parse_args(words)
    for transport in args.transports.split(","):
        if transport not in TRANSPORTS:
            parser.error(f"--transports: there is no {transport!r}; allowed: {', '.join(TRANSPORTS)}")
        if transport == "mpi" and mpiexec() is None:
            parser.error("--transports: mpi needs mpiexec, which is neither beside Python nor on the path (pip install mpich)")
    torch.set_num_threads(1)
    busy = foreign_load()
    result: dict[str, Any] = {
        "benchmark": "handoff", "date": today(), "commit": commit(), "device": device(), "foreign_load_cores": round(busy, 2),
        "under_load": busy > BUSY_CORES, "target": TARGET, "target_ratio": TARGET_RATIO,
    }  # fmt: skip
    try:
        result["moved"] = [moved(args.gb, dtype, t) for dtype in args.dtypes.split(",") for t in args.transports.split(",")]
        result["checkpoint_engine"] = [moonshot.measure(args.gb, dtype) | {"dtype": dtype} for dtype in args.dtypes.split(",")]
        result["fan_out"] = transfer.fan_out(_trainer(args.fan_out_gb, "bfloat16"), args.nodes)
        if args.engine:
            result["vllm"] = engine.run(_trainer(args.engine_gb, "float32"))
    except transfer.GateError as error:
        print(f"gate red, no speed is given: {error}")
        return 1
    print(json.dumps(result, indent=1))
    print(text(result))
    if args.save:
        path = RESULTS / f"handoff-{today()}-{neutral_name()}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path.name}")
    return 0


def _trainer(gigabytes: float | None, dtype: str) -> Trainer:
    kind = getattr(torch, dtype)
    return Trainer(shape_of(gigabytes, kind), kind)


def moved(gigabytes: float, dtype: str, transport: str) -> dict[str, Any]:
    """One measurement, with the machine's limits taken just before and after, and the share of them that was reached."""
    trainer = _trainer(gigabytes, dtype)
    before = limits.memory_copy(1 << 28), limits.link(1 << 28)
    found = transfer.measure(trainer, transport)
    after = limits.memory_copy(1 << 28), limits.link(1 << 28)
    copy, link = (round(max(pair), 2) for pair in zip(before, after, strict=True))
    speeds = found["steady"]["gb_per_s"]
    shares = {"export": speeds["export"] / copy, "load": speeds["load"] / copy, "transfer": speeds["transfer"] / min(copy, link)}
    shares = {key: round(value, 2) for key, value in shares.items()}
    return {
        "dtype": dtype, **found, "memory_copy_gb_per_s": copy, "link_gb_per_s": link, "share_of_limit": shares,
        "reached": min(shares.values()) >= TARGET,
    }  # fmt: skip


def text(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    lines = []
    for m in result["moved"]:
        speeds = ", ".join(f"{k} {v:.1f} GB/s" for k, v in m["steady"]["gb_per_s"].items())
        shares = ", ".join(f"{k} {v:.0%}" for k, v in m["share_of_limit"].items())
        lines.append(
            f"{m['dtype']:9s}{m['transport']:9s}{m['steady']['bytes'] / 1e9:.1f} GB: {speeds}; of memory copy "
            f"{m['memory_copy_gb_per_s']} or link {m['link_gb_per_s']} GB/s: {shares}"
        )
    for c in result["checkpoint_engine"]:
        parts = ", ".join(f"{key.removesuffix('_s')} {value:.2f} s" for key, value in c.items() if key.endswith("_s"))
        lines.append(f"{c['dtype']:9s}checkpoint-engine with an adapter: {parts or c['skipped']}")
    for f in result["fan_out"]:
        lines.append(f"fan-out to {f['nodes']}: {f['seconds']} s, the hot node sent {f['hot_node_copies']} copies")
    if "vllm" in result:
        v = result["vllm"]
        lines.append(
            f"vLLM in place {v['in_place']['train_to_first_token_s']:.2f} s from training to the first token, save and restart "
            f"{v['save_and_restart']['train_to_first_token_s']:.1f} s: {v['ratio']}x (target {TARGET_RATIO:g}x)"
        )
    if result["under_load"]:
        lines.append("TAKEN UNDER LOAD: other processes were busy; not a figure to quote")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
