"""From a response to its final answer, and the exact verdicts that need no algebra.

A template says how the final answer is marked: `#ANSWER`, `\\boxed{ANSWER}`, `<answer>ANSWER</answer>`, any text with
ANSWER in it, or `auto` (the first of AUTO that the response holds). The last marker of its kind counts.
"""

import re
from fractions import Fraction

from k15.errors import ConfigError

SLOT = "ANSWER"
BOXED = "\\boxed{ANSWER}"
AUTO = (BOXED, "<answer>ANSWER</answer>", "#ANSWER")  # `#` last: in other texts it may start a heading
MAX_ANSWER_CHARS = 500

_NUMBER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)(\.\d+)?(?:/(\d+))?")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\boxed{", "}"), ("\\text{", "}"))
_OPERATOR = re.compile(
    r"\d\s*[-+*^%!]\s*[\d(\\]|\d\s*!|\\(?:cdot|times|div|sqrt|binom|sum|prod|pmod|bmod)|[)}]\s*[-+*^(]|\d\s*\("
)


def check_template(template: str) -> str:
    """The template itself. Raises ConfigError where it does not name ANSWER once, after some marker."""
    if template == "auto":
        return template
    if template.count(SLOT) != 1 or template.startswith(SLOT):
        raise ConfigError(
            f"reward.template is {template!r}; it must hold {SLOT} once, after a marker that starts the final answer. "
            f"Allowed: auto, or a text such as {', '.join(AUTO)}."
        )
    return template


def extract(response: str, template: str = "auto") -> str | None:
    """The text in the last marker, stripped; None where there is no marker, or where its closing part is missing.

    A template without a closing part takes the rest of the line.
    """
    for candidate in AUTO if template == "auto" else (template,):
        before, after = candidate.split(SLOT)
        start = response.rfind(before)
        if start >= 0:
            return _closed(response[start + len(before) :], candidate, after)
    return None


def _closed(rest: str, template: str, after: str) -> str | None:
    """The answer at the start of `rest`, up to the template's closing part or the end of the line."""
    if template == BOXED:
        return _braced(rest)
    if after:
        end = rest.find(after)
        return None if end < 0 else rest[:end].strip()
    return rest.split("\n", 1)[0].strip()


def _braced(text: str) -> str | None:
    """`text` up to the brace that closes an already opened one."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):  # an escaped brace is no brace
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[: match.start()].strip()
    return None


def unwrapped(text: str) -> str:
    """Without surrounding mathematics delimiters, blanks and a final full stop."""
    text = text.strip()
    for _ in range(len(_WRAPPERS)):
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            if (
                text.startswith(left)
                and text.endswith(right)
                and len(text) > len(left) + len(right)
                and not {"{", "}"} & {*inner}
            ):
                text = inner.strip()
    return text[:-1] if text.endswith(".") and text[:-1].isalnum() else text


def number(text: str) -> Fraction | None:
    """The exact value of a plain number (`-12`, `1,000`, `0.50`, `3/4`); None for everything else."""
    match = _NUMBER.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        return None
    sign, whole, decimals, below = match.groups()
    if below is not None and (decimals is not None or int(below) == 0):
        return None
    value = Fraction(whole.replace(",", "") + (decimals or "")) / int(below or 1)
    return -value if sign == "-" else value


def is_word(text: str) -> bool:
    """Whether the answer is words, not mathematics: algebra would call `pat` and `tap` the same product."""
    return re.fullmatch(r"[^\W\d_]{2,}(?:[ '-]+[^\W\d_]+)*", text) is not None


def exact_verdict(extracted: str, answer: str) -> tuple[bool, str] | None:
    """(correct, reason) where strings and exact numbers decide; None where algebra must.

    A numeric answer must be given as a value: `47+85` is no answer to `47+85=`, though algebra would call it equal.
    """
    given, wanted = unwrapped(extracted), unwrapped(answer)
    if not given:
        return False, "empty answer"
    if len(given) > MAX_ANSWER_CHARS:
        return False, f"answer longer than {MAX_ANSWER_CHARS} characters"
    if given == wanted:
        return True, "same text"
    right, mine = number(wanted), number(given)
    if right is not None:
        if mine is not None and right.denominator == 1 and "/" in given:
            return False, "unevaluated expression"
        if mine is not None:
            return (True, "same number") if mine == right else (False, "other number")
        if _OPERATOR.search(given):
            return False, "unevaluated expression"
    if is_word(wanted) or is_word(given):
        same = given.casefold().split() == wanted.casefold().split()
        return (True, "same words") if same else (False, "other words")
    return None
