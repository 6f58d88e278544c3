"""`python -m benchmarks.kernels.repetition`: checking for a repetition after every token, ours beside vLLM's function.

64 sequences of 4,096 tokens, asked after every token, as an engine does. vLLM's function and the reference are asked at
every STRIDE-th token of every sequence only (vLLM's with --full at every token); ours runs on all. Times are CPU seconds
of one thread, the sides in turn sequence by sequence. First the gate: the same verdicts from all, or no speed is printed.
On a CUDA device the Triton kernels follow: a step of the streaming state, alone and as a CUDA graph, and `periodic_tail`.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import torch
from k15.kernels.repetition import RepetitionState, periodic_tail, periodic_tail_naive

from benchmarks.kernels import frame
from k15.rollout.scheduler import repeated

SEQUENCES, TOKENS, REPEATS = 64, 4096, 4
PERIODS = (16, 128, 1024)
STRIDE = {"vllm": 32, "naive": 256}
GPU_BATCH = 256


class GateError(Exception):
    """Two sides did not give the same verdict."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise GateError(what)


class Output(list):
    """A request's tokens as the engine hands them over: an object that can hold attributes."""


def words(kind: str, count: int, length: int) -> list[list[int]]:
    """text: Zipf frequencies, 32k kinds, no token twice in a row. powers: the Fibonacci word, cubes but no fourth power."""
    rng = random.Random(0)
    if kind == "text":
        weights = [1 / (rank + 2.7) for rank in range(32_000)]
        drawn = (rng.choices(range(32_000), weights, k=2 * length) for _ in range(count))
        return [[key for key, _ in groupby(x)][:length] for x in drawn]
    a, b = [0], [0, 1]
    while len(b) < length + count * 97:
        a, b = b, b + a
    return [b[97 * i : 97 * i + length] for i in range(count)]


def gate(vllm_check: Callable | None) -> dict[str, object]:
    """Every implementation's verdict at every token of 24 hard sequences of 240. Raises GateError where one differs."""
    rng = random.Random(1)
    texts = []
    for _ in range(24):
        pattern = [rng.randrange(3) for _ in range(rng.randint(1, 40))]
        text = [rng.randrange(3) for _ in range(rng.randrange(30))] + pattern * 12
        text[rng.randrange(len(text))] = 3
        texts.append((text * 240)[:240])
    checked = hits = 0
    for period, repeats, low in ((24, 3, 1), (40, 4, 3), (7, 2, 2)):
        state, outputs = RepetitionState(len(texts), period, repeats, low), [Output() for _ in texts]
        params = SimpleNamespace(max_pattern_size=period, min_pattern_size=low, min_count=repeats)
        rule = {"max_period": period, "min_repeats": repeats, "min_period": low}
        for n in range(1, 241):
            flags = state.update(torch.tensor([x[n - 1] for x in texts])).tolist()
            pack, cu = torch.tensor([t for x in texts for t in x[:n]]), torch.arange(len(texts) + 1, dtype=torch.int32) * n
            want = (periodic_tail_naive(pack, cu, **rule)[0] > 0).tolist()
            for x, output in zip(texts, outputs):
                output.append(x[n - 1])
            verdicts = {
                "state": flags, "watch": [repeated(o, params) for o in outputs],
                "periodic_tail": (periodic_tail(pack, cu, **rule)[0] > 0).tolist(),
            }  # fmt: skip
            if vllm_check is not None:
                verdicts["vllm"] = [vllm_check(o, params) for o in outputs]
            for name, got in verdicts.items():
                must(got == want, f"{name} differs from the reference after {n} tokens, {rule}")
            checked, hits = checked + len(want), hits + sum(want)
    must(0 < hits < checked, f"{hits} of {checked} verdicts are repetitions: nothing was compared")
    return {"passed": True, "verdicts": checked, "repeated": hits, "sides": [*verdicts, "naive"]}


