"""A heterogeneous job on a real Slurm: both parts run, the signal saves through the first alone, both are requeued together."""

import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

from k15.config.schema import ClusterConfig
from k15.launch.sbatch import render

# As `k15 rl` does: the first part saves on USR1 and asks for another run; the second is told to end by the first.
PARTS = """
import os, signal, sys, time
from pathlib import Path
group, run = os.environ.get("K15_HET_GROUP", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
bye = Path(sys.argv[1]) / f"bye-{run}"
def save(*_):
    print("signal", group, run, flush=True)
    bye.touch()
    sys.exit(85)
signal.signal(signal.SIGUSR1, save)
print("start", group, run, os.uname().nodename, flush=True)
for _ in range(600):
    if bye.exists():
        break
    if (group, run) == ("0", "1"):
        bye.touch()
    time.sleep(0.1)
print("end", group, run, flush=True)
"""


@pytest.mark.slurm
@pytest.mark.timeout(300)
def test_both_parts_run_and_are_requeued_together(slurm_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(PARTS)
    argv = [sys.executable, str(tmp_path / "parts.py"), str(tmp_path)]
    script = tmp_path / "job.sh"
    script.write_text(render(ClusterConfig(rollout_nodes=1, time_min=5), argv, job_name="parts", log_dir=tmp_path))
    job = slurm_cluster.sbatch(script)
    log = tmp_path / f"parts-{job}.out"

    def lines(*words: str) -> list[str]:
        return sorted(line for line in (log.read_text().splitlines() if log.exists() else ()) if line.startswith(words))

    wait_for(lambda: len(lines("start")) == 2, 90, "the start of both parts")
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1 does
    for part in (0, 1):
        end = slurm_cluster.wait_job(f"{job}+{part}", "COMPLETED", timeout=120)
        assert (end["ExitCode"], end["Restarts"]) == ("0:0", "1")
    starts = [line.split()[1:] for line in lines("start")]
    assert [s[:2] for s in starts] == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]
    assert starts[0][2] != starts[2][2], "both parts on one node"
    assert lines("signal", "end") == ["end 0 1", "end 1 0", "end 1 1", "signal 0 0"]
