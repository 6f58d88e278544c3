"""What the report leaves out (2.1): multiple choice and true/false, which can be guessed, and proofs, which have no answer."""

import re
import unicodedata

from k15.curate.proofs import NO_ANSWER, asks_for_proof
from k15.curate.rows import Row

_OPTION = re.compile(r"\(\s*([A-H])\s*\)|^\W*([A-H])\s*[.):、]", re.MULTILINE)  # (A), or A. at the start of a line
# Where the answer is a letter: also small ones and those within a line. f(a) is no option, nor are the points A、B、C.
_WITHIN = re.compile(
    r"(?<![A-Za-z}\\])\(\s*([A-H])\s*\)|(?<![A-Za-z0-9(_^\\])([A-H])\s?(?:[.):](?![A-Za-z]\.)|、(?!\s*[A-Z](?![A-Za-z])))", re.I
)
_LOOSE = re.compile(r"(?<![A-Za-z])([A-H])(?![A-Za-z])")  # after `which of these`, any letters in this order are options
_LETTER = re.compile(r"\(?[A-H]\)?\.?(?:(?:\s*,\s*|\s+and\s+)\(?[A-H]\)?\.?)*", re.I)
_OPTIONLESS = re.compile(
    r"\b(?:which|what) (?:one )?of (?:the following|these)\b|\bfrom the following\b|\bsentence completion\b", re.I
)
_TRUTH = {"true", "false", "yes", "no", "t", "f", "correct", "incorrect", "right", "wrong"}


def multiple_choice(row: Row) -> str | None:
    """Why the row is a multiple-choice question, or None."""
    if row.choices:
        return f"has {len(row.choices)} choices"
    text, answer = unicodedata.normalize("NFKC", row.prose), _bare(unicodedata.normalize("NFKC", row.answer))
    letter = _LETTER.fullmatch(answer) is not None
    optionless = letter and answer != answer.lower() and _OPTIONLESS.search(text) is not None
    found = _letters(_OPTION, text)
    if len(found) < 3 and letter and len(within := _letters(_WITHIN, text)) >= 2:
        return f"lists options {', '.join(within)}, and the answer is {row.answer}"
    if len(found) < 3 and optionless:
        found = _letters(_LOOSE, text)
    if len(found) >= 3:
        return f"lists options {', '.join(found)}"
    return f"the answer is the option {row.answer}" if optionless else None


def _letters(option: re.Pattern[str], text: str) -> list[str]:
    """The options A, B, C, ... that a text lists in this order, from A."""
    found, wanted = [], "A"
    for match in option.finditer(text):
        if wanted in (group.upper() for group in match.groups() if group is not None):
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
    """Why the row asks for a proof and for no value, or None."""
    if _bare(row.answer).replace(".", "").lower() in NO_ANSWER:
        return f"the answer is {row.answer!r}"
    asked = asks_for_proof(row.prose)
    return f"asks for a proof: {asked!r}" if asked is not None else None


def _bare(answer: str) -> str:
    """Without dollars and the commands of upright text."""
    return re.sub(r"\\(?:text|mathrm|textbf)\{(.*)\}|\$", r"\1", answer).strip()
