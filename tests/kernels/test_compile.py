"""Every kernel compiles for sm_80, sm_90 and gfx942, fits the chips, spills nothing on sm_90, and is as the table says."""

import json
import os
import subprocess
import sys

import compile_table
import pytest
from k15.kernels.compile_case import TARGETS

REGENERATE = f"If the change is meant, run `{compile_table.COMMAND}` and commit the two files it writes."


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the kernels compile to now, from a process where they are not interpreted."""
    out = tmp_path_factory.mktemp("compiled") / "measured.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-P", compile_table.__file__, "--measure", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.timeout(600)
def test_every_kernel_has_a_case_for_every_target(measured):
    launched = compile_table.launched_kernels()
    assert launched, "no kernel was found in kernels/*/*.py"
    rows = {(row["op"], row["kernel"], row["target"]) for row in measured["rows"].values()}
    missing = sorted((*kernel, target) for kernel in launched for target in TARGETS if (*kernel, target) not in rows)
    assert not missing, f"no compile case for {missing}: add it to compile_cases() of that op"


def test_limits_of_the_chips(measured):
    wrong = [
        f"{name}: {row['spill_bytes']} bytes spilled, {row['shared_bytes']} of {compile_table.SHARED_LIMIT[row['target']]} shared"
        for name, row in measured["rows"].items()
        if row["shared_bytes"] > compile_table.SHARED_LIMIT[row["target"]] or (row["target"] == "sm_90" and row["spill_bytes"])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_is_what_the_kernels_compile_to(measured):
    """Shared memory, warps and kernels as in the table; registers within 10 % (at least 8) and no new spills, because
    versions of ptxas and LLVM differ by so much."""
    table = json.loads(compile_table.TABLE.read_text())
    rows, now = table["rows"], measured["rows"]
    wrong = [f"{name} is not in the table" for name in now.keys() - rows.keys()]
    wrong += [f"{name} is in the table but not compiled" for name in rows.keys() - now.keys()]
    for name in rows.keys() & now.keys():
        want, got = rows[name], now[name]
        for key in ("kernel", "num_warps", "shared_bytes"):
            if got[key] != want[key]:
                wrong.append(f"{name}: {key} is {got[key]}, the table says {want[key]}")
        if abs(got["registers"] - want["registers"]) > max(8, 0.1 * want["registers"]):
            wrong.append(f"{name}: {got['registers']} registers, the table says {want['registers']}")
        if got["spill_bytes"] > want["spill_bytes"] * 1.1:
            wrong.append(f"{name}: {got['spill_bytes']} bytes spilled, the table says {want['spill_bytes']}")
    versions = f"Table: {table['versions']}; now: {measured['versions']}."
    assert not wrong, "\n".join([*sorted(wrong), versions, REGENERATE])


def test_the_page_is_the_table():
    table = json.loads(compile_table.TABLE.read_text())
    assert compile_table.MARKDOWN.read_text() == compile_table.markdown(table), REGENERATE
