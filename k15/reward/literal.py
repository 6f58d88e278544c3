"""Numbers written as numbers: exact values of integers, decimals, fractions, mixed numbers, percentages, money, units.

These decide most verdicts in microseconds, and they decide them strictly: a numeric answer must be given as a value, so
that `47+85` is no answer to `47+85=`, though algebra would call it equal.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_INT = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?![\d ]*/)|\d+)"
_NUM = rf"(?:{_INT}(?:\.\d*)?|\.\d+)"
_FRAC = rf"\\frac\s*(?:\{{\s*([+-]?\s*{_NUM})\s*\}}|(\d))\s*(?:\{{\s*({_NUM})\s*\}}|(\d))"
_POWER_OF_TEN = r"(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|(\d))|[eE]([+-]?\d+)"
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("mixed", re.compile(rf"(\d+)\s*{_FRAC}")),
    ("slashed", re.compile(r"(\d+)\s+(\d+)\s*/\s*(\d+)")),
    ("fraction", re.compile(_FRAC)),
    ("quotient", re.compile(rf"({_INT})\s*/\s*({_INT})(?![\d.])")),
    ("scientific", re.compile(rf"({_NUM})\s*(?:{_POWER_OF_TEN})")),
    ("repeating", re.compile(r"(\d*\.\d*)\\overline\s*\{?(\d+)\}?")),
    ("plain", re.compile(_NUM)),
)  # fmt: skip
MAX_EXPONENT = 1000
_MONEY = re.compile(r"\s*(\\?\$|€|£|\\text\{\s*(?:USD|\\?\$)\s*\})\s*")
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\text\{\s*(?:\\?%|percent|per cent|pct)\s*\}|(?:percent|per cent|pct)(?![a-z]))\s*", re.IGNORECASE
)
_UNITS: dict[str, str] = {
    alias: unit
    for unit, aliases in {
        "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
        "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles", "s": "s sec second seconds",
        "min": "min mins minute minutes", "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks",
        "year": "yr yrs year years", "month": "month months", "g": "g gram grams", "kg": "kg kilogram kilograms",
        "mg": "mg milligram milligrams", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces", "l": "l liter liters litre litres",
        "ml": "ml milliliter milliliters", "gal": "gal gallon gallons", "deg": "deg degree degrees", "rad": "rad radian radians",
        "dollar": "dollar dollars usd", "cent": "cent cents", "unit": "unit units", "mph": "mph", "hz": "hz", "kph": "kph kmh",
    }.items()
    for alias in aliases.split()
}  # fmt: skip
_NEUTRAL = {"unit", "sq", "square", "cubic", "cu", "per"}  # say nothing that could contradict
# Words after a number that change its value, or make it another kind of answer.
_NUMBER_WORDS = (
    "million millions billion billions trillion trillions thousand thousands hundred hundreds dozen dozens score gross pairs "
    "half halves third thirds quarter fifths sixths sevenths eighths ninths tenths hundredths thousandths squared cubed "
    "factorial times plus minus over mod modulo below remainder rem basis choose"
)
_NAMES = "pi theta alpha beta sqrt root base infinity inf sin cos tan log ln exp sec cot csc"
_HEDGES = "or and to not nor negative approximately about nearly almost between"
_POWER = re.compile(
    r"(?:[A-Za-z]|\^\s*\{?\s*-?|[A-Za-z]\s*\}\s*\^\s*\{?\s*-?)[23](?![0-9.])\s*\}*\s*(?=$|[/).]|\\|per\b|\s*\})", re.IGNORECASE
)  # of a unit, which nothing but another unit below it may follow
_NOT_UNITS = frozenset(f"{_NUMBER_WORDS} {_NAMES} {_HEDGES}".split())


@dataclass(frozen=True, slots=True)
class Literal:
    """`value` as written (25 for 25 %); `quotient`: written as a fraction; `unit`: known units in one spelling, else ''."""

    value: Fraction
    quotient: bool = False
    percent: bool = False
    unit: str = ""


def literal(text: str, loose: bool = False) -> Literal | None:
    """The number that `text` (canonical notation) writes, with its unit; None where it is anything else.

    `5 m` may be a length or a product; `loose` takes it for a length, as befits an answer where a number is wanted.
    """
    if len(text) > 300 or not any(c.isdigit() for c in text):
        return None
    sign, rest, money = _prefix(text)
    for form, pattern in _FORMS:
        match = pattern.match(rest)
        if match is None:
            continue
        value = _value(form, match)
        tail = rest[match.end() :]
        percent = _PERCENT.fullmatch(tail) is not None
        unit = "" if percent or not tail else _unit(tail, loose)
        if value is None or unit is None:
            continue
        if money and unit not in ("", "dollar"):
            return None
        return Literal(sign * value, form in ("fraction", "quotient"), percent, "dollar" if money == "$" else unit)
    return None


def number(text: str) -> Fraction | None:
    """The exact value of a plain number (`-12`, `1,000`, `0.50`, `3/4`, `\\frac{3}{4}`) without unit; None for all else."""
    found = literal(text)
    return None if found is None or found.percent or found.unit else found.value


def _prefix(text: str) -> tuple[int, str, str]:
    """(sign, the rest, `$` or another currency or nothing)."""
    sign, money = 1, ""
    rest = text.strip()
    for _ in range(2):  # -\$5 and \$-5
        if rest[:1] in ("+", "-") and sign == 1:
            sign = -1 if rest[0] == "-" else 1
            rest = rest[1:].lstrip()
        match = _MONEY.match(rest)
        if match is not None and not money:
            money = "$" if "$" in match[1] or "USD" in match[1] else match[1]
            rest = rest[match.end() :]
    return sign, rest, money


def _plain(text: str) -> Fraction:
    text = re.sub(r"[ ,]", "", text)
    return Fraction(text + "0" if text.endswith(".") else text)


def _value(form: str, match: re.Match[str]) -> Fraction | None:
    groups = match.groups()
    if form == "plain":
        return _plain(match[0])
    if form == "scientific":
        power = int(next(g for g in groups[1:] if g is not None))
        return _plain(groups[0]) * Fraction(10) ** power if abs(power) <= MAX_EXPONENT else None
    if form == "repeating":
        start, cycle = groups
        shift = len(start) - start.index(".") - 1
        return _plain(start if start != "." else "0") + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**shift)
    whole = Fraction(groups[0]) if form in ("mixed", "slashed") else Fraction(0)
    above, below = [_plain(g) for g in groups[1 if form in ("mixed", "slashed") else 0 :] if g is not None]
    return None if below == 0 else whole + above / below


def _unit(tail: str, loose: bool) -> str | None:
    """The unit that follows a number, in one spelling; '' where it is a word that is not known; None where it is no unit."""
    if re.match(r"\s*\^\\circ", tail):
        rest = re.sub(r"^\s*\^\\circ\s*", "", tail)
        return "deg" if re.fullmatch(r"(?:\\text\{\s*)?[FCK]?\s*\}?", rest) else None
    upright = "\\text{" in tail
    if not upright and not re.match(r"[ /]", tail) and not re.match(r"[a-z]{2,}", tail):
        return None
    bare = re.sub(r"\\frac\s*\{([^{}]*(?:\{[^{}]*\})?[^{}]*)\}\s*\{", r"\1/{", tail)
    bare = re.sub(r"\\text\{|[{}.]", " ", bare).replace("^", " ")
    if re.search(r"[^A-Za-z0-9 /'-]", bare):
        return None
    words = [w for w in re.split(r"[ /'-]+|(?<=[A-Za-z])(?=[23])", bare.lower()) if w]
    powers = [w for w in words if w.isdigit()]
    if not words or words[0].isdigit() or any(w not in ("2", "3") for w in powers) or _NOT_UNITS & set(words):
        return None
    if len(powers) != len(_POWER.findall(tail)):  # the 2 of `feet 2 inches` is a number of its own
        return None
    names = [w for w in words if not w.isdigit()]
    known = [_UNITS.get(w) for w in names]
    if not upright and any(k is None and w not in _NEUTRAL and len(w) < 4 for k, w in zip(known, names, strict=True)):
        return None  # 5 ab may be a product
    if any(len(w) == 1 for w in names) and not upright and not loose:
        return None
    found = [k for k in known if k is not None and k not in _NEUTRAL]
    if not found or len(found) < len([n for n in names if n not in _NEUTRAL]):
        return ""
    area = powers[:1] or (["2"] if {"sq", "square"} & set(names) else ["3"] if {"cubic", "cu"} & set(names) else [])
    return "/".join(found) + "".join(area)


def same_number(given: Literal, wanted: Literal) -> tuple[bool, str]:
    """(correct, reason). Exact values; a per cent sign may be left out or added; two known units must be the same one."""
    if wanted.value.denominator == 1 and given.quotient and given.value.denominator == 1:
        return False, "unevaluated expression"
    if given.unit and wanted.unit and given.unit != wanted.unit:
        return False, "other unit"
    right = given.value == wanted.value
    if given.percent != wanted.percent:
        as_value = (given.value / 100 if given.percent else given.value, wanted.value / 100 if wanted.percent else wanted.value)
        # `25` for `25 %` and the other way round; but 0.5 % is not 0.5
        right = as_value[0] == as_value[1] or (right and abs(given.value) >= 1)
    return (True, "same number") if right else (False, "other number")
