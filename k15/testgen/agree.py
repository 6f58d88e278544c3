"""Which cases are valid and which problems are kept: pure functions on what the submissions printed. Report, section 2.3.5.

Outputs are compared as the judge's checker does: by tokens, or with a tolerance for numbers. A run without an output (it
crashed, or broke a limit) agrees with nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from k15.sandbox.checker import Checker, difference

_INTEGER, _NUMBER = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A case: `expected`, the output that most submissions printed (None without one), and who printed it.

    `kind`: "valid" (enough agree); "disputed" (enough ended well and in one format, but they disagree); "broken" (else).
    """

    kind: str
    expected: str | None
    agreeing: tuple[bool, ...]


def agreement(outputs: Sequence[str | None], checker: Checker, agree: int) -> Agreement:
    """Judge one case by its outputs, one a submission in a fixed order.

    With a tolerance, outputs are gathered round the one that most others match; of equals the first.
    """
    best: tuple[int, str | None, tuple[bool, ...]] = (0, None, (False,) * len(outputs))
    tried: set[str] = set()
    for candidate in outputs:
        if candidate is None or candidate in tried:
            continue
        tried.add(candidate)
        same = tuple(o is not None and difference(checker, candidate.encode(), o.encode()) is None for o in outputs)
        if sum(same) > best[0]:
            best = (sum(same), candidate, same)
        if best[0] == len(outputs):
            break
    count, expected, same = best
    if count >= agree:
        return Agreement("valid", expected, same)
    ended = [o for o in outputs if o is not None]
    formats = [shape(o) for o in ended if o.strip()]
    common = max((formats.count(f) for f in set(formats)), default=0)
    return Agreement("disputed" if common >= agree else "broken", expected, same)


def shape(output: str) -> frozenset[str]:
    """The kinds of an output's tokens: integers, other numbers, words."""
    return frozenset(
        "integer" if _INTEGER.fullmatch(t) else "number" if _NUMBER.fullmatch(t) else "word" for t in output.split()
    )  # fmt: skip


def passing(cases: Sequence[Agreement]) -> tuple[bool, ...]:
    """Which submissions printed what is expected in every valid case."""
    valid = [c for c in cases if c.kind == "valid"]
    assert valid, "no case is valid"
    return tuple(all(c.agreeing[i] for c in valid) for i in range(len(valid[0].agreeing)))
