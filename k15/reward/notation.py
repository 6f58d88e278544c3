"""One way to write what can be written in many: an answer's text without typography, before anything is compared.

`canonical` removes what has no meaning (math delimiters, sizes, thin spaces, invisible characters), maps unicode to
LaTeX, and turns every upright-text command into `\\text{...}`. It never changes a value.
"""

import re
import unicodedata

_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("{", "}"),
    ("**", "**"),
)
# Zero-width characters, marks and overrides of the text direction, soft hyphens, variation selectors, controls.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\x00-\x08\x0b-\x1f\x7f]"
)
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "×": "\\times ", "✕": "\\times ", "÷": "\\div ",
    "·": "\\cdot ", "∙": "\\cdot ", "⋅": "\\cdot ", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "⩽": "\\le ", "≥": "\\ge ",
    "⩾": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "°": "^\\circ", "º": "^\\circ", "±": "\\pm ",
    "∓": "\\mp ", "∅": "\\emptyset ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "λ": "\\lambda ",
    "φ": "\\phi ", "ω": "\\omega ", "μ": "\\mu ", "σ": "\\sigma ", "Δ": "\\Delta ", "⁄": "/", "∕": "/", "∗": "*",
    "≈": "\\approx ", "⟨": "\\langle ", "⟩": "\\rangle ", "’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " ",
    "\u2009": " ", "\u202f": " ", "\u2003": " ",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text(?:bf|it|rm|sf|tt|normal|sc)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{", r"\\text{"),
        (r"\{\s*\\(?:rm|bf|it)\s+([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:left|right|big|Big|bigg|Bigg)[lrm]?(?![a-zA-Z])\s*", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|mathstrut|strut)(?![a-zA-Z])", ""),
        (r"\\frac\s*(\\pi|[0-9a-zA-Z])\s*(?=[\\0-9a-zA-Z{])", r"\\frac{\1}"),
        (r"\\frac(\{[^{}]*\})\s*(\\pi(?![a-zA-Z])|[0-9a-zA-Z])", r"\\frac\1{\2}"),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\\\\s*\[[\d.]+(?:ex|em|pt|mm|cm)\]", r"\\\\\\\\"),
        (r"(?<!\\)\\!\s*", ""),
        (r"(?<=\d)(?:(?<!\\)\\,|~)(?=\d{3}(?!\d))", ","),  # 10\,080
        (r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d)", ","),
        (r"(?<!\\)\\[,;: ]|~|\\(?:q?quad|thinspace|enspace|space)(?![a-zA-Z])", " "),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"),
        (r"\\(?:neq)(?![a-zA-Z])", r"\\ne"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset"),
        (r"\\l(?:brace|vert|Vert)(?![a-zA-Z])", r"\\{"),
        (r"\\r(?:brace)(?![a-zA-Z])", r"\\}"),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])|\\text\{\s*°\s*\}", r"^\\circ "),
        (r",?\s*\\text\{\s*(?:and|or),?\s*\}\s*|,?\s+(?:and|or)\s+", ", "),
        (r"\\text\{\s*\}", " "),
        (r"\s+", " "),
    )
)


def canonical(text: str) -> str:
    """The same answer in one notation. Idempotent but for trailing punctuation; linear in the text's length."""
    text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = _from_unicode(text)
    text = unwrapped(text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return unwrapped(text.strip())


def unwrapped(text: str) -> str:
    """Without surrounding mathematics delimiters, blanks and final punctuation."""
    text = text.strip()
    for _ in range(len(_WRAPPERS)):
        before = text
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right) and _whole(left, inner):
                text = inner.strip()
        text = _without_full_stop(text)
        if text == before:
            break
    return text


def nesting(text: str) -> int:
    """How deep its brackets go."""
    deepest = depth = 0
    for char in text:
        depth += (char in "({[") - (char in ")}]")
        deepest = max(deepest, depth)
    return deepest


def _whole(left: str, inner: str) -> bool:
    """Whether the pair encloses all of the text, rather than its first and last piece."""
    if left.endswith("{"):
        depth = 0
        for match in re.finditer(r"\\.|[{}]", inner, re.DOTALL):
            depth += {"{": 1, "}": -1}.get(match.group(), 0)
            if depth < 0:
                return False
        return depth == 0
    return re.search(r"(?<!\\)" + re.escape(left), inner) is None and not inner.endswith("\\")


def _without_full_stop(text: str) -> str:
    """`5.`, `\\frac{1}{2},` and `x+1;` end a sentence; an ellipsis, `\\,` and `5!` do not."""
    while text and text[-1] in ".,;:" and not text.endswith(("..", *("\\" + c for c in ",;:"))):
        text = text[:-1].rstrip()
    return text


def _from_unicode(text: str) -> str:
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀-₉]+", lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(r"√\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"√\s*([0-9]+|[a-zA-Z])", r"\\sqrt{\1}", text)
    return "".join(map(_ascii, text))


def _ascii(char: str) -> str:
    if char.isascii():
        return char
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    plain = unicodedata.normalize("NFKC", char)
    if "⁄" in plain:  # ½ and its kind
        above, below = plain.split("⁄")
        return f"\\frac{{{above}}}{{{below}}}" if below else char
    if "！" <= char <= "～" or (char.isdigit() and plain.isdigit() and plain.isascii()):  # full width and other digits
        return plain
    if "\U0001d400" <= char <= "\U0001d7ff":  # mathematical letters and digits
        return plain
    return str(int(unicodedata.digit(char))) if char.isdecimal() else char
