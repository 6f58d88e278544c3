"""`python -m benchmarks testgen`: generate tests for the 20 problems of the test bed, then try to fool them.

Killed, it goes on where it was when started again with the same --folder. Prints the funnel and the kill rates; the gate
is that every right submission is accepted and every kept problem rejects at least 90 % of its wrong ones.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import machine
from benchmarks.testgen.audit import Audit, MutantAudit, audit, audit_mutants, kill_rates, table
from benchmarks.testgen.mutants import mutants
from k15.log.files import atomic_write
from k15.log.journal import Journal
from k15.runs.own_sandbox import own_sandbox
from k15.sandbox.client import SandboxClient
from k15.testgen.funnel import case_counts, funnel
from k15.testgen.funnel import table as funnel_table
from k15.testgen.outcome import ProblemResult
from k15.testgen.pipeline import Pipeline
from k15.testgen.problems import Problem, load_problems
from k15.testgen.settings import TestgenSettings
from k15.testgen.store import answer_of

ROOT = Path(__file__).resolve().parents[2]
BED = ROOT / "tests" / "testgen" / "problems"
LEAST_KILL_RATE = 0.9


def main(words: Sequence[str]) -> int:
    """Exit code: 1 where the gate is red."""
    args = _parser().parse_args(list(words))
    settings = TestgenSettings(time_s=args.time_s, workers=args.workers)
    problems = [p for p in load_problems(BED) if not args.only or p.id in args.only]
    folder = Path(args.folder)
    with (
        contextlib.closing(Journal(folder / "journal.sqlite")) as journal,
        own_sandbox(args.workers, folder / "sandbox.log") as access,
        SandboxClient(access, args.workers) as client,
    ):
        results = Pipeline(client, journal, settings).results(
            problems, lambda r: print(f"{r.id}: {r.stage}: {r.reason}", flush=True)
        )
        kept = [(p, r) for p, r in zip(problems, results, strict=True) if r.kept]
        with ThreadPoolExecutor(args.workers) as pool:
            audits = list(pool.map(lambda pair: audit(client, journal, *pair, settings), kept))
        found = changed(client, journal, kept, settings, args.mutants) if args.mutants else []
    print(funnel_table(results), table(audits), told(found), sep="\n\n")
    bad = gate(audits)
    print(*bad, sep="\n", file=sys.stderr)
    if not args.only:
        path = ROOT / "benchmarks" / "results" / f"testgen-{machine.today()}-{machine.neutral_name()}.json"
        atomic_write(path, (json.dumps(record(problems, results, audits, found, settings), indent=1) + "\n").encode())
        print(path.relative_to(ROOT))
    return 1 if bad else 0


def changed(
    client: SandboxClient, journal: Journal, kept: Sequence[tuple[Problem, ProblemResult]], settings: TestgenSettings, count: int
) -> list[MutantAudit]:
    """`count` mutants of each kept problem, judged by its tests and by those of another seed."""
    other = dataclasses.replace(settings, seed=settings.seed + 1)
    again = Pipeline(client, journal, other).results([p for p, _ in kept])

    def one(triple: tuple[tuple[Problem, ProblemResult], ProblemResult]) -> MutantAudit:
        (problem, first), second = triple
        answers = answer_of(problem, first, settings), answer_of(problem, second, other)
        return audit_mutants(client, journal, problem, answers, mutants(problem, count))

    with ThreadPoolExecutor(settings.workers) as pool:
        return list(pool.map(one, zip(kept, again, strict=True)))


def told(found: Sequence[MutantAudit]) -> str:
    """The mutants in one line, and which were missed."""
    rejected, missed = sum(a.rejected for a in found), [f"{a.id}/{name}" for a in found for name in a.missed]
    alike = sum(a.alike for a in found)
    line = f"mutants: {rejected} of {rejected + len(missed)} wrong ones rejected, {alike} most likely not wrong"
    return f"{line}; missed: {', '.join(missed)}" if missed else line


def gate(audits: Sequence[Audit]) -> list[str]:
    """What is not as it must be, in words."""
    bad = [f"{a.id}: right submissions are rejected: {', '.join(a.refused)}" for a in audits if a.refused]
    low = [a for a in audits if a.kill_rate < LEAST_KILL_RATE]
    return bad + [f"{a.id}: only {a.kill_rate:.0%} of the wrong submissions are rejected" for a in low]


def record(
    problems: Sequence[Problem],
    results: Sequence[ProblemResult],
    audits: Sequence[Audit],
    found: Sequence[MutantAudit],
    settings: TestgenSettings,
) -> dict[str, object]:
    """The result file."""
    return {
        "what": "generated tests of the test bed: funnel and kill rates", "date": machine.today(), "commit": machine.commit(),
        "device": machine.device(), "settings": dataclasses.asdict(settings), "problems": len(problems),
        "funnel": funnel(results), "cases": case_counts(results),
        "stages": {r.id: {"stage": r.stage, "reason": r.reason, "counts": r.counts} for r in results},
        "audits": [{**dataclasses.asdict(a), "kill_rate": round(a.kill_rate, 4)} for a in audits],
        "mutants": [dataclasses.asdict(a) for a in found],
        "kill_rate_by_tests": kill_rates(audits), "gate": gate(audits) or "green",
    }  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks testgen", description=__doc__)
    parser.add_argument("--folder", default="runs/testgen-bed", help="journal; the same one again continues")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--time-s", type=float, default=1.0)
    parser.add_argument("--mutants", type=int, default=10, help="of each kept problem; 0 leaves them out")
    parser.add_argument("--only", nargs="*", default=[], help="ids of problems; then no result file is written")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
