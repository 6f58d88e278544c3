"""How fast sandboxes start: `python -m benchmarks.sandbox.starts [--runs N] [--out FILE]`.

For each backend: from the call to the outcome of `true` (median, one after another), starts/s a core (as many threads as
cores), and the processor time of one start, which does not depend on who else uses the machine. Beside it a cold `python3`
without a sandbox, and the figures of the Kimi k1.5 report (section 2.6.4: crun 0.04 s a start, 120 starts/s on 16 cores).
"""

import argparse
import contextlib
import json
import os
import resource
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import machine
from k15.errors import SandboxError
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.backends.crun import Crun
from k15.sandbox.backends.warm import Warm
from k15.sandbox.images.build import build
from k15.sandbox.job import Backend, Job

REPORT = {"starts_per_s_core": 7.5, "start_ms": 40.0}
TARGETS = {"crun": (60.0, 12.0), "bubblewrap": (100.0, 8.0)}  # starts/s a core at least, median ms at most
TRUE = Job(["true"])
PYTHON = Job(["python3", "-c", "print(6 * 7)"])
MAKERS: dict[str, Callable[[], Backend]] = {
    "crun": Crun,
    "bubblewrap": partial(Bubblewrap, groups=False),
    "one bwrap a job": partial(Bubblewrap, groups=False, resident=False),
    "bubblewrap in a cgroup": partial(Bubblewrap, groups=True),
    "warm": Warm,
}


def main(words: list[str] | None = None) -> int:
    """The exit code, 0. Raises SandboxError where a job failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    build(["base"])
    result: dict[str, object] = {
        "what": "sandbox starts", "date": machine.today(), "commit": machine.commit(), "device": machine.device(),
        "foreign_load_cores": round(machine.foreign_load(), 2), "report": REPORT, "targets": TARGETS,
    }  # fmt: skip
    with accounting() as used:
        rows = {"cold python3, no sandbox": measure(lambda: _cold(), args.runs, used)}
    for name, make in MAKERS.items():
        try:
            with accounting() as used, contextlib.closing(make()) as backend:  # what waits is born in the account
                if name != "warm":
                    rows[f"{name}: true"] = measure(lambda b=backend: _good(b, TRUE), args.runs, used)
                rows[f"{name}: python3"] = measure(lambda b=backend: _good(b, PYTHON), args.runs, used)
        except SandboxError as e:
            print(f"{name}: not here: {e}", file=sys.stderr)
    result |= {"rows": rows, "foreign_load_cores_after": round(machine.foreign_load(), 2)}
    show(result)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(once: Callable[[], None], runs: int, used: Callable[[], float]) -> dict[str, float]:
    """Milliseconds and starts/s of `once`; its processor time is what `used` counts."""
    for _ in range(5):
        once()
    before, took = used(), []
    for _ in range(runs):
        started = time.perf_counter()
        once()
        took.append((time.perf_counter() - started) * 1e3)
    cpu_ms = (used() - before) / runs * 1e3
    cores = len(os.sched_getaffinity(0))
    started = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        for done in [pool.submit(once) for _ in range(runs)]:
            done.result()
    rate = runs / (time.perf_counter() - started) / cores
    figures = {
        "median_ms": statistics.median(took), "p95_ms": statistics.quantiles(took, n=20)[-1], "min_ms": min(took),
        "cpu_ms": cpu_ms, "starts_per_s_core": rate, "starts_per_cpu_s": 1e3 / cpu_ms,
    }  # fmt: skip
    return {name: round(value, 2) for name, value in figures.items()}


@contextlib.contextmanager
def accounting() -> Iterator[Callable[[], float]]:
    """Processor seconds of this process and all it starts: from a cgroup where root can make one, else of waited children."""
    base = Path("/sys/fs/cgroup/cpuacct")
    if os.geteuid() != 0 or not (base / "cpuacct.usage").exists():
        first = _waited()
        yield lambda: _waited() - first
        return
    own = next(line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if "cpuacct" in line)
    group = base / own.lstrip("/") / f"bench-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield lambda: int((group / "cpuacct.usage").read_text()) / 1e9
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def show(result: dict[str, object]) -> None:
    """The table, on stdout."""
    print(f"load by others: {result['foreign_load_cores']} to {result['foreign_load_cores_after']} of {os.cpu_count()} cores")
    print(f"{'':32s}{'median ms':>10s}{'p95 ms':>9s}{'cpu ms':>8s}{'/s a core':>11s}{'/cpu s':>8s}")
    for name, row in result["rows"].items():
        print(
            f"{name:32s}{row['median_ms']:10.1f}{row['p95_ms']:9.1f}{row['cpu_ms']:8.2f}{row['starts_per_s_core']:11.1f}"
            f"{row['starts_per_cpu_s']:8.1f}"
        )
    print(f"{'the report (crun)':32s}{REPORT['start_ms']:10.1f}{'':17s}{REPORT['starts_per_s_core']:11.1f}")


def _good(backend: Backend, job: Job) -> None:
    outcome = backend.run(job)
    if outcome.error is not None or outcome.exit_code != 0:
        raise SandboxError(f"a job of the benchmark failed: {outcome}")


def _cold() -> None:
    subprocess.run(["/usr/bin/python3", "-c", "print(6 * 7)"], check=True, stdout=subprocess.DEVNULL, env={})


def _waited() -> float:
    use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in use)


if __name__ == "__main__":
    sys.exit(main())
