"""One answer against another: exact where text and numbers decide, element by element where there are several.

    wanted  5          given  5 or 6        several answers           (no algebra: listing candidates is a hack)
    wanted  \\{1, 2\\}   given  2, 1          matched in any order
    wanted  (3, \\pi/2) given  (3, \\pi/2]    other brackets
    wanted  x + 1      given  1 + x         algebra

`compare` gives None where algebra must decide and none was given: the caller then asks a worker process, which runs the
same function with it. Both sides are in `k15.reward.notation.canonical`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k15.reward.literal import Literal, literal, same_number

Algebra = Callable[[str, str], bool]
Verdict = tuple[bool, str]
MAX_ELEMENTS = 100
_CLOSERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_TOKEN = re.compile(r"\\begin\{|\\end\{|\\[a-zA-Z]+|\\.|.", re.DOTALL)
# x, x_1, f(x), \theta, AB, P(A|B), \angle ABC, \text{Area}: what may stand before `=` or \in as a mere name.
_NAME = re.compile(
    r"(?:\\(?:angle|triangle|overline|vec|bar|hat)\s*)?\{?(?:\\text\{[a-zA-Z ]+\}|\\[a-zA-Z]+|[a-zA-Z]+)\}?'?"
    r"(?:_(?:\{[^{}]*\}|\w))?(?:\^\{-1\})?\s*(?:\([a-zA-Z, |\\]*\))?"
)
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_RELATION = re.compile(r"[<>=]|\\(?:le|ge|lt|gt|ne)(?![a-zA-Z])")
_SET = re.compile(_RELATION.pattern + r"|\\(?:mathbb|in|setminus|emptyset|begin)(?![a-zA-Z])")  # may equal something in brackets
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])\s*")
_BASED = re.compile(r"(-?[0-9A-F]*\.?[0-9A-F]+)_\s*\{?\s*(?:\\text\{\s*)?(\d+|two|eight|sixteen|ten)\s*\}*")
_WORD_UNITS = (
    r"(?:square |cubic |sq\.? )?(?:cm|mm|km|kg|inch(?:es)?|f(?:ee|oo)t|meters?|metres?|units?|degrees?|radians?|dollars?|miles?)"
)
_OPERATOR = re.compile(
    r"\d\s*[-+*^%!]\s*[\d(\\]|\d\s*!|\\(?:cdot|times|div|sqrt|binom|sum|prod|pmod|bmod|frac)|[)}]\s*[-+*^(]|\d\s*\("
)


@dataclass(frozen=True, slots=True)
class Parts:
    """An answer's elements. `kind`: one, list, set, matrix, union, or the two brackets of a tuple or interval."""

    kind: str
    elements: tuple[str, ...]
    columns: int = 0


def compare(given: str, wanted: str, algebra: Algebra | None = None) -> Verdict | None:
    """(correct, reason), or None where `algebra(given, wanted)` must decide and is None."""
    if not given:
        return False, "empty answer"
    if given == wanted:
        return True, "same text"
    wanted_number = literal(wanted)
    given_number = literal(given, loose=True) if wanted_number is not None else None
    if wanted_number is not None and given_number is not None:
        return same_number(given_number, wanted_number)
    mine, right = parts(given), parts(wanted)
    if mine.kind == right.kind == "one":
        return _single(given, wanted, algebra)
    return _several(given, wanted, mine, right, algebra)


def parts(text: str) -> Parts:
    """The elements of a list, set, tuple, interval, union or matrix; anything else is `one`."""
    text = _after_name(text, ("\\in",))[1]
    if (matrix := _MATRIX.fullmatch(text)) is not None:
        rows = [row for row in re.split(r"\\\\|\\cr(?![a-zA-Z])", matrix[2]) if row.strip()]
        cells = [[c.strip() for c in row.split("&")] for row in rows]
        return Parts("matrix", tuple(c for row in cells for c in row), len(cells[0]) if cells else 0)
    pieces = _split(text, ("\\cup", "\\bigcup"))
    if len(pieces) > 1:
        return Parts("union", tuple(pieces))
    pieces = _split(text, (",", ";"))
    if len(pieces) > 1:
        return _list(pieces, "list")
    opener, inner, closer = _enclosed(text)
    if opener == "\\{":
        return _list(_split(inner, (",", ";")), "set")
    if opener:
        pieces = _split(inner, (",", ";"))
        if len(pieces) > 1:
            return Parts("()" if opener == "\\langle" else opener + closer, tuple(pieces))
        if opener == closer or _CLOSERS[opener] == closer:  # (5), as in \text{(B)}
            return parts(inner) if inner else Parts("one", (text,))
    if _PLUS_MINUS.search(text):
        return _list([text], "list")
    return Parts("one", (text,))


