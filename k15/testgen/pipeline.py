"""From problems to tests: special judge? -> inputs -> runs of ground-truth submissions -> agreement -> kept or not.

Every step of a problem is written to the journal when it is done and never done again; steps of a problem are in
order, problems are side by side. What a generator or a submission does, it does in the sandbox.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

from k15.errors import EngineError, K15Error, SandboxError
from k15.log import get_logger
from k15.log.journal import Journal
from k15.sandbox.checker import Checker
from k15.sandbox.client import Case, SandboxClient, Submission
from k15.testgen.agree import Agreement, agreement
from k15.testgen.generator import MadeCase, make_cases
from k15.testgen.outcome import ProblemResult, Tried, decide
from k15.testgen.problems import Problem, Source, digest
from k15.testgen.settings import TestgenSettings
from k15.testgen.special import several_answers

log = get_logger("testgen")


class Author(Protocol):
    """Writes generators. `identity` names model and sampling: another one writes anew."""

    identity: str

    def write(self, problem: Problem, attempt: int) -> tuple[str | None, str]:
        """(generator, ""), or (None, why there is none). Raises EngineError where the engine failed."""
        ...


class Pipeline:
    """`author`: None where every problem brings its generator."""

    def __init__(self, client: SandboxClient, journal: Journal, settings: TestgenSettings, author: Author | None = None) -> None:
        self._client, self._journal, self._settings, self._author = client, journal, settings, author

    def results(self, problems: Sequence[Problem], told: Callable[[ProblemResult], None] | None = None) -> list[ProblemResult]:
        """One result a problem, in order; `told` hears each as it comes.

        Where the sandbox or the engine failed for a problem, the others are finished first; then the first such error is raised
        (SandboxError, EngineError), and the next run does those problems again.
        """
        found: dict[str, ProblemResult] = {}
        failures: list[K15Error] = []
        with ThreadPoolExecutor(self._settings.workers) as pool:
            try:
                for problem, result in self._finished(pool, problems, failures):
                    found[problem.id] = result
                    if told is not None:
                        told(result)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failures:
            said = f"{len(failures)} problems are not done, run the same command again. The first: {failures[0]}"
            raise (EngineError if isinstance(failures[0], EngineError) else SandboxError)(said) from failures[0]
        return [found[p.id] for p in problems]

    def _finished(
        self, pool: ThreadPoolExecutor, problems: Sequence[Problem], failures: list[K15Error]
    ) -> Iterator[tuple[Problem, ProblemResult]]:
        open_ = {pool.submit(self.result, p): p for p in problems}
        for future in as_completed(open_):
            error = future.exception()
            if isinstance(error, SandboxError | EngineError):
                log.warning("%s: %s", open_[future].id, error)
                failures.append(error)
            else:
                yield open_[future], future.result()

    def result(self, problem: Problem) -> ProblemResult:
        """This problem's, from the journal or made now."""
        who = self._author.identity if self._author is not None and problem.generator is None else ""
        key = digest([problem.digest(), self._settings.validation(), who, self._settings.attempts if who else 1])
        held = self._journal.get(f"{key}/result")
        if held is None:
            result = self._made(problem, key)
            self._journal.finish(key, dataclasses.asdict(result))
            return result
        tuples = {n: tuple(held[n]) for n in ("passed", "failed")}
        return ProblemResult(**{**held, **tuples, "tests": tuple((i, o) for i, o in held["tests"])})

    def _made(self, problem: Problem, key: str) -> ProblemResult:
        settings = self._settings
        if len(problem.submissions) < settings.submissions:
            reason = f"{len(problem.submissions)} submissions, {settings.submissions} needed"
            return ProblemResult(problem.id, "submissions", reason)
        said = several_answers(problem.statement)
        if said is not None:
            return ProblemResult(problem.id, "special_judge", f"the statement says {said!r}")
        result = ProblemResult(problem.id, "generator", "it has none, and no engine is given to write one")
        for attempt in range(settings.attempts if problem.generator is None else 1):
            generator, why = self._generator(problem, attempt, key)
            if generator is None:
                result = ProblemResult(problem.id, "generator", why)
                continue
            result = self._tried(problem, generator, f"{key}/{attempt}")
            if result.stage != "generator":
                break
        return result

    def _generator(self, problem: Problem, attempt: int, key: str) -> tuple[str | None, str]:
        if problem.generator is not None:
            return problem.generator, ""
        if self._author is None:
            return None, "it has no generator, and no engine is given to write one"
        held = self._journal.get(f"{key}/{attempt}/generator")
        if held is None:
            held = self._author.write(problem, attempt)
            self._journal.put(f"{key}/{attempt}/generator", held)
        return held[0], held[1]

    def _tried(self, problem: Problem, generator: str, key: str) -> ProblemResult:
        """The verdict on one generator. Cases are not run where too few inputs came of it."""
        cases = self._cases(problem, generator, key)
        inputs = [c.text for c in cases]
        first = [
            i for i, text in enumerate(inputs) if text is not None and (text not in inputs[:i] or not self._settings.distinct)
        ]
        names: list[str] = []
        agreements: list[Agreement | None] = [None] * len(cases)
        if len(first) >= self._settings.min_valid:
            drawn = self._drawn(problem)
            names = [s.name for s in drawn]
            checker = checker_of(problem)
            outputs = [self._run(problem, s, [inputs[i] for i in first], key) for s in drawn]
            for place, i in enumerate(first):
                agreements[i] = agreement([o[place] for o in outputs], checker, self._settings.agree)
        return decide(problem.id, Tried(inputs, [c.error for c in cases], agreements), names, generator, self._settings)

    def _cases(self, problem: Problem, generator: str, key: str) -> list[MadeCase]:
        held = self._journal.get(f"{key}/cases")
        if held is None:
            request = digest([key, problem.id, generator])
            held = [dataclasses.astuple(c) for c in make_cases(self._client, problem.id, generator, self._settings, request)]
            self._journal.put(f"{key}/cases", held)
        return [MadeCase(*c) for c in held]

    def _drawn(self, problem: Problem) -> list[Source]:
        """The submissions that vote: the same for all cases, so that "9 of 10 pass all of them" means something."""
        rng = random.Random(f"{self._settings.seed}/{problem.id}/submissions")
        return sorted(rng.sample(problem.submissions, self._settings.submissions), key=lambda s: s.name)

    def _run(self, problem: Problem, source: Source, inputs: Sequence[str], key: str) -> list[str | None]:
        """What one submission prints for each input; None where it does not end well or prints too much."""
        step = f"{key}/run/{digest([source.name, source.language, source.text])}"
        held = self._journal.get(step)
        if held is None:
            held = [output for part in self._parts(inputs) for output in self._printed(problem, source, part)]
            self._journal.put(step, held)
        return held

    def _printed(self, problem: Problem, source: Source, inputs: Sequence[str]) -> list[str | None]:
        most = self._settings.max_output_kb << 10
        submission = Submission(
            source.language, source.text, tuple(Case(text, "") for text in inputs), run_all=True, shown_chars=most,
            output_bytes=4 * most, **limits_of(problem, self._settings),
        )  # fmt: skip
        result = self._client.judge(submission, digest(dataclasses.asdict(submission)))
        if result.verdict == "CE" and not result.tests:
            return [None] * len(inputs)
        ended = [t.stdout if t.verdict in ("AC", "WA") and len(t.stdout) <= most else None for t in result.tests]
        return [None if text is None or "\ufffd" in text else text for text in ended]  # no text: no program could print it again

    def _parts(self, inputs: Sequence[str]) -> Iterator[list[str]]:
        """In order, each part as one request's size allows; an input that is larger alone."""
        part, size = [], 0
        for text in inputs:
            if part and size + len(text) > self._settings.request_kb << 10:
                yield part
                part, size = [], 0
            part.append(text)
            size += len(text)
        if part:
            yield part


def checker_of(problem: Problem) -> Checker:
    return Checker() if problem.tolerance is None else Checker("floats", problem.tolerance)


def limits_of(problem: Problem, settings: TestgenSettings) -> dict[str, float | int]:
    """`time_s` and `memory_mb` of a run of this problem's submissions."""
    return {
        "time_s": problem.time_s if problem.time_s is not None else settings.time_s,
        "memory_mb": problem.memory_mb if problem.memory_mb is not None else settings.memory_mb,
    }
