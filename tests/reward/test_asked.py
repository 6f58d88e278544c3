# ruff: noqa: E501
"""Equal to the reference is not enough: the problem itself is no answer, nor what lacks the form that it asks for."""

import pytest

from k15.config.schema import JudgeConfig
from k15.reward.math import verdicts
from k15.reward.opinion import LoopJudge
from k15.reward.pool import WorkerPool
from k15.types import Prompt

# (problem, reference, answers, what is no answer though it is equal)
PROBLEMS = (
    ("Expand $(x+1)^2$.", "x^2+2x+1", ("1+x^2+2x", "x^{2} + 2x + 1"), ("(x+1)^2", "(1+x)^2", "(x+1)(x+1)", "x(x+2)+1")),
    ("Expand (x+1)^2", "x^2+2x+1", ("x^2+1+2x",), ("(x+1)^2", "(1+x)^2+0", "1 \\cdot (x+1)^2")),
    ("Simplify $\\sqrt{50}$.", "5\\sqrt{2}", ("\\sqrt{2} \\cdot 5", "5√2"), ("\\sqrt{50}", "\\sqrt{25\\cdot2}")),
    ("Simplify $2x+3x$.", "5x", ("x \\cdot 5",), ("2x+3x", "3x+2x", "x+4x")),
    ("Simplify $\\frac{x^2-1}{x-1}$.", "x+1", ("1+x",), ("\\frac{x^2-1}{x-1}", "\\frac{(x-1)(x+1)}{x-1}")),
    ("Factor $x^4-16$ completely.", "(x-2)(x+2)(x^2+4)", ("(x^2+4)(x+2)(x-2)",), ("x^4-16", "(x^2-4)(x^2+4)")),
    ("Factor $3x^2-12$.", "3(x-2)(x+2)", ("3(x+2)(x-2)",), ("(3x+6)(x-2)", "3(x^2-4)")),
    ("Compute $\\binom{10}{3}$.", "120", ("120",), ("\\binom{10}{3}",)),
    ("Evaluate $\\cos\\frac{\\pi}{4}$.", "\\frac{\\sqrt{2}}{2}", ("\\frac{1}{\\sqrt2}",), ("\\cos\\frac{\\pi}{4}", "\\sin\\frac{\\pi}{4}")),
    ("Rationalize the denominator: $\\frac{1}{\\sqrt{2}}$", "\\frac{\\sqrt{2}}{2}", ("\\sqrt2/2",), ("\\frac{1}{\\sqrt2}", "\\frac{2}{2\\sqrt2}")),
    ("If $\\sin\\theta=\\frac{1}{\\sqrt2}$, find $\\cos\\theta$.", "\\frac{\\sqrt2}{2}", ("\\frac{1}{\\sqrt2}",), ()),
    ("Compute $(2+3i)(1-i)$.", "5+i", ("i+5",), ("(2+3i)(1-i)", "(1-i)(3i+2)")),
    ("Compute $\\pi\\int_0^1 x\\,dx$.", "\\frac{\\pi}{2}", ("\\pi/2",), ("\\pi\\int_0^1 x dx", "\\pi\\int_0^1 (1-x) dx")),
    ("Find the area.", "12\\pi", ("\\pi \\cdot 12",), ("(3\\cdot4)\\pi", "(7+5)\\pi", "\\pi\\arctan(1)+12\\pi-\\frac{\\pi}{4}")),
    ("Express $0.\\overline{36}$ as a fraction.", "\\frac{4}{11}", ("4/11",), ("0.\\overline{36}",)),
    ("Write $25\\%$ as a decimal.", "0.25", (".25", "0.250"), ("25\\%",)),
    ("Write 1024 as a power of 2.", "2^{10}", ("2^{10}",), ("1024",)),
    ("How many eggs are left?", "5", ("5 eggs",), ("5\\%",)),
    ("How many per cent are left?", "5", ("5\\%",), ()),
    ("For which x is it positive? Give an interval.", "(1,2)", ("(1, 2)",), ("1, 2",)),
    ("Find the point.", "(1,2)", ("1, 2", "x=1, y=2"), ()),
    ("If $f(x)=1+x$, what is $f(x)$ in falling powers?", "x+1", ("x+1", "1+x"), ()),
)  # fmt: skip
RESTATED = "\\boxed{(x+1)^2}"


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(workers=1, timeout_s=10.0) as made:
        yield made


def test_the_problem_is_no_answer_to_itself(pool) -> None:
    wrong = []
    for question, reference, answers, others in PROBLEMS:
        found = verdicts([(f"\\boxed{{{t}}}", reference) for t in (*answers, *others)], "auto", pool, question)
        wrong += [(question, v) for v, right in zip(found, [True] * len(answers) + [False] * len(others), strict=True)
                  if v.correct is not right]  # fmt: skip
    assert not wrong
    assert verdicts([(RESTATED, "x^2+2x+1")], "auto", pool)[0].correct, "without the problem's text, equal is all there is"


def test_a_judge_that_compares_answers_is_not_asked_about_a_copy_of_the_problem(pool) -> None:
    question = PROBLEMS[0][0]
    found = verdicts([(RESTATED, "x^2+2x+1")], "auto", pool, question)
    judge = LoopJudge(JudgeConfig(url="engines", rejected=True), seed=0)  # without engines: asking anything would raise
    assert judge.reconsider(Prompt("p", question, "x^2+2x+1"), [RESTATED], found) == found
