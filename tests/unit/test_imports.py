"""The import table of docs/architecture.md as data: every import statement (lazy ones too) is an edge that must be listed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = {"types", "errors", "log", "config", "child"}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "child": set(),
    "log": {"types", "errors"},
    "config": {"types", "errors", "log", "conf"},
    "data": CORE,
    "rollout": CORE,
    "reward": CORE | {"rollout.client", "sandbox.client", "sandbox.job"},
    "curate": CORE | {"data", "reward"},
    "plan": CORE | {"train.shape", "train.packing"},
    "sandbox": CORE,
    "testgen": CORE | {"rollout.client", "sandbox.client", "sandbox.job", "sandbox.checker"},
    "train": CORE | {"kernels", "weights.layout"},
    "weights": CORE,
    "node": CORE | {"weights"},
    "eval": CORE | {"rollout", "reward", "data", "sandbox.client"},
    "long2short": CORE,
    "runs": CORE
    | {
        "long2short",
        "data",
        "rollout",
        "reward",
        "train",
        "weights",
        "node",
        "eval",
        "sandbox",
        "testgen",
        "curate",
        "plan",
        "conf",
    },
    "launch": CORE,
    "kernels": set(),
    "cli": CORE | {"runs", "launch", "eval", "node", "sandbox", "data"},
    "__main__": {"cli"},
    "": set(),
}
NAMED_BY_STRING = {"cli"}  # picks a command's module by name; launch may be named there and nowhere else
TORCH_FREE = ["k15.types", "k15.config.check", "k15.config.compose", "k15.data.sampler", "k15.data.store", "k15.rollout.worker",
              "k15.rollout.buffer", "k15.launch.submit", "k15.cli", "k15.runs.rl",
              "k15.runs.plan", "k15.runs.reward_model", "k15.runs.sft", "k15.runs.shortest"]  # fmt: skip
HEAVY = ("torch", "vllm", "transformers", "megatron")


def modules() -> dict[str, Path]:
    found = {}
    for base, prefix in ((ROOT / "k15", "k15"), (ROOT / "kernels", "k15.kernels")):
        for path in base.rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([prefix, *parts])] = path
    return found


def imports_of(module: str, path: Path) -> set[str]:
    """Full names of the k15 modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            names |= {base} | {f"{base}.{a.name}" for a in node.names}
    return {n for n in names if n == "k15" or n.startswith("k15.")}


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_edge_is_listed():
    known = modules()
    bad = []
    for module, path in known.items():
        own = room(module)
        assert own in ALLOWED, f"room {own!r} of {path} is not in the import table"
        for target in imports_of(module, path):
            if target not in known and target.rsplit(".", 1)[0] in known and room(target) not in ALLOWED:
                continue  # an attribute of the package itself, e.g. k15.__version__
            there = room(target)
            if there in (own, "") or there in ALLOWED[own]:
                continue
            if any(target == f"k15.{a}" or target.startswith(f"k15.{a}.") for a in ALLOWED[own] if "." in a):
                continue
            if any(f"k15.{a}".startswith(target + ".") or target == f"k15.{a.split('.')[0]}" for a in ALLOWED[own] if "." in a):
                continue  # the package above an allowed module
            bad.append(f"{module} imports {target}: {own} may import {sorted(ALLOWED[own])}")
    assert not bad, "\n".join(bad)


def test_no_cycles():
    known = modules()
    graph = {m: {t for t in imports_of(m, p) if t in known and t != m and not m.startswith(t + ".")} for m, p in known.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_kernels_is_not_a_top_level_name():
    code = "import importlib.util as u, sys; s = u.find_spec('kernels'); sys.exit(0 if s is None or 'k15' not in str(s.origin) else 1)"
    assert subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("module", TORCH_FREE)
def test_login_node_modules_do_not_import_heavy_ones(module):
    code = f"import sys, {module}; heavy = [m for m in {HEAVY!r} if m in sys.modules]; sys.exit(str(heavy) if heavy else 0)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
