"""Wrong submissions that nobody thought of: one small change in a right Python program (an operator, a bound, min for max).

Some changes do not change what a program does. So each mutant is judged twice, by the generated tests and by as many tests of
another seed; what either rejects is wrong, and of these the first must reject most.
"""

import ast
import copy
import random
from collections.abc import Iterator

from k15.testgen.problems import Problem, Source

_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv}
_NAMES = {"min": "max", "max": "min", "bisect_left": "bisect_right", "bisect_right": "bisect_left", "any": "all", "all": "any"}


def mutants(problem: Problem, count: int, seed: int = 0) -> list[Source]:
    """At most `count` different ones, drawn from all single changes of all Python submissions."""
    every: dict[str, str] = {}
    for source in problem.submissions:
        if source.language == "python":
            for number, text in enumerate(_changed(source.text)):
                every.setdefault(text, f"{source.name}:{number}")
    rng = random.Random(f"{seed}/{problem.id}")
    return [Source(every[text], "python", text) for text in rng.sample(sorted(every), min(count, len(every)))]


def _changed(text: str) -> Iterator[str]:
    tree = ast.parse(text)
    for place, node in enumerate(ast.walk(tree)):
        for other in _others(node):
            changed = copy.deepcopy(tree)
            other(list(ast.walk(changed))[place])
            yield ast.unparse(changed) + "\n"


def _others(node: ast.AST) -> Iterator:
    """What can be done to this node, as functions that do it to its copy."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        yield lambda n: n.ops.__setitem__(0, _COMPARE[type(n.ops[0])]())
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _BINARY:
        yield lambda n: setattr(n, "op", _BINARY[type(n.op)]())
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield lambda n: setattr(n, "value", n.value + 1)
        yield lambda n: setattr(n, "value", n.value - 1)
    elif isinstance(node, ast.Name) and node.id in _NAMES:
        yield lambda n: setattr(n, "id", _NAMES[n.id])
    elif isinstance(node, ast.BoolOp):
        yield lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
