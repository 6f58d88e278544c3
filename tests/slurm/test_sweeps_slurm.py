"""A sweep of 3 x 2 points as a Slurm job array: two are killed, and a second call runs those two and no other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]
HANGS = "cluster.setup=['[ -e go ] || [ \"$SLURM_ARRAY_TASK_ID\" -lt 4 ] || sleep 300']"


def test_a_second_call_runs_only_the_points_that_were_killed(slurm_cluster: Cluster, tmp_path: Path) -> None:
    rows = [{"prompt": text, "answer": str(i)} for i, text in enumerate(("1+1?", "How many primes are below 10?", "Half of 8?"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        sys.executable, "-m", "k15", "curate", "--multirun", "sources=[rows.jsonl]", "balance.size=1,2,3",
        "balance.by=domain,discipline", "store=store/${balance.by}-${balance.size}", "hydra.sweep.dir=sweep",
        "cluster.time_min=5", "hydra/launcher=slurm", "hydra.launcher.array_parallelism=4",
    ]  # fmt: skip
    sweep = tmp_path / "sweep"

    def job(number: int) -> str | None:
        return json.loads((sweep / "sweep.json").read_text())["points"][str(number)]["job"]

    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen([*words, HANGS], env=slurm_cluster.env, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(lambda: (sweep / "sweep.json").exists() and job(5), 90, "the array")
            limits = slurm_cluster.run("scontrol", "show", "job", job(0).split("_")[0])
            assert "ArrayTaskThrottle=4" in limits
            for number in (4, 5):
                slurm_cluster.wait_job(job(number), "RUNNING", timeout=120)
                slurm_cluster.run("scancel", job(number))
            assert first.wait(120) == 1
        finally:
            first.kill()
    said = (tmp_path / "first.log").read_text()
    assert "2 point(s) did not end well" in said and re.search(r"point 5 \(.*\): CANCELLED", said), said
    marks = {n: sweep / str(n) / "point.json" for n in range(6)}
    assert [n for n, mark in marks.items() if mark.exists()] == [0, 1, 2, 3]
    before = {n: (job(n), marks[n].stat().st_mtime_ns) for n in range(4)}

    done = subprocess.run(words, env=slurm_cluster.env, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and "6 points, 4 finished before" in done.stdout, done.stdout + done.stderr
    assert re.findall(r"point (\d) is job", done.stdout) == ["4", "5"]
    assert all(mark.exists() for mark in marks.values())
    assert before == {n: (job(n), marks[n].stat().st_mtime_ns) for n in range(4)}
    assert len(list(tmp_path.glob("store/*/v1"))) == 6

    third = subprocess.run(words, env=slurm_cluster.env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert third.returncode == 0 and "6 points, 6 finished before" in third.stdout and "is job" not in third.stdout