def _list(pieces: Sequence[str], kind: str) -> Parts:
    """The pieces, those with \\pm taken for two."""
    return Parts(kind, tuple(p for piece in pieces for p in _signs(piece) if p))


def _signs(text: str) -> list[str]:
    if not _PLUS_MINUS.search(text):
        return [text]
    plus, minus = _PLUS_MINUS.sub("+", text), _PLUS_MINUS.sub("-", text)
    return [re.sub(r"\\mp(?![a-zA-Z])\s*", "-", plus).lstrip("+"), re.sub(r"\\mp(?![a-zA-Z])\s*", "+", minus)]


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    """`text` at the separators outside all brackets; a comma within a number (1,234) is none."""
    if "," in separators and literal(text) is not None:
        return [text]
    pieces, start, depth = [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _CLOSERS:
            depth += 1
        elif token == "\\begin{":
            depth += 2  # the one brace after its name closes once; so does that of \\end{
        elif token in (")", "]", "}", "\\}", "\\rangle"):
            depth -= 1
        elif token == "\\end{":
            depth += 0  # its own brace closes what \begin{ opened twice
        elif depth == 0 and token in separators:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    return [*pieces, text[start:].strip()]


def _enclosed(text: str) -> tuple[str, str, str]:
    """(opening bracket, what is inside, closing bracket) where one pair of brackets encloses all of `text`; else blanks."""
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) < 2 or tokens[0][0] not in _CLOSERS or tokens[0][0] == "{" or tokens[-1][0] not in _CLOSERS.values():
        return "", "", ""
    depth = 0
    for number, match in enumerate(tokens):
        depth += (match[0] in _CLOSERS) + 2 * (match[0] == "\\begin{") - (match[0] in _CLOSERS.values())
        if depth <= 0 and number < len(tokens) - 1:
            return "", "", ""
    return (tokens[0][0], text[tokens[0].end() : tokens[-1].start()].strip(), tokens[-1][0]) if depth == 0 else ("", "", "")


def _after_name(text: str, signs: tuple[str, ...] = ("=",)) -> tuple[str, str]:
    """(name, value) of `x = 5`, `f(x) = x = 5` and `x \\in S`; ('', text) where what stands first is no mere name."""
    match = _NAME.match(text)
    if match is None:
        return "", text
    rest = text[match.end() :].lstrip()
    sign = next((s for s in signs if rest.startswith(s)), None)
    if sign is None or not rest[len(sign) :].strip():
        return "", text
    value = rest[len(sign) :]
    if sign == "=":
        value = value.rsplit("=", 1)[-1]
    return re.sub(r"[\s{}]", "", match[0]), value.strip()


def _several(given: str, wanted: str, mine: Parts, right: Parts, algebra: Algebra | None) -> Verdict | None:
    """Where at least one side has several elements."""
    kinds = {mine.kind, right.kind}
    if "one" in kinds:
        if len(mine.elements) == len(right.elements) == 1 and kinds & {"list", "set"}:
            return compare(mine.elements[0], right.elements[0], algebra)
        single = given if mine.kind == "one" else wanted
        if _SET.search(single) and literal(_after_name(single)[1]) is None:  # x = 5 is a number, x > 5 is not
            return _ask(given, wanted, algebra)
        return False, "several answers" if right.kind == "one" else "too few answers"
    if "union" in kinds and mine.kind != right.kind:
        return _ask(given, wanted, algebra)
    if mine.kind != right.kind and ("list" not in kinds or not kinds <= {"list", "set", "()"} or _unbounded(mine, right)):
        return False, "other brackets"
    if "set" in kinds:  # in which the same text twice counts once
        mine, right = (Parts(p.kind, tuple(dict.fromkeys(p.elements)), p.columns) for p in (mine, right))
    if len(mine.elements) != len(right.elements) or mine.columns != right.columns or len(right.elements) > MAX_ELEMENTS:
        return False, "other number of elements"
    unordered = kinds <= {"list", "set", "union"}
    return (_in_any_order if unordered else _in_order)(mine.elements, right.elements, algebra)


def _unbounded(mine: Parts, right: Parts) -> bool:
    """Is a pair in round brackets certainly an interval? Then a list is no other way to write it."""
    return any(p.kind == "()" and any("\\infty" in e for e in p.elements) for p in (mine, right))


