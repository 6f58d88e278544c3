"""Judgements over HTTP, as a run asks for them: `python -m benchmarks.sandbox.http [--judgements N] [--languages a,b]`.

The service is a process of its own, as `k15 sandbox serve` starts it; clients and service share the machine. Speed is given only
after every answer was right: each request has an input of its own and half of them must be WA. Two figures of throughput:
judgements a second over the cores of the machine, and judgements a second of processor time that the service and all its
sandboxes took (where root can make a cgroup, else of what is waited for), which other load on the machine changes less.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.machine import commit, cpu_seconds, device, foreign_load, neutral_name, today
from benchmarks.sandbox.starts import accounting
from k15.sandbox.client import Access, AsyncSandboxClient, Case, SandboxClient, Submission
from k15.sandbox.languages import LANGUAGES

RESULTS = Path(__file__).parents[1] / "results"
TARGET = 100.0  # warm Python judgements a second a core
ADD = {
    "python": "a, b = map(int, input().split())\nprint(a + b)",
    "cpp": "#include <bits/stdc++.h>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b; }",
    "java": "import java.util.*;\npublic class Main { public static void main(String[] w) { Scanner in = new Scanner(System.in);"
    " System.out.println(in.nextLong() + in.nextLong()); } }",
    "csharp": "using System;\nclass P { static void Main() { var w = Console.ReadLine().Split(' ');"
    " Console.WriteLine(long.Parse(w[0]) + long.Parse(w[1])); } }",
    "javascript": "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number);\nconsole.log(a + b);",
    "typescript": "const [a, b]: number[] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number);\nconsole.log(a + b);",
    "php": "<?php [$a, $b] = explode(' ', fgets(STDIN)); echo $a + $b;",
    "bash": "read -r a b\necho $((a + b))",
}


class GateError(RuntimeError):
    """An answer was wrong; no speed is given."""


def submission(language: str, i: int) -> Submission:
    """The i-th: even ones are right, odd ones wrong."""
    return Submission(language, ADD[language], (Case(f"{i} {i + 1}", str(2 * i + 1 + i % 2)),))


@contextlib.contextmanager
def service(backend: str, workers: int) -> Iterator[Access]:
    """A running service."""
    with tempfile.TemporaryDirectory() as folder:
        token, url = Path(folder, "token"), Path(folder, "url")
        token.write_text(secrets.token_hex(24))
        words = ["--token-file", token, "--url-file", url, "--state-dir", folder, "--backend", backend, "--workers", str(workers)]
        process = subprocess.Popen([sys.executable, "-P", "-m", "k15", "sandbox", "serve", *words], stdout=subprocess.DEVNULL)
        try:
            while not url.exists():
                if process.poll() is not None:
                    raise RuntimeError("the service did not start; see above")
                time.sleep(0.05)
            yield Access(url.read_text(), token.read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def throughput(access: Access, used: Callable[[], float], judgements: int, at_once: int) -> dict[str, float]:
    """Python judgements with `at_once` requests on their way, and how long each took. `used`: processor seconds of all of us."""
    waits: list[float] = []

    async def one(client: AsyncSandboxClient, i: int, gate: asyncio.Semaphore) -> str:
        async with gate:
            start = time.perf_counter()
            verdict = (await client.judge(submission("python", i))).verdict
            waits.append(time.perf_counter() - start)
            return verdict

    async with AsyncSandboxClient(access) as client:
        gate = asyncio.Semaphore(at_once)
        await asyncio.gather(*(one(client, i, gate) for i in range(4 * at_once)))  # warm
        waits.clear()
        busy, cpu, own, start = cpu_seconds()[0], used(), time.process_time(), time.perf_counter()
        verdicts = await asyncio.gather(*(one(client, i, gate) for i in range(judgements)))
        wall, all_of_us, machine = time.perf_counter() - start, used() - cpu, cpu_seconds()[0] - busy
        own = time.process_time() - own
    check(verdicts)
    cores = len(psutil.Process().cpu_affinity())
    return {
        "judgements": judgements, "at_once": at_once, "per_s": judgements / wall, "per_s_a_core": judgements / wall / cores,
        "per_cpu_s": judgements / (all_of_us - own), "client_cpu_ms": 1e3 * own / judgements,
        "median_ms": 1e3 * statistics.median(waits), "foreign_cpu_s": max(0.0, machine - all_of_us), "wall_s": wall,
    }  # fmt: skip


def latency(access: Access, language: str, times: int) -> dict[str, float]:
    """One request at a time: what a judgement takes, and the parts that compiling and running have in it."""
    walls, compiles, runs, verdicts = [], [], [], []
    with SandboxClient(access) as client:
        client.judge(submission(language, 0))
        for i in range(times):
            start = time.perf_counter()
            result = client.judge(submission(language, i))
            walls.append(time.perf_counter() - start)
            verdicts.append(result.verdict)
            compiles.append(result.compile.wall_s if result.compile is not None else 0.0)
            runs.append(result.tests[0].wall_s)
    check(verdicts)
    parts = {"median_ms": walls, "compile_ms": compiles, "run_ms": runs}
    return {name: 1e3 * statistics.median(values) for name, values in parts.items()}


def check(verdicts: list[str]) -> None:
    """Raises GateError unless even ones were accepted and odd ones not."""
    wrong = [i for i, v in enumerate(verdicts) if v != ("AC", "WA")[i % 2]]
    if wrong:
        raise GateError(
            f"no speed is given: {len(wrong)} of {len(verdicts)} verdicts are wrong, the first for request {wrong[0]}"
        )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--judgements", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2 * len(psutil.Process().cpu_affinity()), help="as the service itself")
    parser.add_argument("--times", type=int, default=10, help="of each language")
    parser.add_argument("--languages", default=",".join(LANGUAGES))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    result = {"benchmark": "sandbox-http", "device": device(), "commit": commit(), "date": today(),
              "foreign_load_cores": foreign_load(), "target_per_s_a_core": TARGET}  # fmt: skip
    with accounting() as used, service(args.backend, args.workers) as access, SandboxClient(access) as client:
        health = client.health()
        result |= {"backend": health["backend"], "workers": args.workers}
        result["python"] = asyncio.run(throughput(access, used, args.judgements, 4 * args.workers))
        chosen = [name for name in args.languages.split(",") if name in health["languages"]]
        result["latency"] = {name: latency(access, name, args.times) for name in chosen}
    result["reached"] = result["python"]["per_s_a_core"] >= TARGET
    print(json.dumps(result, indent=1))
    if args.save or args.out is not None:
        out = args.out if args.out is not None else RESULTS / f"sandbox-http-{result['date']}-{neutral_name()}.json"
        out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
