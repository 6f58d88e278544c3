"""Whether an output is right, where no program need be asked. Pure functions on bytes."""

import math
import re
from dataclasses import dataclass

from k15.errors import ConfigError, unknown_name

KINDS = ("tokens", "floats", "program")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Checker:
    """`tokens`: equal but for white space. `floats`: numbers may differ by `tolerance`, absolutely or relatively.

    `program`: `source` in `language` decides, run in the sandbox as `checker input output answer` (three file names): exit
    status 0 accepts, 1 or 2 rejects (testlib's convention), all else means that the checker itself failed.
    Raises ConfigError where these do not fit together.
    """

    kind: str = "tokens"
    tolerance: float = 1e-6
    language: str = "python"
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("the checker's kind", self.kind, KINDS)
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"The checker's tolerance is {self.tolerance}; it must be in [0, 1).")
        if self.kind == "program" and not self.source:
            raise ConfigError("A checker of kind `program` needs its `source`.")


def difference(checker: Checker, expected: bytes, output: bytes) -> str | None:
    """None where the output is right, else what is wrong in a few words. Not for `program`."""
    assert checker.kind != "program", "a checker program runs in the sandbox"
    wanted, given = expected.split(), output.split()
    for i, (want, have) in enumerate(zip(wanted, given)):
        if want != have and not (checker.kind == "floats" and close(want, have, checker.tolerance)):
            return f"token {i + 1} is {_shown(have)}, expected {_shown(want)}"
    if len(wanted) != len(given):
        return f"{len(given)} tokens, expected {len(wanted)}"
    return None


def close(want: bytes, have: bytes, tolerance: float) -> bool:
    """Both are plain decimal numbers (no nan, inf or hexadecimal) and |a - b| <= tolerance * max(1, |a|), a = `want`."""
    if not (_NUMBER.fullmatch(want) and _NUMBER.fullmatch(have)):
        return False
    a, b = float(want), float(have)
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= tolerance * max(1.0, abs(a))


def _shown(token: bytes) -> str:
    text = token[:_SHOWN].decode(errors="replace")
    return repr(text + "..." if len(token) > _SHOWN else text)