def cpu_row(
    kind: str, period: int, texts: list[list[int]], vllm_check: Callable | None, strides: dict[str, int]
) -> dict[str, object]:
    """Microseconds a token a sequence of each side on one kind of text, and how much faster ours are than vLLM's."""
    params = SimpleNamespace(max_pattern_size=period, min_pattern_size=1, min_count=REPEATS)
    seconds = dict.fromkeys(("vllm", "naive", "watch", "state"), 0.0)
    asked = dict.fromkeys(seconds, 0)
    for x in texts:
        output = Output()
        start = time.thread_time()
        for token in x:
            output.append(token)
            must(not repeated(output, params), "TailWatch sees a repetition where none is")
        seconds["watch"] += time.thread_time() - start
        asked["watch"] += len(x)
        if vllm_check is not None:
            from vllm.v1.utils import ConstantList

            prefixes = [ConstantList(x[:n]) for n in range(strides["vllm"], len(x) + 1, strides["vllm"])]
            start = time.thread_time()
            found = [vllm_check(p, params) for p in prefixes]
            seconds["vllm"] += time.thread_time() - start
            asked["vllm"] += len(prefixes)
            must(not any(found), "vLLM sees a repetition where none is")
        whole = [torch.tensor(x[:n]) for n in range(strides["naive"], len(x) + 1, strides["naive"])]
        start = time.thread_time()
        for prefix in whole:
            cu = torch.tensor([0, len(prefix)])
            found = periodic_tail_naive(prefix, cu, max_period=period, min_repeats=REPEATS)[0].item()
            must(not found, "the reference sees a repetition where none is")
        seconds["naive"] += time.thread_time() - start
        asked["naive"] += len(whole)
    state, steps = RepetitionState(len(texts), period, REPEATS), torch.tensor(texts).T.contiguous()
    start = time.thread_time()
    for step in steps:
        must(not state.update(step).any(), "RepetitionState sees a repetition where none is")
    seconds["state"], asked["state"] = time.thread_time() - start, steps.numel()
    pack, cu = torch.tensor(texts).flatten(), torch.arange(len(texts) + 1, dtype=torch.int32) * len(texts[0])
    start = time.thread_time()
    periodic_tail(pack, cu, max_period=period, min_repeats=REPEATS)
    once = time.thread_time() - start
    micros = {side: 1e6 * seconds[side] / asked[side] for side in seconds if asked[side]}
    faster = {s: micros["vllm"] / micros[s] for s in ("watch", "state")} if "vllm" in micros else None
    return {
        "text": kind, "max_period": period, "us_a_token_a_sequence": micros, "verdicts_timed": asked,
        "whole_run_cpu_s": {s: us * steps.numel() / 1e6 for s, us in micros.items()},
        "times_faster_than_vllm": faster, "periodic_tail_once_ms": 1e3 * once,
    }  # fmt: skip


def gpu_row(period: int) -> dict[str, object]:
    """Microseconds of a step of 256 rows and of `periodic_tail`, by CUDA events; each is compared with the PyTorch path first."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 3, (64, GPU_BATCH), generator=generator).cuda()
    ours, plain = (RepetitionState(GPU_BATCH, period, REPEATS, device="cuda", backend=b) for b in ("triton", "torch"))
    new = torch.full((GPU_BATCH,), -1, dtype=torch.int64, device="cuda")
    ours.update(new)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.update(new)
    for step in steps:
        new.copy_(step)
        graph.replay()
        must(torch.equal(ours.flags, plain.update(step)), "the Triton state differs from PyTorch's")
    tokens = torch.randint(0, 32_000, (GPU_BATCH * TOKENS,), generator=generator).cuda()
    cu = torch.arange(GPU_BATCH + 1, dtype=torch.int32, device="cuda") * TOKENS
    rule = {"max_period": period, "min_repeats": REPEATS}
    pair = [periodic_tail(tokens, cu, **rule, backend=b) for b in ("triton", "torch")]
    must(all(torch.equal(a, b) for a, b in zip(*pair)), "periodic_tail differs from PyTorch's")
    graph_us = event_us(graph.replay)
    return {
        "rows": GPU_BATCH, "max_period": period, "step_in_graph_us": graph_us, "step_us": event_us(lambda: ours.update(new)),
        "step_torch_us": event_us(lambda: plain.update(new)), "step_gb_s": 12e-3 * GPU_BATCH * period / graph_us,
        "periodic_tail_us": event_us(lambda: periodic_tail(tokens, cu, **rule)), "periodic_tail_tokens": tokens.numel(),
    }  # fmt: skip


def event_us(call: Callable[[], object], count: int = 200) -> float:
    """Mean microseconds of `call` on the device's clock."""
    for _ in range(10):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return 1e3 * start.elapsed_time(end) / count


