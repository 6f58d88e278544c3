"""From a response to its final answer, and the exact verdicts that need no algebra.

A template says how the final answer is marked: `#ANSWER`, `\\boxed{ANSWER}`, `<answer>ANSWER</answer>`, any text with
ANSWER in it, or `auto` (the first of AUTO that the response holds). The last marker of its kind counts.
"""

import re

from k15.errors import ConfigError
from k15.reward.compare import compare
from k15.reward.notation import canonical, nesting

SLOT = "ANSWER"
BOXED = "\\boxed{ANSWER}"
WORKED = "####ANSWER"
AUTO = (BOXED, "<answer>ANSWER</answer>", "#ANSWER")  # `#` last: in other texts it may start a heading
_BARE_BOX = re.compile(r"\\boxed\s*([0-9a-zA-Z])(?![a-zA-Z])")  # \boxed 5 is TeX for \boxed{5}
_BOX = re.compile(r"\\boxed\s*\{")
MAX_ANSWER_CHARS = 500
MAX_NESTING = 40  # of brackets; recursion ends badly somewhere beyond


def check_template(template: str) -> str:
    """The template itself. Raises ConfigError where it does not name ANSWER once, after some marker."""
    if template == "auto":
        return template
    if template == BOXED.lstrip("\\"):
        raise ConfigError(
            f"reward.template is {template!r}: the shell has taken the backslash. Put the word in quotes: "
            f"'reward.template={BOXED}'."
        )
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
        if candidate == BOXED and (boxes := list(_BOX.finditer(response))):
            start, before = boxes[-1].start(), boxes[-1].group()
        if candidate == BOXED and (bare := _BARE_BOX.match(response, max(0, response.rfind("\\boxed")))) is not None:
            return bare[1]
        if start >= 0:
            return _closed(response[start + len(before) :], candidate, after)
    return None


def reference(answer: str) -> str:
    """The final answer of a reference, which may be a worked solution (GSM8K's and MATH's are): what its last \\boxed{} or, in a
    text without one, its last #### marks; the whole text where it has neither."""
    return marked(answer) or answer


def marked(solution: str) -> str | None:
    """What the last \\boxed{} or #### of a worked solution marks; None where it marks nothing."""
    return extract(solution, BOXED) or extract(solution, WORKED) or None


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


def exact_verdict(extracted: str, answer: str) -> tuple[bool, str] | None:
    """(correct, reason) where strings, exact numbers and the shape of the answer decide; None where algebra must."""
    if len(extracted) > MAX_ANSWER_CHARS:
        return False, f"answer longer than {MAX_ANSWER_CHARS} characters"
    if max(nesting(extracted), nesting(answer)) > MAX_NESTING:
        return False, f"brackets nested deeper than {MAX_NESTING}"
    return compare(canonical(extracted), canonical(answer))
