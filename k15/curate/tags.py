"""What a problem is about: its own label, words that give it away, or a model's opinion; and a sample balanced by it."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from k15.curate.rows import Row

_WORDS: dict[str, str] = {
    "geometry": (
        r"triangles?|circles?|angles?|polygons?|perpendicular|parallel|rectang\w*|radius|diameter|perimeter|"
        r"cub(?:e|es|ic inch\w*)|cylinders?|spheres?|cones?|quadrilaterals?|hexagons?|pentagons?|trapezoids?|"
        r"prisms?|inscribed|circumscribed|hypotenuse|vertices|squares? of side|area of|\\angle|\\triangle"
    ),
    "number theory": (
        r"divisors?|divisible|primes?|remainders?|modulo|gcd|lcm|integers?|digits?|multiples?|factors? of|"
        r"congruent|base \d+|\\pmod|\\equiv"
    ),
    "counting and probability": (
        r"probabilit\w+|dice|die|coins?|how many ways|arrangements?|permutations?|combinations?|randomly|"
        r"chosen at random|committees?|expected (?:value|number)|\\binom|choose"
    ),
    "calculus": (
        r"derivatives?|integrals?|limits?|differentiable|\\int|\\lim|\\frac\{d|converges?|tangent line|"
        r"antiderivative"
    ),
    "precalculus": (
        r"\\(?:sin|cos|tan|cot|sec|csc|arc\w+|vec|mathbf|begin\{pmatrix\})|matri(?:x|ces)|vectors?|polar|"
        r"complex numbers?|eigenvalues?|theta"
    ),
    "algebra": (
        r"equations?|polynomials?|roots?|quadratics?|functions?|f\(x\)|solve for|expressions?|inequalit\w+|slopes?|"
        r"graphs?|logarithms?|\\log|sequences?|arithmetic series|geometric series|variables?|simplify|expand|"
        r"factor(?:ed|ing)?|asymptotes?"
    ),
    "word problem": (
        r"how (?:many|much|long|far|old)|dollars?|\$\d|cents?|per (?:hour|day|week|month|year)|hours?|minutes?|"
        r"days?|weeks?|miles?|pounds?|buys?|sells?|earns?|cost|costs|paid|pays?|each|total|twice|half as"
    ),
    "physics": (
        r"velocity|acceleration|newtons?|joules?|mass of|voltage|magnetic|momentum|kinetic|wavelength|electrons?|"
        r"thermodynamic\w*"
    ),
    "chemistry": r"mol(?:e|es|ar|ecule\w*)|reaction|acids?|bases?\b.*\bpH|oxid\w+|isotopes?|compound|titrat\w+|enthalpy",
    "biology": r"cells?|genes?|proteins?|species|organisms?|enzymes?|populations?|DNA|RNA|chromosomes?",
    "computer science": r"algorithms?|binary tree|time complexity|big-?O|pointer|stack|queue|compiler|boolean|bits?|bytes?",
}
"""Words that tell a discipline, as alternatives of a regular expression."""
_FIND = {name: re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE) for name, pattern in _WORDS.items()}
DISCIPLINES = (*_WORDS, "programming", "other")
_NAMES = {name: re.compile(rf"(?<![a-z]){name}s?(?![a-z])") for name in DISCIPLINES[:-1]}
_NAMES["other"] = re.compile(r"(?:^|[^\w\s])\s*other(?=\s*(?:[^\w\s]|$))")


def discipline(row: Row) -> str:
    """The row's own label in lower case, else the discipline with most different telling words, else `other`."""
    if row.discipline is not None:
        return row.discipline.strip().lower().replace("_", " ").replace("&", "and")
    if row.domain == "code":
        return "programming"
    found = {name: len({m.group().lower() for m in find.finditer(row.prose)}) for name, find in _FIND.items()}
    best = max(found, key=lambda name: (found[name], -DISCIPLINES.index(name)))
    return best if found[best] else "other"


def tag_prompt(text: str) -> str:
    """What a model is asked, so that `named` can read its answer."""
    return (
        f"Which of these disciplines does the problem belong to: {', '.join(DISCIPLINES)}?\n\nProblem: {text}\n\n"
        "Answer with the discipline's name only."
    )


def named(response: str) -> str | None:
    """The discipline that a model's response names last, None where it names none. Whole words count, and `other` by itself or
    where it is all there is: "Algebra; no other fits" is algebra."""
    said = " ".join(response.lower().replace("&", " and ").replace("pre-calculus", "precalculus").split())
    ends = {name: max((m.end() for m in find.finditer(said)), default=-1) for name, find in _NAMES.items()}
    best = max(ends, key=lambda name: ends[name])
    return best if ends[best] >= 0 else "other" if re.search(r"\bother\b", said) else None


def balanced(tags: Sequence[str], size: int, seed: int) -> list[int]:
    """Indices (ascending) of at most `size` items: tags with few items whole, the others with equally many.

    What does not divide evenly goes to tags in alphabetical order. Items of a tag are drawn by `seed`.
    """
    counts: Mapping[str, int] = Counter(tags)
    quota, left, names = {}, min(size, len(tags)), sorted(counts, key=lambda t: (counts[t], t))
    for i, name in enumerate(names):
        quota[name] = min(counts[name], left // (len(names) - i))
        left -= quota[name]
    for name in sorted(counts):
        more = min(left, counts[name] - quota[name], 1)
        quota[name] += more
        left -= more
    chosen: list[int] = []
    for name in sorted(counts):
        own = [i for i, tag in enumerate(tags) if tag == name]
        chosen += random.Random(f"{seed} {name}").sample(own, quota[name])
    return sorted(chosen)
