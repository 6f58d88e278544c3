"""The error that `k15 plan` prints against the measurements in the repository, and one real trainer rank measured here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.plan.compare import compare, job_of
from k15.plan import known, memory, model

ROOT = Path(__file__).resolve().parents[2]
MEASURED = sorted((ROOT / "benchmarks" / "results").glob("plan-*.json"))


def test_the_stated_error_covers_every_measured_configuration():
    assert MEASURED, "python -m benchmarks plan"
    for path in MEASURED:
        records = json.loads(path.read_text())["records"]
        rows, _ = compare(records)
        assert len({r.case for r in rows}) >= 12
        assert max(abs(r.predicted_peak / r.peak - 1) for r in rows) <= known.MEMORY_ERROR <= 0.10
        timed = [r for r in rows if r.seconds is not None]
        assert len({r.case for r in timed}) >= 12 and any(not r.fitted for r in timed)
        assert max(abs(r.predicted_seconds / r.seconds - 1) for r in timed) <= known.STEP_ERROR <= 0.25


@pytest.mark.megatron
def test_a_real_rank_peaks_where_it_is_said_to(tmp_path):
    out = tmp_path / "records.jsonl"
    subprocess.run([sys.executable, "-m", "benchmarks.plan.measure", str(out), "small"], check=True, capture_output=True,
                   **machine.for_modules(OMP_NUM_THREADS="1"))  # fmt: skip
    record = json.loads(out.read_text())
    job, (rank,) = job_of(record), record["ranks"]
    assert rank["parameters"] == model.held(job.shape, job.parallel, 0).total
    assert memory.trainer(job, 0).peak == pytest.approx(rank["peak_bytes"], rel=0.10)
