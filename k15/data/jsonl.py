"""What every reader of JSONL rows must take and refuse alike. Errors name the field; who reads the file adds path and line."""

import json
import math
from pathlib import Path

from k15.errors import DataError
from k15.log import get_logger

TOO_DEEP = "nested too deeply to be read; rows hold texts and numbers, and tests a few levels deep"
_IN_FULL = 20  # bad rows of a file that are logged with what is wrong with them
_SPANS = 1000  # runs of bad lines whose numbers are logged


class Skipped:
    """The bad rows of a file that are left out (on_bad_row=skip): the first ones are logged with their reasons as they come, and
    `summed_up` logs how many there were and on which lines."""

    def __init__(self, path: str | Path) -> None:
        self._path, self._log = path, get_logger("data")
        self._count = 0
        self._spans: list[list[int]] = []  # first and last line of each run of bad ones

    def add(self, line: int, said: str) -> None:
        """One more, `line` from 1, after those before it; `said` names file, line and reason."""
        self._count += 1
        if self._spans and self._spans[-1][1] == line - 1:
            self._spans[-1][1] = line
        else:
            self._spans.append([line, line])
        if self._count <= _IN_FULL:
            self._log.warning("skipped: %s", said)

    def summed_up(self, kept: str) -> None:
        """`kept`: what else the file held. Logs nothing where no row was skipped."""
        if not self._count:
            return
        lines = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in self._spans[:_SPANS])
        more = f" and more, the last of them {self._spans[-1][1]}" if len(self._spans) > _SPANS else ""
        self._log.warning("%s: %d bad rows skipped, %s kept; skipped lines: %s%s", self._path, self._count, kept, lines, more)


def json_object(raw: bytes) -> dict[str, object]:
    """The object on a line. Raises DataError; RecursionError (say TOO_DEEP) where it is nested beyond what Python reads."""
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason} at byte {error.start}); convert the file to UTF-8") from None
    except ValueError as error:  # also a whole number of over 4,300 digits, whose message goes on with advice for programmers
        raise DataError(f"not JSON ({str(error).split(';')[0]}); one object a line is needed") from None
    if not isinstance(row, dict):
        raise DataError(f"a {type(row).__name__}, but each line must be an object")
    return row


def text_field(row: dict[str, object], name: str) -> str:
    """A field that must be a text that is not empty. Raises DataError."""
    value = row.get(name)
    check_characters(name, value)
    if not isinstance(value, str) or not value.strip():
        state = "is missing" if name not in row else f"is {value!r}"
        raise DataError(f"field `{name}` {state}; it must be a text that is not empty (fields: {', '.join(sorted(row))})")
    return value


def check_characters(name: str, value: object) -> None:
    """Raises DataError where a text, or one anywhere in an object, holds what neither UTF-8 nor a tokenizer takes."""
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"field `{name}` holds half a character (a lone surrogate), which no tokenizer takes; mend the text")


def not_a_value(value: object) -> bool:
    """NaN or an infinity, as which pandas writes a value that is missing, or what is beyond a float."""
    return isinstance(value, float) and not math.isfinite(value)
