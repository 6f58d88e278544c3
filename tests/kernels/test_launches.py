"""Every Triton launch is on the device of its tensors: Triton takes the current one, which need not be theirs."""

import ast
from pathlib import Path

import k15.kernels


def _launches(path: Path) -> dict[str, bool]:
    """'file:line kernel' of every `kernel[grid](...)` -> whether a `with on_device(...)` is around it."""
    found = {}

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.With):
            inside = inside or any(ast.unparse(item.context_expr).startswith("on_device(") for item in node.items)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            found[f"{path.parent.name}/{path.name}:{node.lineno} {ast.unparse(node.func.value)}"] = inside
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(path.read_text()), False)
    return found


def test_every_launch_is_on_the_device_of_its_tensors():
    found = {}
    for path in sorted(Path(k15.kernels.__path__[0]).rglob("*.py")):
        found |= _launches(path)
    assert len(found) >= 11 and all(found.values()), [name for name, inside in found.items() if not inside]
