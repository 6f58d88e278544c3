"""From a submission to its verdict: compile once, run the tests in order, check each output.

A test's verdict, the first that holds:
    1. MLE, TLE (processor or wall-clock time), OLE: the limit that the sandbox says ended it
    2. CE: an interpreter refused the program; MLE: the runtime itself says that memory ran out
    3. RE: a signal, a non-zero status, or a full disk
    4. WA: the checker rejects, or a harness did not come to its end; else AC
The whole: CE where compiling failed, else the first test in order that is not AC, else AC. A sandbox that failed is no
verdict: it is tried again, and then it is a SandboxError.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from k15.errors import DataError, SandboxError
from k15.sandbox.backends.launcher import LauncherError
from k15.sandbox.checker import Checker, difference
from k15.sandbox.job import Backend, Job, Limits, Outcome
from k15.sandbox.languages import COMPILE_LIMITS, Program, compile_job, language, limits_of, run_job
from k15.sandbox.wire import Case, CaseResult, CompileResult, JudgeResult, Submission, Verdict

SHOWN_CHARS = 2000
CHECKER_LIMITS = Limits(wall_s=30.0, cpu_s=20.0, memory_mb=1024, output_bytes=1 << 16)
_CRASHED = re.compile(
    rb"^Traceback \(most recent|^Exception in thread|^Unhandled [eE]xception|^\s+at .*:\d+:\d+\)?$", re.MULTILINE
)
"""What runtimes say of an uncaught error, whose status is 1 as well: no checker's rejection."""
_LIMITS: dict[str, Verdict] = {"memory": "MLE", "cpu": "TLE", "wall": "TLE", "output": "OLE"}


class Judge:
    """Judges on one backend; safe to call from many threads. `attempts`: how often a job is tried whose sandbox fails."""

    def __init__(self, backend: Backend, attempts: int = 3) -> None:
        self._backend = backend
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts), wait=wait_random_exponential(0.05, 2.0),
            retry=retry_if_exception_type(_SandboxFailed), reraise=True,
        )  # fmt: skip

    def run(self, job: Job) -> Outcome:
        """One job, tried again where the sandbox itself failed. Raises SandboxError."""
        return self._retrying.copy()(self._attempt, job)

    def _attempt(self, job: Job) -> Outcome:
        try:
            outcome = self._backend.run(job)
        except LauncherError as e:  # its slot is gone; the next try has another
            raise _SandboxFailed(f"the sandbox failed ({self._backend.name}): {e}") from e
        if outcome.error is not None:
            raise _SandboxFailed(f"the sandbox failed ({self._backend.name}): {outcome.error}")
        return outcome

    def judge(self, submission: Submission) -> JudgeResult:
        """The verdict. Raises SandboxError where the sandbox failed, DataError where a checker program did."""
        token = secrets.token_hex(16) if submission.harness is not None else ""
        program = submission.program(token)
        tests = submission.tests if submission.harness is None else (Case("", token),)
        compiled, artifacts = self._compile(program)
        if compiled is not None and not compiled.ok:
            return JudgeResult("CE", 0, len(tests), (), compiled)
        checking = _Checking(self, submission.checker)
        limits = limits_of(submission.language, submission.time_s, submission.memory_mb, submission.output_bytes)
        noise = language(submission.language).noise
        results: list[CaseResult] = []
        for test in tests:
            outcome = _clean(self.run(run_job(program, artifacts, test.stdin.encode(), limits)), noise)
            verdict, detail = _ending(program, outcome)
            if verdict is None:
                verdict, detail = _reached(token, outcome) if token else checking.verdict(test, outcome.stdout)
            results.append(_result(verdict, detail, outcome, submission.shown_chars))
            if verdict != "AC" and not submission.run_all:
                break
        worst = next((r.verdict for r in results if r.verdict != "AC"), "AC")
        return JudgeResult(worst, sum(r.verdict == "AC" for r in results), len(tests), tuple(results), compiled)

    def _compile(self, program: Program) -> tuple[CompileResult | None, Mapping[str, bytes]]:
        job = compile_job(program, COMPILE_LIMITS)
        if job is None:
            return None, {}
        outcome = self.run(job)
        log = _head(outcome.stderr)
        if outcome.limit is not None:
            log = f"the compiler was stopped by its limit of {outcome.limit}\n{log}"
        size, room = sum(map(len, outcome.kept.values())), Limits().disk_mb << 20
        if size > 0.9 * room:
            log = f"the compiled program takes {size} bytes; the disk of a run holds {room}\n{log}"
        ok = outcome.limit is None and outcome.exit_code == 0 and 0 < size <= 0.9 * room
        return CompileResult(ok, outcome.wall_s, outcome.cpu_s, log), outcome.kept