def load_vllm() -> Callable | None:
    """vLLM's function, None where vLLM is not installed."""
    try:
        from vllm.v1.core.sched.utils import check_sequence_repetition
    except ImportError:
        return None
    return check_sequence_repetition


def chart(result: dict, path: Path) -> bool:
    """us a token a sequence against max_period, one line a side. False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = {"vllm": "vLLM", "naive": "reference", "state": "RepetitionState, 64 rows", "watch": "TailWatch (in the engine)"}
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    kinds = sorted({row["text"] for row in result["cpu"]}, reverse=True)
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds):
        rows = [row for row in result["cpu"] if row["text"] == kind]
        for side, label in names.items():
            points = [(r["max_period"], r["us_a_token_a_sequence"][side]) for r in rows if side in r["us_a_token_a_sequence"]]
            if points:
                axes.loglog(*zip(*points), marker="o", label=label)
        axes.set(title=kind, xlabel="max_period (tokens)", xticks=PERIODS, xticklabels=PERIODS)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("CPU us a token a sequence")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    return True


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels.repetition", description=__doc__)
    parser.add_argument("--full", action="store_true", help="vLLM's function at every token (about half an hour)")
    parser.add_argument("--quick", action="store_true", help="4 sequences of 512 tokens: shows that everything works")
    parser.add_argument("--out", type=Path, help="the JSON file; a chart goes beside it (default: in benchmarks/results)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    vllm_check = load_vllm()
    device = frame.the_device()
    where = frame.where(device)
    try:
        passed = gate(vllm_check)
        gpu = [gpu_row(period) for period in PERIODS] if torch.cuda.is_available() else None
        frame.keep("kernel-repetition", where | {"gate": passed, "gpu": gpu}, device, args.out)
        strides = STRIDE | ({"vllm": 1} if args.full else {})
        count, length = (4, 512) if args.quick else (SEQUENCES, TOKENS)
        cpu = []
        for kind in ("text", "powers"):
            texts = words(kind, count, length)
            for period in PERIODS:
                cpu.append(cpu_row(kind, period, texts, vllm_check, strides))
                print(line(cpu[-1]), flush=True)
    except GateError as error:
        print(f"repetition: the gate is red, no speed counts: {error}", file=sys.stderr)
        return 1
    result = where | {
        "gate": passed, "sequences": count, "tokens": length,
        "min_repeats": REPEATS, "vllm_asked_at_every": strides["vllm"], "naive_asked_at_every": strides["naive"],
        "cpu": cpu, "gpu": gpu,
    }  # fmt: skip
    for row in gpu if gpu is not None else []:
        print(json.dumps(row))
    if args.quick and args.out is None:
        return 0
    path = frame.save("kernel-repetition", result, device, args.out)
    if not chart(result, path.with_suffix(".png")):
        print("no chart without matplotlib")
    return 0


def line(row: dict) -> str:
    micros = ", ".join(f"{side} {us:.2f}" for side, us in row["us_a_token_a_sequence"].items())
    faster = row["times_faster_than_vllm"]
    ratio = "" if faster is None else "; " + ", ".join(f"{side} {times:.0f}x faster than vLLM" for side, times in faster.items())
    return f"{row['text']:6s} max_period {row['max_period']:4d}: us a token a sequence: {micros}{ratio}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