def _in_order(given: Sequence[str], wanted: Sequence[str], algebra: Algebra | None) -> Verdict | None:
    found = [compare(g, w, algebra) for g, w in zip(given, wanted, strict=True)]
    if any(f is not None and not f[0] for f in found):
        return False, "other element"
    return None if None in found else (True, "same elements")


def _in_any_order(given: Sequence[str], wanted: Sequence[str], algebra: Algebra | None) -> Verdict | None:
    """Each wanted element takes the first given one that equals it. An open element leaves the verdict open."""
    left, unsure = list(given), False
    for w in wanted:
        found = [(g, compare(g, w, algebra)) for g in left]
        equal = next((g for g, f in found if f is not None and f[0]), None)
        if equal is not None:
            left.remove(equal)
        elif all(f is not None for _, f in found):
            return False, "other element"
        else:
            unsure = True
    return None if unsure else (True, "same elements")


def _single(given: str, wanted: str, algebra: Algebra | None) -> Verdict | None:
    """Two scalars, expressions, relations, words or letters."""
    given_name, given_value = _after_name(_bare(given))
    wanted_name, wanted_value = _after_name(_bare(wanted))
    if given_name and wanted_name and given_name != wanted_name:
        return False, "another name"
    if given_value == wanted_value:
        return True, "same text"
    number = literal(wanted_value)
    if number is not None:
        return _to_number(given_value, number)
    if (based := _BASED.fullmatch(wanted_value)) is not None:
        return _to_based(given_value, based)
    if _words(given_value) is not None or _words(wanted_value) is not None:
        mine, right = _words(given_value, loose=True), _words(wanted_value, loose=True)
        return (True, "same words") if mine is not None and mine == right else (False, "other words")
    return _ask(without_unit(given_value), without_unit(wanted_value), algebra)  # the names agree, or one side has none


def without_unit(text: str) -> str:
    """`12\\pi` of `12\\pi \\text{ cm}^2`, `\\$12\\pi` and `30\\pi^\\circ`. Units of plain numbers are k15.reward.literal's."""
    bare = re.sub(r"\s*(?:\\text\{\s*[a-zA-Z. /]+[23]?\s*\}(?:\^\s*\{?[23]\}?)?|\^\\circ\s*)\s*$", "", text)
    bare = re.sub(r"^\s*\\\$\s*", "", bare)
    bare = re.sub(r"(?<=[\d})])\s+(?:" + _WORD_UNITS + r")(?:\^\s*\{?[23]\}?)?$|(?<=[\d})i])\s+(?:units|square units)$", "", bare)
    return bare if bare else text


def _to_number(given: str, wanted: Literal) -> Verdict:
    found = literal(given, loose=True)
    if found is not None:
        return same_number(found, wanted)
    return False, "unevaluated expression" if _OPERATOR.search(given) else "not a number"


def _to_based(given: str, wanted: re.Match[str]) -> Verdict:
    """204_5: the same digits, and the base the same or left out. math-verify would drop the base."""
    found = _BASED.fullmatch(given)
    digits, base = found.groups() if found is not None else (given, wanted[2])
    return (True, "same number") if digits == wanted[1] and base == wanted[2] else (False, "other number")


def _bare(text: str) -> str:
    """Without brackets that enclose all of it: `(B)` is B, and `(x+1)` is x+1."""
    opener, inner, closer = _enclosed(text)
    return inner if inner and opener in ("(", "[") and _CLOSERS[opener] == closer else text


def _words(text: str, loose: bool = False) -> list[str] | None:
    """The answer's words in small letters if it is words, not mathematics: algebra would call `pat` and `tap` equal.

    `loose`: a single letter, or two small ones, are words too; else only in \\text{...}, since xy may be a product.
    """
    upright = re.fullmatch(r"\\text\{([^{}\\]*)\}", text)
    plain = text if upright is None else upright[1].strip("() ")
    if re.fullmatch(r"[^\W\d_]+(?:[ '.-]+[^\W\d_]+)*", plain) is None:
        return None
    if (
        upright is None
        and not loose
        and re.search(r"^[^\W\d_]$|^[a-z]{2}$|(?<![^\W\d_]{3})\s*-|-\s*(?![^\W\d_]{3})|^[a-z](?: [a-z])*$", plain)
    ):
        return None
    return re.split(r"[ '.-]+", plain.casefold())


def _ask(given: str, wanted: str, algebra: Algebra | None) -> Verdict | None:
    if algebra is None:
        return None
    return (True, "equal") if algebra(given, wanted) else (False, "not equal")
