"""Tables for a terminal and in Markdown. A cell is one line: what breaks lines in a user's text becomes a blank."""

import re
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells, the header first, as lines with two blanks between columns."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    header, *rest = (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *rest])


def _cell(text: str) -> str:
    """A bar ends a cell unless an odd number of backslashes stands before it: they are doubled, and one more is put there."""
    return re.sub(r"(\\*)\|", r"\1\1\\|", one_line(text))


def one_line(text: str) -> str:
    """The lines of a text one after another."""
    return " ".join(text.splitlines())