class _Checking:
    """The checker of one submission; a checker program is compiled once."""

    def __init__(self, judge: Judge, checker: Checker) -> None:
        self._judge, self._checker = judge, checker
        self._program: tuple[Program, Mapping[str, bytes]] | None = None

    def verdict(self, test: Case, output: bytes) -> tuple[Verdict, str]:
        if self._checker.kind == "program":
            return self._asked(test, output)
        wrong = difference(self._checker, test.expected.encode(), output)
        return ("AC", "") if wrong is None else ("WA", wrong)

    def _asked(self, test: Case, output: bytes) -> tuple[Verdict, str]:
        if self._program is None:
            program = Program(self._checker.language, self._checker.source)
            compiled, artifacts = self._judge._compile(program)
            if compiled is not None and not compiled.ok:
                raise DataError(f"The checker program does not compile: {compiled.log}")
            self._program = program, artifacts
        done = self._checked(test, output)
        said = _head(done.stdout + done.stderr)
        if _decided(done):
            return ("AC" if done.exit_code == 0 else "WA"), said
        expected = test.expected.encode()
        if output != expected and _decided(self._checked(test, expected)):
            return "WA", f"the checker could not read the output: {said}"
        how = f"limit of {done.limit}" if done.limit else f"status {done.exit_code}, signal {done.signal}"
        raise DataError(f"The checker program failed ({how}); it must end with status 0, 1 or 2: {said}")

    def _checked(self, test: Case, output: bytes) -> Outcome:
        assert self._program is not None, "the checker is compiled first"
        program, artifacts = self._program
        job = run_job(program, artifacts, b"", CHECKER_LIMITS)
        files = {**job.files, "input": test.stdin.encode(), "output": output, "answer": test.expected.encode()}
        command = (*job.command, "input", "output", "answer")
        if job.command[:2] == ("sh", "-c"):  # a shell line passes its own words on
            command = ("sh", "-c", f"{job.command[2]} input output answer")
        return self._judge.run(Job(command, job.image, b"", files, (), job.env, job.limits))


def _decided(done: Outcome) -> bool:
    """Did the checker come to a verdict, rather than fail?"""
    return done.limit is None and (done.exit_code == 0 or (done.exit_code in (1, 2) and not _CRASHED.search(done.stderr)))


def _clean(outcome: Outcome, noise: bytes | None) -> Outcome:
    return outcome if noise is None else replace(outcome, stdout=re.sub(noise, b"", outcome.stdout, flags=re.MULTILINE))


def _ending(program: Program, outcome: Outcome) -> tuple[Verdict | None, str]:
    """The verdict that follows from how a run ended; None where its output decides."""
    if outcome.limit in _LIMITS:
        return _LIMITS[outcome.limit], f"limit of {outcome.limit}"
    if outcome.limit is not None:
        return "RE", f"limit of {outcome.limit}"
    if outcome.exit_code == 0:
        return None, ""
    lang, said = language(program.language), outcome.stderr.decode(errors="replace")
    how = f"status {outcome.exit_code}" if outcome.signal is None else f"signal {outcome.signal}"
    if lang.rejected is not None and re.search(lang.rejected, said, re.MULTILINE):
        return "CE", how
    if lang.exhausted is not None and re.search(lang.exhausted, said, re.MULTILINE):
        return "MLE", f"{how}; the runtime had no more memory"
    return "RE", how


def _reached(token: str, outcome: Outcome) -> tuple[Verdict, str]:
    reached = outcome.stdout.rstrip().endswith(token.encode())
    return ("AC", "") if reached else ("WA", "it ended before the tests had run")


def _result(verdict: Verdict, detail: str, outcome: Outcome, shown_chars: int) -> CaseResult:
    return CaseResult(
        verdict, outcome.cpu_s, outcome.wall_s, outcome.memory_mb, detail,
        _head(outcome.stdout, shown_chars), _head(outcome.stderr),
    )  # fmt: skip


def _head(content: bytes, chars: int = SHOWN_CHARS) -> str:
    text = content[: 4 * chars + 4].decode(errors="replace")
    return text if len(text) <= chars else text[:chars] + "..."


class _SandboxFailed(SandboxError):
    """Of the sandbox itself, so that only such a failure is tried again."""
