"""Mathematics verdicts: exact ones against fractions and math-verify, hacks refused, and hostile inputs survived."""

import os
import signal
import threading
import time
from fractions import Fraction

import math_verify
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError
from k15.reward.answer import check_template, exact_verdict, extract, number
from k15.reward.math import score, verdicts
from k15.reward.pool import WorkerPool


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(workers=1, timeout_s=1.5) as p:
        p.run([("verify", ("x", "x"))])  # imports are paid here, not by the tests' time limits
        yield p


@pytest.mark.parametrize(
    ("response", "template", "answer"),
    [
        ("7+5=12#12", "#ANSWER", "12"),
        ("#11 no #12 \nbye", "#ANSWER", "12"),
        ("no mark", "#ANSWER", None),
        ("so \\boxed{\\frac{1}{2}} and \\boxed{\\sqrt{x_{1}}}.", "\\boxed{ANSWER}", "\\sqrt{x_{1}}"),
        ("\\boxed{\\{1,2\\}}", "auto", "\\{1,2\\}"),
        ("\\boxed{12", "auto", None),
        ("# Title\n\\boxed{5}\n# Note", "auto", "5"),
        ("gsm #### 1,234", "auto", "1,234"),
        ("<answer>a<answer> 3 </answer>", "<answer>ANSWER</answer>", "3"),
        ("<answer>3", "<answer>ANSWER</answer>", None),
        ("", "auto", None),
    ],
)
def test_the_last_marker_counts(response: str, template: str, answer: str | None) -> None:
    assert extract(response, check_template(template)) == answer


fractions_ = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4)


@given(fractions_, fractions_)
def test_exact_numbers_agree_with_fractions(a: Fraction, b: Fraction) -> None:
    verdict = exact_verdict(str(a), str(b))
    assert verdict is not None and verdict[0] is (a == b)
    assert number(str(a)) == a
    if a.denominator == 1:
        assert exact_verdict(f"${int(a):,}.00$", str(int(a))) == (True, "same number")


@settings(max_examples=25, deadline=None)
@given(st.integers(-(10**4), 10**4), st.integers(-(10**4), 10**4), st.sampled_from(["{}", "{}.0", "{:,}", "\\boxed{{{}}}"]))
def test_exact_numbers_agree_with_math_verify(a: int, b: int, form: str) -> None:
    theirs = math_verify.verify(math_verify.parse(f"${b}$"), math_verify.parse(f"${form.format(a)}$"))
    assert score("#" + form.format(a), str(b), "#ANSWER").correct is theirs is (a == b)


EQUAL = [
    ("\\frac{1}{2}", "0.5"), ("\\frac12", "1/2"), ("2/4", "1/2"), ("x=5", "5"), ("$5$", "5"), ("4.", "4"),
    ("x^2+2x+1", "(x+1)^2"), ("2\\sqrt{3}", "\\sqrt{12}"), ("\\text{Paris}", "paris"), ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
]  # fmt: skip
DIFFERENT = [
    ("47+85", "132"), ("264/2", "132"), ("11*12", "132"), ("2^2", "4"), ("131+1", "132"), ("\\sqrt{16}", "4"),
    ("3!", "6"), ("2(66)", "132"), ("12 or 13", "13"), ("12,13", "13"), ("1,2,3,4", "3"), ("pat", "tap"), ("", "1"),
    ("x", "y"), ("-5", "5"), ("7+5=12", "12"), ("132;", "133"), ("\\frac{1}{3}", "1/2"), ("13", "1,3"),
]  # fmt: skip


def test_algebra_accepts_values_and_refuses_unevaluated_copies(pool) -> None:
    rows = [(g, a, True) for g, a in EQUAL] + [(g, a, False) for g, a in DIFFERENT]
    found = verdicts([(f"\\boxed{{{g}}}", a) for g, a, _ in rows], "auto", pool)
    wrong = [(row, v) for row, v in zip(rows, found, strict=True) if v.correct is not row[2]]
    assert not wrong


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from("+-*/"))
def test_copying_the_problem_is_never_an_answer(a: int, b: int, operator: str) -> None:
    value = Fraction(eval(f"Fraction({a}){operator}{b}"))
    if value.denominator == 1:
        assert exact_verdict(f"{a}{operator}{b}", str(value)) == (False, "unevaluated expression")


def test_hostile_expressions_cost_their_own_verdict_and_little_time(pool) -> None:
    hostile = [
        "9^{9^{9^{9^9}}}",
        "\\frac{" * 60 + "1",
        "((((" * 50,
        "\\int_0^x" * 40,
        "\x00\ud800",
        "é" * 400,
        "1" * 10**6,
    ]
    pairs = [(f"\\boxed{{{h}}}", "x+1") for h in hostile] + [("\\boxed{1+x}", "x+1")]
    started = time.monotonic()
    found = verdicts(pairs, "auto", pool)
    assert [v.correct for v in found] == [False] * len(hostile) + [True]
    assert time.monotonic() - started < 45
    assert score("#" * 10**6, "1").reason == "empty answer"
    assert score("1" * 10**7 + "#5", "5").correct


def test_a_hanging_job_is_killed_at_its_limit_and_order_is_kept() -> None:
    hang = ("custom", ("tests.reward.rewards_for_tests:hang", None, ""))
    with WorkerPool(workers=1, timeout_s=0.5, start_s=20.0) as pool:
        pool.run([("custom", ("tests.reward.rewards_for_tests:moody", None, ""))])  # imports
        started = time.monotonic()
        assert pool.run([hang])[0].reason == "timeout"
        assert time.monotonic() - started < 5
        pool.run([("verify", ("x", "x")), ("custom", ("tests.reward.rewards_for_tests:moody", None, ""))])
        outcomes = pool.run([hang, ("verify", ("x+x", "2x")), ("verify", ("x", "2x"))])
    assert [(o.ok, o.value, o.reason) for o in outcomes] == [
        (False, None, "timeout"),
        (True, True, ""),
        (True, False, ""),
    ]


def test_verdicts_work_outside_the_main_thread() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(score("\\boxed{\\frac{x}{2}}", "x/2")))
    thread.start()
    thread.join(90)
    assert found[0].correct


@pytest.mark.parametrize("template", ["", "ANSWER", "ANSWER!", "#", "#ANSWER ANSWER"])
def test_templates_that_mark_nothing_are_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"reward.template"):
        check_template(template)


def test_a_worker_that_was_killed_while_idle_is_replaced(capfd, caplog) -> None:
    with WorkerPool(workers=1, timeout_s=20.0) as pool:
        assert pool.run([("verify", ("x+x", "2x"))])[0].value is True
        assert "Timeout is disabled" not in capfd.readouterr().err, "math-verify's advice is not for the job's log"
        (idle,) = pool._idle
        os.kill(idle._process.pid, signal.SIGKILL)
        idle._process.wait()
        outcomes = pool.run([("verify", ("x", "2x")), ("verify", ("x+x", "2x"))])
        assert [(o.ok, o.value) for o in outcomes] == [(True, False), (True, True)]
        assert "killed by signal SIGKILL" in caplog.text
        assert idle not in pool._idle and len(pool._idle) == 1
