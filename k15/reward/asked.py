"""What a problem's text says about its answer, so that neither the problem nor another form of it counts as one.

    "Expand $(x+1)^2$."      forms {expand}     objects (x+1)^2
    "What is $25\\%$ of 8?"   objects 25\\%

`objects` are expressions that the problem asks to be worked out; `mentioned` are all its expressions. Text only: what takes
SymPy is in `k15.reward.form`.
"""

import re
from functools import lru_cache

from k15.reward.compare import parts
from k15.reward.literal import literal
from k15.reward.notation import canonical

MAX_CHARS = 300  # of an expression of the problem that an answer could repeat
MAX_EXPRESSIONS = 40
REFUSALS = frozenset(
    {
        "restates the problem", "unevaluated expression", "not expanded", "not factored completely", "not simplified",
        "radical in a denominator", "per cent of nothing", "no interval",
    }
)  # fmt: skip
"""Reasons of a refusal though the answer equals the reference: no judge that compares the two is asked about these."""
_DELIMITED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_VERBS = (
    r"simplify|expand|factor(?:ise|ize)?|compute|evaluate|calculate|find|determine|express|rationali[sz]e|write|convert|reduce"
    r"|multiply out|what is|what's|value of|work out"
)
_REQUEST = re.compile(rf"\b(?:{_VERBS})\b[^$\\.?!=]{{0,80}}$", re.IGNORECASE)
_BARE_REQUEST = re.compile(
    rf"\b(?:{_VERBS})\b:?\s+(?:the\s+(?:expression|value of|product|sum|fraction)\s+)?([^?!\n]+)", re.IGNORECASE
)
_FORMS = {
    "expand": re.compile(r"\bexpand|\bmultiply out", re.IGNORECASE),
    "factor": re.compile(r"\bfactor(?:ise|ize)?\b(?!s? of\b|s? in\b)|\bfactored form|\bfactori[sz]ation\b", re.IGNORECASE),
    "simplify": re.compile(r"\bsimplif|\bsimplest\b|\blowest terms|\brationali[sz]e|\brational denominator", re.IGNORECASE),
    "rational": re.compile(r"\brationali[sz]e|\brational denominator|\bsimplest radical", re.IGNORECASE),
    "percent": re.compile(r"%|\bper ?cent|\bpct\b", re.IGNORECASE),
    "interval": re.compile(r"\binterval|\bdomain\b|\brange of\b", re.IGNORECASE),
}


@lru_cache(maxsize=4096)
def forms(question: str) -> frozenset[str]:
    """Which of expand, factor, simplify, rational (denominator), percent, interval the problem mentions."""
    return frozenset(name for name, pattern in _FORMS.items() if pattern.search(question))


@lru_cache(maxsize=4096)
def mentioned(question: str) -> tuple[tuple[str, bool], ...]:
    """(expression in canonical notation, whether the problem asks for its value), as they stand in the text."""
    found: dict[str, bool] = {}
    for match in _DELIMITED.finditer(question):
        text = next(g for g in match.groups() if g is not None)
        asked = _REQUEST.search(question[: match.start()]) is not None
        for piece in _pieces(text):
            found[piece] = found.get(piece, False) or asked
    for match in _BARE_REQUEST.finditer(_DELIMITED.sub(" ", question)):
        for piece in _pieces(re.split(r"\.(?:\s|$)|,\s| (?:in|as|for|if|where|when|into|and|using|with)\b", match[1])[0]):
            found[piece] = True
    return tuple(found.items())[:MAX_EXPRESSIONS]


def _pieces(text: str) -> list[str]:
    """The expression, and the sides of its equations: `f(x) = (x+1)^2` mentions (x+1)^2."""
    sides = {canonical(side) for side in [text, *re.split(r"=|&", text)]}
    return [s for s in sides if s and len(s) <= MAX_CHARS]


def squeezed(text: str) -> str:
    """Without blanks and brackets that say nothing, for comparing texts."""
    text = re.sub(r"\\cdot(?![a-zA-Z])|\*", "", re.sub(r"\s+", "", text))
    return re.sub(r"(?<=[\^_])\{(\w)\}", r"\1", text)


def refusal(given: str, wanted: str, question: str) -> str | None:
    """Why an answer that equals the reference is no answer to this problem; None where nothing in the text says so.

    Both are in canonical notation. The reference's own text is always an answer.
    """
    if squeezed(given) == squeezed(wanted):
        return None
    if any(asked and squeezed(text) == squeezed(given) for text, asked in mentioned(question)):
        return "restates the problem"
    seen = forms(question)
    number, reference = literal(given, loose=True), literal(wanted)
    added = number is not None and reference is not None and number.percent and not reference.percent
    if added and "percent" not in seen and number.value == reference.value:  # 5 % for 5 eggs
        return "per cent of nothing"
    if "interval" in seen and parts(given).kind == "list" and parts(wanted).kind == "()":
        return "no interval"
    return None
