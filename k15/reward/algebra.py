"""Whether two expressions are equal, by math-verify (latex2sympy and SymPy). Lives in worker processes only.

Own code stands only where math-verify is slow or wrong:

* ANTLR first reads with its fast SLL prediction, and again with full LL only where that fails. A parse that SLL accepts
  is the one that LL would give, six times sooner.
* Two expressions are first compared at random points, to 50 digits; `simplify` is asked only where that does not tell.
* Its list of units holds single letters, so that it reads `6 + 9c` as 15: units are taken off in `k15.reward.compare`.
* math-verify rounds decimals to 6 places, so that it takes 0.0000672 for 0.0000674, and reads a name with its case lost
  as a product of letters. The first is refused here (`_close`), the second in `k15.reward.compare`.
"""

import logging
import math
import random
import re
from functools import lru_cache

import math_verify
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, _Latex2Sympy, convert_to_pct, normalize_latex
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq
from sympy import (
    Basic,
    Derivative,
    Expr,
    Float,
    Integral,
    Limit,
    MatrixBase,
    Pow,
    Product,
    Rational,
    Sum,
    Symbol,
    UnevaluatedExpr,
    factorial,
    preorder_traversal,
)  # fmt: skip
from sympy.core.function import AppliedUndef

from k15.reward.literal import literal

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off; ours is the pool's
_NORMAL = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False)
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])")  # math-verify misses that of 4i
_DIGITS = 50
_SAME = Float(f"1e{10 - _DIGITS}", _DIGITS)
_TOLERANCE = 1e-6  # relative; float noise is far below it, wrong answers far above
MAX_POWER = 1e5


class _Reader(_Latex2Sympy):
    """latex2sympy's converter with a choice of ANTLR's prediction mode."""

    mode = PredictionMode.SLL

    def create_parser(self, latex_str: str) -> object:
        parser = super().create_parser(latex_str)
        parser._interp.predictionMode = self.mode
        return parser


class _FullReader(_Reader):
    mode = PredictionMode.LL


def equal(given: str, wanted: str) -> bool:
    """Whether the two are the same value, set, equation or expression. May run long or raise MemoryError: the pool's business."""
    right, mine = parsed(wanted), parsed(given)
    if right is None or mine is None:
        return False
    seen = _at_points(mine, right)
    if seen is not None:
        return seen
    return bool(math_verify.verify(right, mine, allow_set_relation_comp=True, timeout_seconds=None)) and _close(mine, right)


@lru_cache(maxsize=8192)
def parsed(text: str) -> Basic | MatrixBase | None:
    """The SymPy object of a canonical answer; None where it cannot be read. Cached: references come back with every response."""
    number = literal(text)
    if number is not None and number.percent:
        return convert_to_pct(_read(str(number.value)))
    normal = normalize_latex(text, _NORMAL)
    for candidate in dict.fromkeys((normal, get_last_eq(normal))):
        found = _read(candidate)
        if found is not None:
            return None if _too_large(found) else found
    return None


def _too_large(expression: Basic | MatrixBase) -> bool:
    """Whether evaluation would meet a power or factorial of more than about 100,000 digits (9^{9^{9^9}})."""
    nodes = expression if isinstance(expression, MatrixBase) else (expression,)
    return any(
        (isinstance(e, Pow) and not e.exp.free_symbols and abs(_rough(e.exp)) > MAX_POWER)
        or (isinstance(e, factorial) and not e.free_symbols and abs(_rough(e.args[0])) > MAX_POWER)
        for node in nodes
        for e in preorder_traversal(node)
    )


def _rough(e: Basic) -> float:
    """A constant's size, infinity where it is beyond floats; 1 for what is neither number, sum, product nor power."""
    try:
        if e.is_Number:
            return float(e)
        parts = [_rough(a) for a in e.args]
        if isinstance(e, Pow):
            return abs(parts[0]) ** parts[1]
        if isinstance(e, factorial):
            return math.gamma(abs(parts[0]) + 1)
        return math.prod(parts) if e.is_Mul else sum(map(abs, parts)) if e.is_Add else 1.0
    except (OverflowError, ZeroDivisionError):
        return math.inf


def _read(latex: str) -> Basic | MatrixBase | None:
    real = not (should_treat_as_complex(latex) or _IMAGINARY.search(latex))
    for reader in (_Reader, _FullReader):
        try:
            return reader(is_real=real).parse(latex)
        except MemoryError:
            raise
        except Exception:  # latex2sympy raises bare Exceptions: not its language
            continue
    return None


def _at_points(a: object, b: object) -> bool | None:
    """Whether two expressions agree at random points (all positive, all negative, mixed); None where that is not known.

    Agreement to 40 of 50 digits counts as equal where both are exact: no one meets such a coincidence by accident.
    """
    if not (isinstance(a, Expr) and isinstance(b, Expr)) or isinstance(a, Symbol) or isinstance(b, Symbol):
        return None
    if any(e.has(UnevaluatedExpr, AppliedUndef, Integral, Sum, Product, Limit, Derivative) for e in (a, b)):
        return None
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    chance = random.Random(0)
    exact = not (a.has(Float) or b.has(Float))
    for signs in ((1, 1), (-1, -1), (1, -1)) if symbols else ((1, 1),):
        values = {s: Rational(chance.randint(501, 1999), 1000) * signs[i % 2] for i, s in enumerate(symbols)}
        x, y = (_number(e, values) for e in (a, b))
        if x is None or y is None:
            return None
        if _far(x, y):
            return False
        exact = exact and bool(abs(x - y) <= _SAME * (abs(x) + abs(y)))
    return True if exact else None


def _number(expression: Expr, values: dict[Symbol, Rational]) -> Expr | None:
    """The value as a SymPy number of 50 digits, whose exponent has no bounds; None where there is none."""
    try:
        value = expression.evalf(_DIGITS, subs=values)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError, AttributeError, NotImplementedError):
        return None  # sums to infinity, functions without a value here
    return value if value.is_number and value.is_finite else None


def _far(x: Expr | None, y: Expr | None) -> bool:
    """Whether two values certainly differ. False where one of them is missing."""
    if x is None or y is None:
        return False
    try:
        p, q = complex(x), complex(y)
        size = abs(p) + abs(q)
        if 1e-200 < size < 1e300:
            return abs(p - q) > _TOLERANCE * size
        return bool(abs(x - y) > _TOLERANCE * (abs(x) + abs(y)))
    except (TypeError, OverflowError):  # no number after all
        return False


def _close(a: object, b: object) -> bool:
    """Whether two constants agree to six digits; True where they are no constants."""
    if not (isinstance(a, Expr) and isinstance(b, Expr)) or a.free_symbols or b.free_symbols:
        return True
    if any(e.has(UnevaluatedExpr, AppliedUndef) for e in (a, b)):
        return True
    return not _far(_number(a, {}), _number(b, {}))
