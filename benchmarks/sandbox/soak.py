"""Nothing is left behind: `python -m benchmarks.sandbox.soak [--runs 20000] [--backends crun,warm] [--save]`.

The runs are shared out over every backend that works here: programs that end well, fail, leave daemons, fill their disk, flood
their output, sleep past their limit or ignore their children. Before and after, this process's part of the machine is written
down: processes, mounts (but for the network namespaces of others), cgroups, files (temporary folders, /run, /dev/shm, the
sandbox's cache), descriptors, threads and SysV shared memory. Whatever is there afterwards and was not there before is told,
and is a failure.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.sandbox.starts import MAKERS
from k15.errors import SandboxError
from k15.sandbox.images.build import build
from k15.sandbox.images.store import cache_root
from k15.sandbox.job import Backend, Job, Limits

RESULTS = Path(__file__).parents[1] / "results"
SMALL = Limits(wall_s=10, cpu_s=5, memory_mb=128, processes=16, output_bytes=1 << 16, disk_mb=8, files=200)
_OURS = ("/dev/init", "/dev/wait", "/dev/zygote.py")  # process 1 of a sandbox
_ORPHANS = (
    "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor _ in range(4):\n  if not os.fork(): os.setsid()\n"
)
MIXED = (
    Job(["true"]),
    Job(["python3", "-c", "print(6 * 7)"]),
    Job(["sh", "-c", "sleep 60 & sleep 60 & exit 0"]),
    Job(["sh", "-c", "kill -9 $$"]),
    Job(["yes"], limits=replace(SMALL, output_bytes=100)),
    Job(["sleep", "60"], limits=replace(SMALL, wall_s=0.02)),
    Job(["sh", "-c", "cat /dev/urandom > f; cat /dev/urandom > /dev/shm/f"], limits=replace(SMALL, disk_mb=2)),
    Job(["python3", "-c", _ORPHANS + "raise SystemExit(3)"], limits=SMALL),
    Job(["python3", "main.py"], files={"main.py": b"open('kept', 'w').write(input())"}, stdin=b"x\n", keep=["kept"]),
)
NAPS = (Job(["sleep", "0.5"]), Job(["python3", "-c", "import time; time.sleep(0.5)"]))


def main(words: list[str] | None = None) -> int:
    """The exit code: 1 where something was left behind or a sandbox failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="of all backends together")
    parser.add_argument("--backends", default=",".join(MAKERS))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    args = parser.parse_args(words)
    unknown = sorted(set(args.backends.split(",")) - set(MAKERS))
    if unknown or args.runs < len(MIXED):
        parser.error(f"--backends: {', '.join(MAKERS)}; --runs at least {len(MIXED)}")
    build(["base"])
    before, soaked = snapshot(), {}
    chosen = args.backends.split(",")
    for name in chosen:
        try:
            with contextlib.closing(MAKERS[name]()) as backend:
                soaked[name] = soak(backend, args.runs // len(chosen))
        except SandboxError as error:
            print(f"{name}: not here: {error}", file=sys.stderr)
        else:
            print(f"{name}: {soaked[name]}", flush=True)
    left = new(before, snapshot())
    bad = left or any(s["failures"] or s["left_while_open"] for s in soaked.values())
    result = {
        "benchmark": "sandbox-soak", "device": machine.device(), "commit": machine.commit(), "date": machine.today(),
        "runs": sum(s["runs"] for s in soaked.values()), "backends": soaked, "left_after_close": left, "clean": not bad,
    }  # fmt: skip
    print(f"{result['runs']} runs; left behind: {left or 'nothing'}")
    if args.save:
        (RESULTS / f"sandbox-soak-{result['date']}-{machine.neutral_name()}.json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if bad else 0


def soak(backend: Backend, runs: int) -> dict[str, object]:
    """`runs` mixed jobs from as many threads as cores. `left_while_open`: what they left while the backend is still open."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for made in (*MIXED, *NAPS):  # what is made once for each that runs at once, and kept: slots, what waits, interpreters
            list(pool.map(backend.run, [made] * len(os.sched_getaffinity(0))))
        before, started, memory = snapshot(), time.monotonic(), psutil.Process().memory_info().rss
        failures: set[str] = set()
        jobs = iter(MIXED[i % len(MIXED)] for i in range(runs))
        while part := list(islice(jobs, 500)):
            failures |= {o.error for o in pool.map(backend.run, part) if o.error is not None}
        took, grown = time.monotonic() - started, psutil.Process().memory_info().rss - memory
        left = new(before, snapshot())
    return {
        "runs": runs, "seconds": round(took, 1), "failures": sorted(failures), "left_while_open": left,
        "service_memory_grown_mb": round(grown / 2**20, 1),
    }  # fmt: skip


def snapshot() -> dict[str, set[str]]:
    """What sandboxes could leave, by kind. Processes: our descendants, and orphans that run our init."""
    children = {p.pid for p in psutil.Process().children(recursive=True)}
    processes = set()
    for p in psutil.process_iter(["pid", "ppid", "cmdline"]):
        words = " ".join(p.info["cmdline"] or [])
        if p.info["pid"] in children or (p.info["ppid"] == 1 and any(w in words for w in _OURS)):
            processes.add(f"{p.info['pid']} {words[:80]}")
    mine = f"-{os.getpid()}-"
    folders = {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/run"), Path("/dev/shm")}
    return {
        "processes": processes,
        "mounts": {m for m in Path("/proc/self/mountinfo").read_text().splitlines() if " - nsfs " not in m or "k15" in m},
        "cgroups": {folder for folder, _, _ in os.walk("/sys/fs/cgroup") if mine in folder},
        "files": {str(p) for d in folders if d.is_dir() for p in d.glob(f"k15-*{mine}*")},
        "cache": {str(p) for d in ("bin", "sessions") for p in (cache_root() / d).rglob("*")},
        "descriptors": {f"{n} {_link(n)}" for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{n}")},
        "threads": {t.name for t in threading.enumerate() if not t.name.startswith("ThreadPoolExecutor")},
        "shared_memory": {s for s in Path("/proc/sysvipc/shm").read_text().splitlines()[1:] if not _of_others(s, children)},
    }  # fmt: skip


def _of_others(segment: str, children: set[int]) -> bool:
    """Whether a segment of SysV shared memory was made or last attached by a process that lives and is none of ours."""
    pids = {int(word) for word in segment.split()[4:6]}
    return any(psutil.pid_exists(pid) for pid in pids - children - {os.getpid(), 0})


def _link(number: str) -> str:
    return os.readlink(f"/proc/self/fd/{number}").split(":")[0]


def new(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, list[str]]:
    """What is there after and was not before; kinds without any are left out."""
    return {kind: sorted(after[kind] - before[kind]) for kind in after if after[kind] - before[kind]}


if __name__ == "__main__":
    sys.exit(main())
