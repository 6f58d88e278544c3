"""Texts that ask for a proof and for no value. A question beside the claim makes a text a problem again.

If n is odd, prove that n^2 is odd.                    a proof
Show that x = 3 is a root, then find the other one.    a problem
The graph shows f. Show the value of f(2).             a problem: only `prove` means a proof by itself
"""

import re

_PROVE = re.compile(
    r"(?:^|[.!?:;,$]\s+|\n\s*|\b(?:and|then|to|please)\s+)"
    r"(?:(?:prove|disprove)\b(?:\s+(?:that|the|by|or))?|(?:show|demonstrate|verify)\s+(?:that|by\s+(?!how\b))\b)",
    re.I,
)
_ASKS = re.compile(
    r"\?|\b(?:find|compute|calculate|determine|evaluate|how (?:many|much|long|far)|what|solve|simplify|express|give|enter|state|"
    r"write)\b",
    re.I,
)
_ASKS_TOO = re.compile(
    r"(?:,|\b(?:and|then|hence|also)\b)\s+(?:(?:then|hence|also|thus)\s+)?"
    r"(?:find|compute|calculate|determine|evaluate|solve|give|state|express|what|how)\b",
    re.I,
)
_SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)|\Z)", re.DOTALL)
_PROVE_HAN = re.compile(r"(?:^|[。．；;，,：:！？!?\s])(?:试|请|求)?(?:求证|证明)")
_ASKS_HAN = re.compile(r"[？?]|求(?!证)|多少|计算|判断|是否|哪")
NO_ANSWER = frozenset({"proof", "prove", "qed", "证明", "证明略", "略", "见解析"})
"""What stands, in lower case and without full stops, in the place of an answer where there is none: NuminaMath has `proof`."""


def asks_for_proof(text: str) -> str | None:
    """The beginning of the passage that asks for it, or None."""
    han = _PROVE_HAN.search(text)
    if han is not None and not _ASKS_HAN.search(text):
        return text[han.start() : han.start() + 30].strip("。．；;，,：:！？!? \n")
    match = _PROVE.search(text)
    if match is None:
        return None
    claim = _SENTENCE.match(text, match.end())
    assert claim is not None, "it matches anything"
    if _ASKS.search(text[: match.start()] + " " + text[claim.end() :]) or _ASKS_TOO.search(claim[0]):
        return None
    return text[match.start() : match.start() + 60].strip(" ,\n")
