"""Whether an expression that equals the reference has been worked out, and has the form that the problem asks for.

    reference 12\\pi          answer (3 \\cdot 4)\\pi      unevaluated arithmetic
    reference \\frac{\\pi}{4}  answer \\arctan 1            a function left standing
    Expand (x+1)^2           answer (1+x)^2             restates the problem (the order of terms does not count)
    Factor x^4-16            answer (x^2-4)(x^2+4)      factored too little

A rule never asks for more than the reference itself shows: where the reference is unexpanded, so may the answer be.
SymPy, so in worker processes only.
"""

from sympy import (
    Add,
    Basic,
    Derivative,
    Expr,
    Integer,
    Integral,
    Limit,
    Mul,
    Pow,
    Product,
    Rational,
    Subs,
    Sum,
    Symbol,
    expand,
    factorint,
    preorder_traversal,
)
from sympy.core.function import Application
from sympy.core.relational import GreaterThan, LessThan, StrictGreaterThan, StrictLessThan
from sympy.logic.boolalg import Boolean
from sympy.matrices import MatrixBase
from sympy.matrices.expressions import MatMul, MatrixExpr

from k15.reward.algebra import parsed
from k15.reward.asked import forms, mentioned

MORE_OPERATIONS = 3  # that a simplified answer may have over the reference: x/2 + 1/2 for (x+1)/2
MAX_TERMS = 60  # larger sums are not expanded here


def refusal(given: str, wanted: str, question: str | None) -> str | None:
    """Why `given`, which equals `wanted` by algebra, is no answer; None where it is one. Canonical notation."""
    mine, right = parsed(given), parsed(wanted)
    if not isinstance(right, Boolean) and isinstance(mine, Boolean) and not _solved(mine):
        return "unevaluated expression"
    if isinstance(right, MatrixBase) and _operates(mine):
        return "unevaluated expression"
    if not (isinstance(mine, Expr) and isinstance(right, Expr)) or mine == right:
        return None
    if (_standing(mine) and not _standing(right)) or (_sums(mine) and not _sums(right)):
        return "unevaluated expression"
    if question is None:
        return None
    if _restates(mine, right, question):
        return "restates the problem"
    asked = forms(question)
    if "expand" in asked and _expanded(right) and not _expanded(mine):
        return "not expanded"
    if (
        "factor" in asked
        and (count := len(_factors(right))) > 1
        and (len(_factors(mine)) < count or _content(mine) > _content(right))
    ):
        return "not factored completely"
    if "simplify" in asked and _simpler(right, mine):
        return "not simplified"
    if "rational" in asked and _radical_below(mine) and not _radical_below(right):
        return "radical in a denominator"
    return None


def _solved(e: Boolean) -> bool:
    """Does every inequality (x > 2, 1 < x <= 3) bound a bare symbol? SymPy would solve 2x + 1 < 5 itself."""
    inequalities = e.atoms(LessThan, StrictLessThan, GreaterThan, StrictGreaterThan)
    return all(isinstance(side, Symbol) or not side.free_symbols for one in inequalities for side in (one.lhs, one.rhs))


def _operates(e: object) -> bool:
    """Does a product, power or sum of matrices wait to be worked out? A number before one matrix is a form of it."""
    if isinstance(e, MatrixBase) or not isinstance(e, Basic):
        return False
    matrices = [n for n in preorder_traversal(e) if isinstance(n, MatrixBase)]
    plain = isinstance(e, MatMul) and all(isinstance(a, MatrixBase) or not isinstance(a, MatrixExpr) for a in e.args)
    return bool(matrices) and not (plain and len(matrices) == 1)


def _standing(e: Expr) -> bool:
    """Does a sum, integral, derivative, limit, or a function of constants (sin 45, 5!) wait to be worked out?"""
    return any(
        isinstance(n, Integral | Sum | Product | Limit | Derivative | Subs) or (isinstance(n, Application) and not n.free_symbols)
        for n in preorder_traversal(e)
    )


