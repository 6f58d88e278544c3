"""What the report leaves out (2.1): multiple choice and true/false, which can be guessed, and proofs, which have no answer."""

import re

from k15.curate.rows import Row

_OPTION = re.compile(r"\(\s*([A-H])\s*\)|^\W*([A-H])\s*[.):]", re.MULTILINE)  # (A), or A. at the start of a line
_LOOSE = re.compile(r"(?<![A-Za-z])([A-H])(?![A-Za-z])")  # where the answer is a letter, any letters in this order are options
_LETTER = re.compile(r"\(?[A-H]\)?\.?(?:(?:\s*,\s*|\s+and\s+)\(?[A-H]\)?\.?)*")
_OPTIONLESS = re.compile(
    r"\b(?:which|what) (?:one )?of (?:the following|these)\b|\bfrom the following\b|\bsentence completion\b", re.I
)
_TRUTH = {"true", "false", "yes", "no", "t", "f", "correct", "incorrect", "right", "wrong"}
_PROVE = re.compile(
    r"(?:^|[.!?:;$]\s+|\n\s*|\b(?:and|then|to|please)\s+)(?:prove|show|demonstrate|verify|disprove)\b(?:\s+(?:that|the|by|or))?",
    re.I,
)
_ASKS = re.compile(
    r"\?|\b(?:find|compute|calculate|determine|evaluate|how (?:many|much|long|far)|what|solve|simplify|express|give|enter|state|"
    r"write)\b",
    re.I,
)
_ASKS_TOO = re.compile(
    r"(?:,|\band\b|\bthen\b)\s+(?:then\s+)?(?:find|compute|calculate|determine|evaluate|solve|what|how)\b", re.I
)
_SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)|\Z)", re.DOTALL)


def multiple_choice(row: Row) -> str | None:
    """Why the row is a multiple-choice question, or None."""
    if row.choices:
        return f"has {len(row.choices)} choices"
    letter = _LETTER.fullmatch(re.sub(r"\\(?:text|mathrm|textbf)\{(.*)\}|\$", r"\1", row.answer).strip()) is not None
    letters = _letters(_OPTION, row.prose)
    if len(letters) < 3 and letter and _OPTIONLESS.search(row.prose):
        letters = _letters(_LOOSE, row.prose)
    if len(letters) >= 3:
        return f"lists options {', '.join(letters)}"
    if letter and _OPTIONLESS.search(row.prose):
        return f"the answer is the option {row.answer}"
    return None


def _letters(option: re.Pattern[str], text: str) -> list[str]:
    """The options A, B, C, ... that a text lists in this order, from A."""
    found, wanted = [], "A"
    for match in option.finditer(text):
        if wanted in match.groups():
            found.append(wanted)
            wanted = chr(ord(wanted) + 1)
    return found


def true_false(row: Row) -> str | None:
    """Why two answers are all there are, or None."""
    answer = re.sub(r"\\text\{(.*)\}", r"\1", row.answer).strip(" .").lower()
    if answer in _TRUTH and len(answer) > 1:
        return f"the answer is {row.answer!r}"
    if re.search(r"\btrue or false\b|\(t/f\)|\byes or no\b", row.prose, re.I) and answer in _TRUTH:
        return "asks for true or false"
    return None


def proof(row: Row) -> str | None:
    """Why the row asks for a proof and for no value, or None. A question beside the claim makes it a problem again."""
    text = row.prose
    match = _PROVE.search(text)
    if match is None:
        return None
    claim = _SENTENCE.match(text, match.end())
    assert claim is not None, "it matches anything"
    if _ASKS.search(text[: match.start()] + " " + text[claim.end() :]) or _ASKS_TOO.search(claim[0]):
        return None
    return f"asks for a proof: {text[match.start() : match.start() + 60].strip()!r}"
