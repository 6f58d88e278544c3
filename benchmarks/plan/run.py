"""`python -m benchmarks plan [CASE ...]`: the planner beside real trainer ranks on CPU (about 12 minutes for all 16 cases).

Gate: the parameters that the planner counts are those of every rank. Then peak memory, and processor time of a step.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.plan.compare import compare, job_of
from k15.plan import model

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(words: list[str]) -> int:
    """Measure, gate, compare, and save where all cases were measured; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.jsonl"
        before = machine.foreign_load()
        command = [sys.executable, "-m", "benchmarks.plan.measure", str(out), *words]
        subprocess.run(command, check=True, **machine.for_modules(OMP_NUM_THREADS="1"))
        records = [json.loads(line) for line in out.read_text().splitlines()]
    if not records:
        print(f"plan: no case is named {words}", file=sys.stderr)
        return 2
    if not gate(records):
        return 1
    result = summary(records) | {"foreign_load": round(before, 2)}
    show(result)
    if not words:
        save(result)
    return 0


def gate(records: Sequence[Mapping[str, Any]]) -> bool:
    """Are the counted parameters the real ones, on every rank?"""
    right = True
    for record in records:
        job = job_of(record)
        for rank in record["ranks"]:
            counted = model.held(job.shape, job.parallel, rank["stage"]).total
            if counted != rank["parameters"]:
                print(f"plan: {record['name']}: {counted} parameters counted, {rank['parameters']} there", file=sys.stderr)
                right = False
    return right


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is saved: rows, constants, the largest errors, and the raw records."""
    rows, constants = compare(records)
    timed = [r for r in rows if r.seconds is not None]

    def step(r) -> float:
        return abs(r.predicted_seconds / r.seconds - 1)

    held_out = [step(r) for r in timed if not r.fitted]
    return {
        "what": "peak resident memory of a trainer rank above its resident memory before, and processor seconds of a step",
        "device": machine.device(), "commit": machine.commit(), "date": machine.today(), "constants": constants,
        "memory_error": max(abs(r.predicted_peak / r.peak - 1) for r in rows),
        "step_error": max(map(step, timed)), "step_error_held_out": max(held_out) if held_out else None,
        "rows": [asdict(r) for r in rows], "records": list(records),
    }  # fmt: skip


def show(result: Mapping[str, Any]) -> None:
    for r in result["rows"]:
        seconds = "" if r["seconds"] is None else (
            f"{r['seconds']:7.2f} s, predicted {r['predicted_seconds']:6.2f} ({r['predicted_seconds'] / r['seconds'] - 1:+.0%})"
            f"{' fitted' if r['fitted'] else ''}"
        )  # fmt: skip
        print(f"  {r['case']:28s} {r['peak'] / 1e6:5.0f} MB, predicted {r['predicted_peak'] / 1e6:5.0f} "
              f"({r['predicted_peak'] / r['peak'] - 1:+.0%}) {seconds}")  # fmt: skip
    print(f"  largest error: memory {result['memory_error']:.1%}, step {result['step_error']:.1%}")


def save(result: Mapping[str, Any]) -> Path:
    path = RESULTS / f"plan-{machine.today()}-{machine.neutral_name()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
