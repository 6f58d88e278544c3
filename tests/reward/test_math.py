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
from reward_cases import CASES, HOSTILE, PIECES

from k15.errors import ConfigError
from k15.reward.answer import check_template, exact_verdict, extract
from k15.reward.hacking import leaks_answer
from k15.reward.literal import number
from k15.reward.math import score, verdicts
from k15.reward.notation import canonical
from k15.reward.pool import WorkerPool
from k15.types import Prompt


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
        ("\\boxed{41}, no: \\boxed {42}", "auto", "42"),
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


def test_hand_written_answers(pool) -> None:
    rows = [(g, answer, ok) for answer, same, other in CASES for texts, ok in ((same, True), (other, False)) for g in texts]
    assert len(rows) > 400
    found = verdicts([(f"\\boxed{{{g}}}", answer) for g, answer, _ in rows], "auto", pool)
    assert not [(row, v) for row, v in zip(rows, found, strict=True) if v.correct is not row[2]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from("+-*/"))
def test_copying_the_problem_is_never_an_answer(a: int, b: int, operator: str) -> None:
    value = Fraction(eval(f"Fraction({a}){operator}{b}"))
    if value.denominator == 1:
        assert exact_verdict(f"{a}{operator}{b}", str(value)) == (False, "unevaluated expression")


def test_hostile_expressions_cost_their_own_verdict_and_little_time(pool) -> None:
    pairs = [(f"\\boxed{{{h}}}", "x+2") for h in HOSTILE] + [("\\boxed{2+x}", "x+2")]
    started = time.monotonic()
    found = verdicts(pairs, "auto", pool)
    assert [v.correct for v in found] == [False] * len(HOSTILE) + [True]
    assert time.monotonic() - started < 120
    assert score("#" * 10**6, "1").reason == "empty answer"
    assert score("1" * 10**7 + "#5", "5").correct
    for reference in ("9^{9^{9^9}}", "(((", "\\frac{1}{0}", ""):  # a broken reference costs its own verdicts too
        assert not score("\\boxed{x+2}", reference, pool=pool).correct


soup = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)


@settings(max_examples=150, deadline=None)
@given(soup, soup)
def test_any_text_gets_a_verdict_without_algebra(a: str, b: str) -> None:
    for given_, answer in ((a, b), (b, a), (a, a), (a, "5"), (a, "(1, 2]"), (a, "\\text{yes}")):
        verdict = exact_verdict(given_, answer)
        assert verdict is None or isinstance(verdict[0], bool)
    assert canonical(canonical(a)) == canonical(canonical(canonical(a)))


@settings(max_examples=40, deadline=None)
@given(st.lists(soup, min_size=4, max_size=4))
def test_any_text_gets_a_verdict_in_time(pool, texts: list[str]) -> None:
    started = time.monotonic()
    pairs = [(f"\\boxed{{{t}}}", answer) for t in texts for answer in ("x^2+1", "(1,\\sqrt{2}]")] + [("\\boxed{1+x^2}", "x^2+1")]
    assert verdicts(pairs, "auto", pool)[-1].correct
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("size", [10**5, 10**6])
@pytest.mark.parametrize("unit", ["\\boxed{", "}", "{", "<answer>", "#", "\\boxed{1} ", "a", "\u202e", "\\", "$", "½", "1,"])
def test_a_response_of_a_megabyte_takes_milliseconds(unit: str, size: int) -> None:
    text = unit * (size // len(unit))
    started = time.monotonic()
    for response in (text, text + "\\boxed{5}", f"\\boxed{{{text}}}"):
        verdict = score(response, "5")
    assert not verdict.correct and score(text + " \\boxed{5}", "5").correct
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize(
    "answer", ["14", "#### 14", "7*2 is 14.\n#### 14", r"\boxed{14}", r"Twice 7 is $7+7=\boxed{14}$.", "Of #1 and #2:\n####14\n"]
)
def test_of_a_worked_solution_the_final_answer_counts(answer: str) -> None:
    found = verdicts([(r"\boxed{14}", answer), ("#### 14", answer), (r"\boxed{7}", answer)])
    assert [v.correct for v in found] == [True, True, False]
    assert leaks_answer(Prompt("a", "7*2= (the answer is 14)", answer)) is not None
    assert leaks_answer(Prompt("a", "7*2=", answer)) is None


def test_echo_and_several_boxes() -> None:
    prompt = "What is 2+3? Put your final answer in \\boxed{}."
    assert score(prompt, "5").reason == "empty answer"
    assert score("\\boxed{7} then \\boxed{5}", "5").correct and not score("\\boxed{5} then \\boxed{7}", "5").correct
    assert not score("\\boxed{2+3}", "5").correct and not score("\\boxed{5", "5").correct
    assert score("\\boxed 5 and more", "5").correct and score("\\boxed{ \\boxed{5} }", "5").correct


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
        (True, (True, "equal"), ""),
        (True, (False, "not equal"), ""),
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
        assert pool.run([("verify", ("x+x", "2x"))])[0].value == (True, "equal")
        assert "Timeout is disabled" not in capfd.readouterr().err, "math-verify's advice is not for the job's log"
        (idle,) = pool._idle
        os.kill(idle._process.pid, signal.SIGKILL)
        idle._process.wait()
        outcomes = pool.run([("verify", ("x", "2x")), ("verify", ("x+x", "2x"))])
        assert [(o.ok, o.value) for o in outcomes] == [(True, (False, "not equal")), (True, (True, "equal"))]
        assert "killed by signal SIGKILL" in caplog.text
        assert idle not in pool._idle and len(pool._idle) == 1
