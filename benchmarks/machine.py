"""Where and on what code a measurement was taken: device, commit, date, load. No host names, no paths."""

import os
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

BUSY_CORES = 0.3  # cores that others keep busy; from here on a figure is marked as taken under load


ROOT = Path(__file__).resolve().parents[1]


def for_modules(**more: str) -> dict[str, object]:
    """`env` and `cwd` for a process that runs `python -m benchmarks...`: under PYTHONSAFEPATH it would not find itself."""
    return {"cwd": ROOT, "env": {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | more}


def device() -> dict[str, object]:
    """Processor model, usable cores, memory (GB), and the vector extensions that matter here."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"flags\s*: (.*)", info)
    present = set(flags[1].split()) if flags else set()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model[1].strip() if model else os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages / 1e9, 1),
        "vector": [f for f in ("avx2", "avx512f", "amx_bf16") if f in present],
    }


def neutral_name() -> str:
    """A name for result files that says what kind of machine it was, not which: `2cpu`."""
    return f"{len(os.sched_getaffinity(0))}cpu"


def commit() -> str:
    """The commit, with `-dirty` where tracked files were changed; outside a git tree, or without git, K15_COMMIT or `unknown`."""
    known = os.environ.get("K15_COMMIT", "unknown")
    if shutil.which("git") is None:
        return known
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else known


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def cpu_seconds() -> tuple[float, float]:
    """(busy, all) processor seconds of the whole machine since it started; their difference quotient is the use."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - fields[3] - fields[4]) / ticks, sum(fields) / ticks


def foreign_load(seconds: float = 3.0) -> float:
    """Cores in use while this process sleeps: what others take from the measurement."""
    before = cpu_seconds()
    time.sleep(seconds)
    after = cpu_seconds()
    return (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)
