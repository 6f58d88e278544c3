"""`k15 testgen PROBLEMS --out FOLDER`: tests for code problems, and the funnel that they went through.

The sandbox is the service at --sandbox-url, or one that runs as long as the command does. Killed, it goes on where it was
when the same command is given again. Writes problems.jsonl (train on it with data=jsonl data.path=FOLDER/problems.jsonl),
results.jsonl (why each was kept or not) and funnel.json. Exit code: 0; 3 where no problem was kept; 2 for wrong words or data.

PROBLEMS is a folder with a folder for each problem, or a JSONL file with the same as fields (id, statement, submissions, ...):

    PROBLEMS/two-sum/statement.md     what is asked: input, output, limits
    PROBLEMS/two-sum/right_1.py       ground-truth submissions (right_*.py, .cpp, .java, .js, ...), 10 of them for the
    PROBLEMS/two-sum/right_2.cpp      report's gates (--submissions; a case counts if --agree of them agree)
    PROBLEMS/two-sum/generator.py     optional: defines generate(case, cases, io), with CYaRon; else give --engine-url
    PROBLEMS/two-sum/wrong_1.py       optional: known wrong submissions, for audits; no test is made from them
    PROBLEMS/two-sum/problem.json     optional: {"tolerance": 1e-6, "time_s": 2, "memory_mb": 256}

As a Slurm job: sbatch --cpus-per-task 8 --wrap "k15 testgen PROBLEMS --out FOLDER --sandbox-workers 8"; the same line again
goes on where the first was stopped.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_type_hints

from k15.data.tokenizer import load_tokenizer
from k15.errors import ConfigError, DataError
from k15.log.files import atomic_write
from k15.log.journal import Journal
from k15.runs.own_sandbox import PATIENCE, own_sandbox
from k15.sandbox.client import Access, SandboxClient
from k15.testgen.author import EngineAuthor
from k15.testgen.funnel import funnel, table
from k15.testgen.outcome import ProblemResult
from k15.testgen.pipeline import Pipeline
from k15.testgen.problems import load_problems
from k15.testgen.settings import TestgenSettings
from k15.testgen.store import write_store

NOTHING_KEPT = 3  # exit code


def main(argv: Sequence[str]) -> int:
    """Exit code: 0, or 3 where no problem is kept. Raises ConfigError, DataError, EngineError, SandboxError."""
    args = _parser().parse_args(list(argv))
    settings = TestgenSettings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(TestgenSettings)})
    problems = load_problems(args.problems)
    out = Path(args.out)
    author = _author(args, settings)
    journal = Journal(out / "journal.sqlite")
    with contextlib.closing(journal), _sandbox(args, out) as access, SandboxClient(access, settings.workers) as client:
        told = _Told(len(problems))
        results = Pipeline(client, journal, settings, author).results(problems, told)
    write_store(out / "problems.jsonl", problems, results, settings)
    lines = [json.dumps({**dataclasses.asdict(r), "tests": len(r.tests)}) for r in results]
    atomic_write(out / "results.jsonl", "".join(line + "\n" for line in lines).encode())
    summary = {"settings": dataclasses.asdict(settings), "problems": len(problems), "funnel": funnel(results)}
    atomic_write(out / "funnel.json", (json.dumps(summary, indent=2) + "\n").encode())
    print(table(results))
    if any(r.kept for r in results):
        return 0
    print(
        f"k15 testgen: no problem was kept, so {out / 'problems.jsonl'} is empty; why is in {out / 'results.jsonl'}.",
        file=sys.stderr,
    )
    return NOTHING_KEPT


class _Told:
    """A line a problem, as it is done."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._kept, self._started = total, 0, 0, time.monotonic()

    def __call__(self, result: ProblemResult) -> None:
        self._done += 1
        self._kept += result.kept
        seconds = time.monotonic() - self._started
        print(
            f"[{self._done}/{self._total}, {self._kept} kept, {seconds:.0f} s] {result.id}: {result.stage}: {result.reason}",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="k15 testgen", allow_abbrev=False, description=__doc__, epilog=f"Numbers: {TestgenSettings.__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("problems", help="a folder with a folder for each problem (statement.md, right_*.py, ...), or JSONL")
    add("--out", required=True, help="a folder of its own for the results; the same one again continues")
    add("--sandbox-url", help="of `k15 sandbox serve`; without it one is started here")
    add("--sandbox-token-file")
    add("--sandbox-workers", type=int, default=2, help="jobs at once in the service that is started here")
    add(
        "--engine-url",
        action="append",
        default=[],
        help="of a vLLM engine that writes the generators that are lacking; may be repeated",
    )
    add("--engine-token-file")
    add("--model", help="Hugging Face folder of the engine's model: its tokenizer is read")
    types = get_type_hints(TestgenSettings)
    for f in dataclasses.fields(TestgenSettings):
        kind = argparse.BooleanOptionalAction if types[f.name] is bool else "store"
        more = {} if types[f.name] is bool else {"type": types[f.name]}
        add(f"--{f.name.replace('_', '-')}", action=kind, default=f.default, **more)
    return parser


def _author(args: argparse.Namespace, settings: TestgenSettings) -> EngineAuthor | None:
    if not args.engine_url:
        return None
    if args.model is None or args.engine_token_file is None:
        raise ConfigError("--engine-url needs --model (its tokenizer) and --engine-token-file (the engine's bearer token).")
    return EngineAuthor(
        args.engine_url, _read(args.engine_token_file), load_tokenizer(args.model), settings, Path(args.model).name
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


@contextlib.contextmanager
def _sandbox(args: argparse.Namespace, out: Path) -> Iterator[Access]:
    if args.sandbox_url is not None:
        yield Access.of(args.sandbox_url, args.sandbox_token_file, **PATIENCE)
        return
    with own_sandbox(args.sandbox_workers, out / "sandbox.log") as access:
        yield access
