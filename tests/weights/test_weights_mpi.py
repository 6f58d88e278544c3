"""The transport over MPI between two real processes of one world, started by mpiexec; and what is said where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from k15.errors import WeightsError
from k15.weights.transport import choice
from k15.weights.transport.choice import open_transports

WORLD = Path(__file__).with_name("mpi_world.py")


def test_segments_are_read_out_of_another_rank(tmp_path):
    """Whole and in part, twice in the same memory, from several threads; damaged, replaced and withdrawn ones are refused."""
    launcher = Path(sys.executable).with_name("mpiexec")
    done = subprocess.run(
        [launcher, "-n", "2", sys.executable, WORLD, tmp_path], capture_output=True, text=True, timeout=280, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "holder: right" in done.stdout and "reader: right" in done.stdout


def test_without_a_world_it_is_refused_with_the_remedy(monkeypatch):
    """This process is a world of one; two nodes cannot be that."""
    with pytest.raises(WeightsError, match=r"weights\.transport=mpi.*1 process\(es\), but the job has 2 nodes.*SLURM_MPI_TYPE"):
        open_transports("mpi", "t", "http://127.0.0.1:1", nodes=2)
    monkeypatch.setitem(sys.modules, "k15.weights.transport.mpi", None)
    with pytest.raises(WeightsError, match=r"weights\.transport=mpi.*mpi4py.*weights\.transport=http"):
        open_transports("mpi", "t", "http://127.0.0.1:1", nodes=1)
    monkeypatch.setattr(choice, "in_mpi_world", lambda: True)
    assert open_transports("auto", "t", "http://127.0.0.1:1", nodes=2).names == ["http"], "an MPI that is broken is not used"
