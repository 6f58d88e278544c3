"""Token sequences that are hard for a repetition check: periodic, nearly periodic, overlap-free, or of two letters."""

import itertools

from hypothesis import strategies as st


def thue_morse(n: int) -> list[int]:
    """Its factors never contain a pattern twice and one token more: squares everywhere, no cube."""
    return [i.bit_count() % 2 for i in range(n)]


def square_free(n: int) -> list[int]:
    """Over three letters (distances between the zeros of Thue-Morse): no pattern occurs twice in a row."""
    t = thue_morse(6 * n + 8)
    zeros = [i for i, x in enumerate(t) if x == 0]
    return [b - a for a, b in itertools.pairwise(zeros)][:n]


def fibonacci_word(n: int) -> list[int]:
    """Cubes of many periods, and no fourth power."""
    a, b = [0], [0, 1]
    while len(b) < n:
        a, b = b, b + a
    return b[:n]


@st.composite
def nearly_periodic(draw, max_len: int = 160) -> list[int]:
    """Some of: noise, copies of a pattern, copies with one token changed. Token ids reach over one byte."""
    letters = st.sampled_from(draw(st.sampled_from([[0, 1], [0, 256, 65536], list(range(40))])))
    found: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        pattern = draw(st.lists(letters, min_size=1, max_size=14))
        part = pattern * draw(st.integers(1, 7)) + pattern[: draw(st.integers(0, 13))]
        if draw(st.booleans()):
            part[draw(st.integers(0, len(part) - 1))] = draw(letters)
        found += part
    return found[:max_len]


SEQUENCES = st.one_of(
    st.lists(st.integers(0, 1), max_size=120),
    nearly_periodic(),
    st.builds(lambda i, n: thue_morse(i + n)[i:], st.integers(0, 500), st.integers(0, 120)),
    st.builds(square_free, st.integers(0, 120)),
    st.builds(fibonacci_word, st.integers(0, 120)),
)

RULES = st.builds(lambda low, more, repeats: (low + more, repeats, low), st.integers(1, 4), st.integers(0, 24), st.integers(2, 5))
"""(max_period, min_repeats, min_period)."""
