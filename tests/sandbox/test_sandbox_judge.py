"""The judge on the real sandbox: every verdict, their order, checkers, and sandboxes that fail."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import backend  # noqa: F401

from k15.errors import ConfigError, DataError, SandboxError
from k15.sandbox.checker import Checker, difference
from k15.sandbox.job import Backend, Job, Outcome
from k15.sandbox.judge import Judge
from k15.sandbox.wire import Case, Submission, job_from, judge_from, judge_json, submission_from, submission_json

ADD = "a, b = map(int, input().split())\nprint(a + b)"
CASES = (Case("1 2", "3"), Case("5 6", " 11\n"), Case("-4 4", "0"))
VERDICTS = {
    "AC": ADD,
    "WA": ADD.replace("+", "-"),
    "RE": "raise SystemExit(3)",
    "CE": "def f(:",
    "TLE": "while True: pass",
    "MLE": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "OLE": "while True: print('x' * 10000)",
}


def python(source: str, **more) -> Submission:
    return Submission("python", source, more.pop("tests", CASES), time_s=0.3, memory_mb=128, **more)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_verdict(backend, verdict):  # noqa: F811
    result = Judge(backend).judge(python(VERDICTS[verdict]))
    assert result.verdict == verdict, result
    assert result.accepted == (verdict == "AC") and result.passed == (3 if verdict == "AC" else 0) and result.total == 3
    assert len(result.tests) == (3 if verdict == "AC" else 1), "it stops at the first failure"
    assert judge_from(judge_json(result)) == result


def test_all_tests_on_request_and_the_first_failure_names_the_verdict(backend):  # noqa: F811
    source = "n = int(input())\nif n == 1: raise ValueError('no')\nif n == 2: print('x' * 10_000_000)\nprint(n)"
    cases = tuple(Case(str(n), "0" if n == 3 else str(n)) for n in range(5))
    result = Judge(backend).judge(python(source, tests=cases, run_all=True))
    assert [t.verdict for t in result.tests] == ["AC", "RE", "OLE", "WA", "AC"]
    assert result.verdict == "RE" and result.passed == 2
    assert "ValueError: no" in result.tests[1].stderr and result.tests[3].detail == "token 1 is '3', expected '0'"


def test_a_memory_error_that_is_caught_by_the_runtime_is_mle(backend):  # noqa: F811
    result = Judge(backend).judge(python("raise MemoryError"))
    assert result.verdict == "MLE"


HARNESS = "assert double(4) == 8\nassert double(-1) == -2"


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("def double(x): return 2 * x", "AC"),
        ("def double(x): return x", "RE"),
        ("", "RE"),
        ("import sys\ndef double(x): sys.exit(0)", "WA"),
        ("import os\nos._exit(0)", "WA"),
        ("print('0' * 32)\nraise SystemExit(0)", "WA"),
        ("import atexit, os\natexit.register(os._exit, 0)\ndef double(x): return x", "WA"),
        ("def double(x): return 2 * x\nclass M(type):\n  __eq__ = lambda a, b: 1/0", "AC"),
    ],
)
def test_a_harness_must_come_to_its_end(backend, source, verdict):  # noqa: F811
    """Ending early with status 0 is how solutions cheat an assert-style test."""
    result = Judge(backend).judge(Submission("python", source, harness=HARNESS))
    assert result.verdict == verdict, result


def test_a_checker_program_decides(backend):  # noqa: F811
    checker = Checker("program", source=(
        "import sys\n"
        "given, output, answer = (open(p).read().split() for p in sys.argv[1:])\n"
        "assert answer == ['any'], answer\n"
        "sys.exit(0 if sum(map(int, output)) == int(given[0]) else 1)"
    ))  # fmt: skip
    judge, cases = Judge(backend), (Case("7", "any"),)
    assert judge.judge(python("print(3, 4)", tests=cases, checker=checker)).verdict == "AC"
    assert judge.judge(python("print(3, 5)", tests=cases, checker=checker)).verdict == "WA"
    unreadable = judge.judge(python("print('abc')", tests=(Case("7", "any"),), checker=Checker("program", source=(
        "import sys\nanswer = open(sys.argv[2]).read()\nsys.exit(0 if answer == 'any' or int(answer) == 7 else 1)"
    ))))  # fmt: skip
    assert unreadable.verdict == "WA" and "could not read the output" in unreadable.tests[0].detail
    with pytest.raises(DataError, match="checker program failed"):
        judge.judge(python("print(3, 5)", tests=(Case("7", "wrong"),), checker=checker))


class Failing:
    """A backend whose sandbox fails `times` times before it works."""

    name = "failing"

    def __init__(self, real: Backend, times: int) -> None:
        self._real, self.left, self.calls = real, times, 0
        self._lock = threading.Lock()

    def run(self, job: Job) -> Outcome:
        with self._lock:
            self.calls += 1
            self.left -= 1
            if self.left >= 0:
                return Outcome(None, stdout=b"3", error="no cgroup to be had")
        return self._real.run(job)

    def close(self) -> None:
        """Not ours."""


def test_a_failed_sandbox_is_never_a_verdict(backend):  # noqa: F811
    once = Failing(backend, 2)
    assert Judge(once).judge(python(ADD)).verdict == "AC" and once.calls == 5
    always = Failing(backend, 1000)
    with pytest.raises(SandboxError, match="no cgroup"):
        Judge(always).judge(python(ADD))
    assert always.calls == 3


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1).filter(
    lambda text: not any(c.isspace() for c in text)
)


@given(st.lists(WORDS), st.sampled_from([" ", "\n", "  \t", "\r\n"]), st.data())
def test_tokens_ignore_white_space_and_nothing_else(words, blank, data):
    tokens, expected = Checker(), " ".join(words).encode()
    words = expected.decode().split(" ") if words else []
    assert difference(tokens, expected, blank.join(words).encode() + b"\n") is None
    if words:
        i = data.draw(st.integers(0, len(words) - 1))
        changed = [*words[:i], words[i] + "x", *words[i + 1 :]]
        assert difference(tokens, expected, blank.join(changed).encode()) is not None
        assert difference(tokens, expected, blank.join(words[:i] + words[i + 1 :]).encode()) is not None


@given(st.floats(-1e9, 1e9), st.floats(0, 1))
def test_floats_within_tolerance(value, share):
    checker, bound = Checker("floats", tolerance=1e-6), 1e-6 * max(1.0, abs(value))
    expected = repr(value).encode()
    assert difference(checker, expected, repr(value + 0.99 * share * bound).encode()) is None
    assert difference(checker, expected, repr(value + 1.01 * bound + math.ulp(value)).encode()) is not None


@pytest.mark.parametrize("output", [b"nan", b"inf", b"0x1p0", b"1_0", b"1e99999", b"one", b""])
def test_floats_take_plain_numbers_only(output):
    assert difference(Checker("floats"), b"1.0", output) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "pythn"}, "Did you mean 'python'"),
        ({"tests": []}, "either `tests` or a `harness`"),
        ({"harness": "pass"}, "not both"),
        ({"time_s": 1e9}, "time_s is"),
        ({"memory_mb": 1.5}, "memory_mb of the submission is 1.5; it must be int"),
        ({"run_all": 1}, "it must be bool"),
        ({"speed": 1}, "Allowed: checker"),
        ({"tests": [{"stdin": "1"}]}, "lacks expected"),
        ({"checker": {"kind": "token"}}, "Did you mean 'tokens'"),
        ({"checker": {"kind": "program"}}, "needs its `source`"),
        ({"files": {"../up": "x"}}, "cannot be the name"),
        ({"files": {"main.py": "x"}}, "cannot be the name"),
    ],
)
def test_wrong_submissions_are_refused_with_the_rule(change, message):
    right = {"language": "python", "source": "", "tests": [{"stdin": "", "expected": ""}]}
    assert submission_from(submission_json(submission_from(right))) == submission_from(right)
    with pytest.raises(ConfigError) as error:
        submission_from({**right, **change})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "change",
    [{"command": "ls"}, {"limits": {"wall_s": 1e9}}, {"limits": {"wall": 1}}, {"stdin": {"base64": "?"}}, {"files": [1]}],
)
def test_wrong_jobs_are_refused(change):
    with pytest.raises(ConfigError):
        job_from({"command": ["true"], **change})
