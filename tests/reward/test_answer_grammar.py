"""Answers with a meaning, written in many ways: the verdict is the meaning's, never the writing's.

A value is drawn (a number, a list, a set, a pair, an interval), then written down; what two writings must give follows
from the values alone.
"""

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from k15.reward.answer import exact_verdict

numbers = st.fractions(min_value=-9, max_value=9, max_denominator=4)
several = st.lists(numbers, min_size=2, max_size=4).map(tuple)
values = st.one_of(
    st.tuples(st.just("number"), numbers.map(lambda n: (n,))),
    st.tuples(st.just("list"), several),
    st.tuples(st.just("set"), several),
    st.tuples(st.just("()"), several),
    st.tuples(st.sampled_from(["[)", "(]", "[]"]), st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted).map(tuple)),
)


def write_number(n: Fraction, draw) -> str:
    ways = [f"{n}", f"\\frac{{{n.numerator}}}{{{n.denominator}}}" if n.denominator > 1 else f"{n}.0", f"${n}$"[1:-1]]
    if n.denominator in (1, 2, 4):
        ways.append(str(float(n)))
    if n >= 0:
        ways.append(f"+{n}")
    return draw(st.sampled_from(ways)).replace("-", draw(st.sampled_from(["-", "−"])))


def write(value, draw) -> str:
    kind, elements = value
    texts = [write_number(n, draw) for n in elements]
    if kind == "number":
        return draw(st.sampled_from(["{}", "x = {}", "${}$", "\\text{{{}}}"])).format(texts[0])
    joined = draw(st.sampled_from([", ", ",", " , ", "; "])).join(texts)
    if kind == "list":
        return draw(st.sampled_from([joined, " or ".join(texts), "x = " + ", x = ".join(texts)]))
    opener, closer = ("\\{", "\\}") if kind == "set" else kind
    left, right = draw(st.sampled_from([("", ""), ("\\left", "\\right")]))
    return f"{left}{opener}{joined}{right}{closer}"


def equal(mine, wanted) -> bool:
    """What the two values must give: a set counts an element once, a list as often as it stands, a pair is in order."""
    (kind, a), (other, b) = mine, wanted
    kinds = {kind, other}
    if "number" in kinds:
        if kinds == {"number"}:
            return a == b
        rest = {kind, other} - {"number"}
        return rest == {"set"} and set(a) == set(b)
    if "set" in kinds:
        return kinds <= {"set", "list"} and set(a) == set(b)
    if kinds == {"list"}:
        return Counter(a) == Counter(b)
    return kinds in ({"()"}, {"()", "list"}) and a == b if "()" in kinds else kind == other and a == b


@settings(max_examples=250, deadline=None)
@given(st.data(), values, values, st.booleans())
def test_the_meaning_decides(data, one, two, same: bool) -> None:
    if same:  # the same numbers, in another kind of answer where there can be one
        fits = len(one[1]) == len(two[1]) and not set("[]") & set(one[0] + two[0])
        two = (two[0] if fits else one[0], one[1])
    given_, wanted = write(one, data.draw), write(two, data.draw)
    found = exact_verdict(given_, wanted)
    assert found is not None, "numbers need no algebra"
    # A set may hold one value in two writings (1/2, 0.5), which only counting by value could join: no verdict on those.
    if any(kind == "set" and len(set(e)) < len(e) for kind, e in (one, two)):
        return
    assert found[0] is equal(one, two), (given_, wanted, found[1])


UNITS = ("feet", "inches", "hours", "minutes", "km", "kg", "apples", "girls", "dollars", "cents", "points")
POWERED = (
    " cm^2",
    " \\text{ cm}^2",
    " \\mathrm{m}^3",
    " \\mathrm{m/s^2}",
    " cm2",
    " \\text{ ft}^{2}",
    " square feet",
    " kg/cm^3",
    " kg per cm^3",
)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 99), st.integers(1, 99), st.sampled_from(UNITS), st.sampled_from(UNITS), st.sampled_from(["", " and", ","]))
def test_a_quantity_of_two_units_is_not_its_first_number(a: int, b: int, unit: str, other: str, joint: str) -> None:
    for text in (f"{a} {unit}{joint} {b} {other}", f"{a}\\text{{ {unit}}}{joint} {b}\\text{{ {other}}}", f"{a} {unit} {b}"):
        assert not exact_verdict(text, str(a))[0] and not exact_verdict(text, f"{a} {unit}")[0], text
    assert exact_verdict(f"{a} {unit}", str(a))[0] and not exact_verdict(f"{a} {unit}", str(a + b))[0]


def test_powers_of_units_are_units() -> None:
    for unit in POWERED:
        assert exact_verdict(f"15{unit}", "15") == (True, "same number"), unit
        assert exact_verdict("15", f"15{unit}") == (True, "same number"), unit
        assert not exact_verdict(f"15{unit}", "16")[0] and exact_verdict(f"15{unit}", "15 kg") != (True, "same number"), unit
    for text in ("5 halves", "5 dozens", "5 score", "5 factorial", "5 hundredths", "5 below zero", "5 remainder 2", "5 per 2"):
        assert not exact_verdict(text, "5")[0], text