def _sums(e: Expr) -> bool:
    """Does arithmetic on whole numbers (3*4, 7+5, 4^2) wait to be worked out?"""
    for node in preorder_traversal(e):
        if isinstance(node, Add | Mul) and sum(_whole(a) for a in node.args) > 1:
            return True
        if isinstance(node, Pow) and _whole(node.base) and _whole(node.exp) and node.exp > 0:
            return True
    return False


def _whole(e: Basic) -> bool:
    return isinstance(e, Integer) and e not in (0, 1, -1)


def _restates(mine: Expr, right: Expr, question: str) -> bool:
    """Is `mine` an expression of the problem, and asked for there or longer than the reference?"""
    evaluated = _evaluated(mine)
    for text, asked in mentioned(question):
        theirs = parsed(text)
        if not isinstance(theirs, Expr):
            continue
        same = theirs == mine or (evaluated == _evaluated(theirs) != _evaluated(right))
        if same and (asked or mine.count_ops() > right.count_ops()):
            return True
    return False


def _evaluated(e: Basic) -> Basic:
    """`e` as SymPy rebuilds it: ones and zeros gone, equal factors joined, nothing multiplied out but numbers."""
    return e.func(*map(_evaluated, e.args)) if e.args else e


def _expanded(e: Expr) -> bool:
    """No sum is multiplied (but by -1 or a fraction), and none is raised to a power."""
    for node in preorder_traversal(e):
        if isinstance(node, Pow) and isinstance(node.base, Add) and node.exp.is_Integer and node.exp > 1:
            return False
        if isinstance(node, Mul):
            sums = sum(isinstance(a, Add) and bool(a.free_symbols) for a in node.args)
            if sums > 1 or (sums and not all(isinstance(a, Add) or _harmless(a) for a in node.args)):
                return False
    return True


def _harmless(factor: Basic) -> bool:
    """-1, a fraction, or something that is divided by."""
    return factor == -1 or _below(factor) or (isinstance(factor, Rational) and not isinstance(factor, Integer))


def _below(e: Basic) -> bool:
    return isinstance(e, Pow) and e.exp.is_number and bool(e.exp < 0)


def _factors(e: Expr) -> list[Expr]:
    """The factors with a variable, each as often as it stands."""
    if isinstance(e, Mul):
        return [f for a in e.args for f in _factors(a)]
    if isinstance(e, Pow) and isinstance(e.exp, Integer) and 0 < e.exp < MAX_TERMS:
        return _factors(e.base) * int(e.exp)
    return [e] if e.free_symbols else []


def _content(e: Expr) -> Rational:
    """The whole number that could still be taken out of the factors."""
    found = Integer(1)
    for factor in _factors(e):
        found *= abs(factor.primitive()[0]) if isinstance(factor, Add) else 1
    return found


def _simpler(right: Expr, mine: Expr) -> bool:
    """Is the reference plainly simpler: fewer operations, like terms joined, roots drawn?"""
    if mine.count_ops() > right.count_ops() + MORE_OPERATIONS:
        return True
    return any(undone(mine) and not undone(right) for undone in (_like_terms, _roots))


def _like_terms(e: Expr) -> bool:
    """2x + 3x, or two numbers in one sum."""
    for node in preorder_traversal(e):
        if isinstance(node, Add) and len(node.args) <= MAX_TERMS:
            joined = Add(*map(_evaluated, node.args))
            if len(Add.make_args(joined)) < len(node.args):
                return True
    return False


def _roots(e: Expr) -> bool:
    """A root of a whole number with a factor that could be drawn: sqrt(50)."""
    for node in preorder_traversal(e):
        if isinstance(node, Pow) and isinstance(node.exp, Rational) and node.exp.q > 1:
            base = expand(_evaluated(node.base)) if not node.base.free_symbols else node.base
            if isinstance(base, Integer) and 1 < base < 10**12 and max(factorint(base).values()) >= node.exp.q:
                return True
    return False


def _radical_below(e: Expr) -> bool:
    return any(
        _below(n) and any(isinstance(m, Pow) and isinstance(m.exp, Rational) and m.exp.q > 1 for m in preorder_traversal(n))
        for n in preorder_traversal(e)
    )
