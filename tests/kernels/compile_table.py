"""Compile every kernel for every target without a GPU, and read registers, spills and shared memory off the machine code.

    python tests/kernels/compile_table.py --write     regenerate compile_table.json and docs/kernels-table.md
    python tests/kernels/compile_table.py --measure FILE   what the kernels compile to now, as JSON

Runs in a process of its own: kernels must not be decorated for Triton's interpreter. Cases come from every module of
`kernels/` that has `compile_cases()`.
"""

import ast
import importlib
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TABLE, MARKDOWN = HERE / "compile_table.json", ROOT / "docs" / "kernels-table.md"
COMMAND = "python tests/kernels/compile_table.py --write"
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
"""Bytes of shared memory that one block (workgroup) can have."""
SHARED_TOTAL = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}
WARPS_AT_MOST = {"sm_80": 64, "sm_90": 64}
WORKERS = 2


def modules() -> list[str]:
    """Names of the modules under kernels/ that define jit functions or compile cases."""
    found = []
    for path in sorted((ROOT / "kernels").glob("*/*.py")):
        text = path.read_text()
        if "def compile_cases" in text or "triton.jit" in text:
            found.append(f"k15.kernels.{path.parent.name}.{path.stem}")
    return found


def kernels_of(path: Path) -> set[str]:
    """Names of the jit functions of a file that no other one of it names (to call, or to scan with): what the host launches."""
    functions = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
    ]
    named = {n.id for f in functions for n in ast.walk(f) if isinstance(n, ast.Name)}
    return {f.name for f in functions} - named


def launched_kernels() -> set[tuple[str, str]]:
    """(op, kernel) of every kernel in kernels/, leaving out helpers that kernels of the same op import from one another."""
    found, imported = set(), set()
    for path in sorted((ROOT / "kernels").glob("*/*.py")):
        op = path.parent.name
        found |= {(op, name) for name in kernels_of(path)}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and "triton.jit" in path.read_text():
                imported |= {(op, alias.name) for alias in node.names}
    return found - imported


def cases() -> list[tuple[str, object]]:
    """(op, CompileCase) of all modules, in the order of the files."""
    found = []
    for name in modules():
        module = importlib.import_module(name)
        if hasattr(module, "compile_cases"):
            found += [(name.split(".")[2], case) for case in module.compile_cases()]
    return found


def measure() -> dict:
    """{"versions": {...}, "rows": {"op/case target": row}} of all cases; a row names kernel, target and what it uses."""
    import triton

    global _cases
    _cases = cases()
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        rows = dict(pool.map(_row, range(len(_cases)), chunksize=1))
    versions = {"triton": triton.__version__, "ptxas sm_80": _ptxas_version(80), "ptxas sm_90": _ptxas_version(90)}
    assert len(rows) == len(_cases), "two compile cases of an op have the same name and target"
    return {"versions": versions, "rows": rows}


def _row(index: int) -> tuple[str, dict]:
    op, case = _cases[index]
    compiled, kernel = _compile(case)
    usage = _amd_usage(compiled.asm["amdgcn"]) if case.target.startswith("gfx") else _nvidia_usage(compiled.asm["cubin"])
    row = {
        "op": op,
        "case": case.name.removeprefix(f"{op}."),
        "target": case.target,
        "kernel": kernel,
        "num_warps": compiled.metadata.num_warps,
    }
    row |= usage | {"shared_bytes": compiled.metadata.shared}
    return f"{op}/{row['case']} {case.target}", row


def _compile(case):
    """(compiled kernel, its name). The arguments follow the kernel's own order, whatever that of the case."""
    import triton
    from k15.kernels.compile_case import TARGETS
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = case.kernel
    while not hasattr(kernel, "arg_names") or not hasattr(kernel, "src"):
        kernel = kernel.fn  # under triton.autotune and triton.heuristics
    names = list(kernel.arg_names)
    assert set(names) == set(case.signature), f"{case.name}: {set(names) ^ set(case.signature)} differ from the signature"
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in case.aligned}
    source = ASTSource(kernel, {name: case.signature[name] for name in names}, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[case.target]), options=dict(case.options))
    return compiled, kernel.__name__


def _nvidia_usage(cubin: bytes) -> dict:
    """Registers a thread, and bytes of local memory (spills and stack) a thread, from the cubin's resource section."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_nvidia_program("cuobjdump"), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"\b{key}:(\d+)", text)[1]) for key in ("REG", "STACK", "LOCAL"))
    return {"registers": registers, "spill_bytes": stack + local}


def _amd_usage(text: str) -> dict:
    """Vector registers a lane, and bytes of private memory (spills and stack) a lane, from the metadata of the assembly."""
    number = {k: int(re.search(rf"\.{k}:\s+(\d+)", text)[1]) for k in ("vgpr_count", "private_segment_fixed_size")}
    return {"registers": number["vgpr_count"], "spill_bytes": number["private_segment_fixed_size"]}


def _nvidia_program(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _ptxas_version(architecture: int) -> str:
    """Triton has more than one ptxas, and picks by architecture."""
    from triton.backends.nvidia.compiler import get_ptxas

    return str(get_ptxas(architecture).version)


def warps_per_sm(row: dict) -> int | None:
    """Warps that registers and shared memory let one SM hold; None for AMD."""
    if row["target"] not in WARPS_AT_MOST:
        return None
    by_registers = 65536 // (math.ceil(row["registers"] / 8) * 8 * 32) // row["num_warps"]
    by_shared = SHARED_TOTAL[row["target"]] // (row["shared_bytes"] + 1024)
    return min(WARPS_AT_MOST[row["target"]] // row["num_warps"], by_registers, by_shared) * row["num_warps"]


def markdown(table: dict) -> str:
    """docs/kernels-table.md for a table."""
    versions = table["versions"]
    lines = [
        "# What the kernels compile to",
        "",
        f"Written by `{COMMAND}` ({', '.join(f'{k} {v}' for k, v in versions.items())}).",
        "`tests/kernels/test_compile.py` fails where a kernel spills on sm_90, does not fit a chip, or differs from this table.",
        "Spills: bytes of local memory a thread. Warps: how many one SM can hold at once with these registers and this shared",
        "memory (of 64). Registers on gfx942 are vector registers a lane.",
        "",
        "| op | case | kernel | target | warps a block | registers | spills | shared memory (KB) | warps an SM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table["rows"].values():
        warps = warps_per_sm(row)
        lines.append(
            f"| {row['op']} | {row['case']} | `{row['kernel']}` | {row['target']} | {row['num_warps']} | {row['registers']} | "
            f"{row['spill_bytes']} | {row['shared_bytes'] / 1024:.1f} | {'' if warps is None else warps} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise SystemExit("TRITON_INTERPRET is set: kernels would be interpreted, not compiled")
    os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"  # Triton 3.9's default, which it warns about while unset
    if argv == ["--write"]:
        table = measure()
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
        MARKDOWN.write_text(markdown(table))
    elif len(argv) == 2 and argv[0] == "--measure":
        Path(argv[1]).write_text(json.dumps(measure()))
    else:
        raise SystemExit(f"usage: {COMMAND} | --measure FILE")


if __name__ == "__main__":
    main(sys.argv[1:])
