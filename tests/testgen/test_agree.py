"""Agreement and the gates against oracles: counting by hand on random outputs."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.errors import ConfigError
from k15.sandbox.checker import Checker
from k15.testgen.agree import agreement, passing
from k15.testgen.outcome import Tried, decide
from k15.testgen.settings import TestgenSettings

OUTPUTS = st.lists(st.sampled_from([None, "1", "1\n", " 1 ", "2", "2 ", "3", "x", "1 2"]), min_size=10, max_size=10)


def tokens(output: str | None) -> tuple[str, ...] | None:
    return None if output is None else tuple(output.split())


@given(OUTPUTS, st.integers(6, 10))
def test_a_case_is_valid_when_enough_print_the_same(outputs, agree):
    found = agreement(outputs, Checker(), agree)
    counts = Counter(tokens(o) for o in outputs if o is not None)
    most = max(counts.values(), default=0)
    assert (found.kind == "valid") == (most >= agree)
    assert sum(found.agreeing) == most
    if found.kind == "valid":
        assert found.agreeing == tuple(tokens(o) == tokens(found.expected) for o in outputs)


@given(st.lists(OUTPUTS, min_size=1, max_size=6), st.integers(6, 10), st.integers(1, 10))
def test_a_problem_is_kept_when_enough_submissions_pass_every_valid_case(cases, agree, needed):
    settings = TestgenSettings(cases=len(cases), agree=agree, passing=needed, min_valid=1, disputed=1.0)
    found = [agreement(outputs, Checker(), agree) for outputs in cases]
    names = [f"s{i}" for i in range(10)]
    inputs = [f"input {i}" for i in range(len(cases))]
    result = decide("p", Tried(inputs, [""] * len(cases), found), names, "", settings)
    common = [Counter(tokens(o) for o in outputs if o is not None).most_common(1) for outputs in cases]
    expected = {i: top[0][0] for i, top in enumerate(common) if top and top[0][1] >= agree}
    good = [n for j, n in enumerate(names) if all(tokens(cases[i][j]) == want for i, want in expected.items())]
    if not expected:
        assert result.stage in ("generator", "special_judge") and not result.tests
    elif len(good) < needed:
        assert result.stage == "agreement" and not result.tests
    else:
        assert result.kept and list(result.passed) == good
        assert [(i, tuple(o.split())) for i, o in result.tests] == [(inputs[i], want) for i, want in expected.items()]


def test_numbers_agree_within_the_tolerance_and_words_do_not():
    floats = Checker("floats", 1e-6)
    near = ["0.3333333", "0.33333331", "0.333333299"] * 2 + ["0.3333"] * 4
    assert agreement(near, floats, 6).agreeing == (True,) * 6 + (False,) * 4
    assert agreement(near, Checker(), 6).kind == "disputed"


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (["1 2", "2 1", "1 3", "3 1", "2 3", "3 2", "4 1", "1 4", "2 4", "4 2"], "disputed"),
        (["1 2", "2 1", "1 3", "3 1"] + [None] * 6, "broken"),
        ([str(i) for i in range(6)] + ["no"] * 4, "broken"),
        (["", "", "", "", "1", "2", "3", "4", "5", "6"], "broken"),
    ],
)
def test_several_right_answers_are_told_from_broken_inputs(outputs, kind):
    assert agreement(outputs, Checker(), 7).kind == kind


def test_votes_count_as_they_should():
    cases = [agreement(["1"] * 9 + ["2"], Checker(), 7), agreement(["x"] * 2 + ["1"] * 8, Checker(), 7)]
    assert passing(cases) == (False, False, *(True,) * 7, False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"agree": 11}, "at most submissions = 10"),
        ({"agree": 5}, "two answers could both win"),
        ({"min_valid": 51}, "at most cases = 50"),
        ({"cases": 0}, "greater than 0"),
        ({"disputed": 0.0}, "above 0"),
        ({"max_output_kb": 5000}, "at most 1000"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        TestgenSettings(**wrong)
