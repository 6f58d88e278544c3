"""`k15 status --cost` from what sacct printed."""

import re
from pathlib import Path

import pytest

from k15.errors import DataError
from k15.launch.cost import Use, jobs_of, main, table, uses

# Of a 22.05 cluster: job 3 was preempted after 36 s and went on for 72 s; job 4_1 is an array's task; 5 is heterogeneous.
CAPTURED = """\
3|PREEMPTED|36|2|billing=4,cpu=4,gres/gpu=4,mem=200M,node=2|0
3.batch|CANCELLED|36|1|cpu=2,gres/gpu=2,mem=100M,node=1|0
3.extern|COMPLETED|36|2|billing=4,cpu=4,gres/gpu=4,mem=200M,node=2|0
3|COMPLETED|72|2|billing=4,cpu=4,gres/gpu=4,mem=200M,node=2|0
3.batch|COMPLETED|72|1|cpu=2,gres/gpu=2,mem=100M,node=1|0
4_1|NODE_FAIL|3600|1|billing=1,cpu=8,gres/gpu:h100=8,mem=1G,node=1|
5+0|RUNNING|1800|1|cpu=1,gres/gpu=1,gres/gpu:h100=1,mem=1G,node=1|
5+1|RUNNING|1800|1|cpu=1,mem=1G,node=1|
6|PENDING|0|4||
7|CANCELLED by 1000|0|0||
"""


def test_each_start_counts_and_steps_do_not_count_again() -> None:
    found = uses(CAPTURED)
    assert list(found) == ["3", "4_1", "5", "6", "7"]
    assert (found["3"].starts, found["3"].seconds) == (2, 108.0)
    assert found["3"].gpu_hours == pytest.approx(4 * 108 / 3600) and found["3"].node_hours == pytest.approx(2 * 108 / 3600)
    assert found["3"].lost_hours == 0.0 and found["4_1"].lost_hours == found["4_1"].gpu_hours == pytest.approx(8.0)
    assert found["5"].gpu_hours == pytest.approx(0.5) and found["5"].core_hours == pytest.approx(1.0)
    assert found["6"] == found["7"] == Use()
    assert all(use.joules is None for use in found.values())
    assert uses(CAPTURED, counts_gpus=False)["3"].gpu_hours is None
    assert uses("") == {}
    with pytest.raises(DataError, match="slurm_load"):
        uses("sacct: error: slurm_load\n")


def test_energy_of_steps_on_the_same_nodes_is_not_added_up_and_none_is_not_zero() -> None:
    text = "8|COMPLETED|3600|1|cpu=1|\n8.batch|COMPLETED|3600|1|cpu=1|7200000\n8.0|COMPLETED|3500|1|cpu=1|7000000\n"
    assert uses(text * 2)["8"].joules == 2 * 7_200_000
    assert uses(text, measures_energy=False)["8"].joules is None
    one, none = uses(text)["8"], Use()
    assert (one + none).joules == (none + one).joules == 7_200_000 and (none + none).joules is None
    shown = table([("a", ["8"], one), ("b", ["9"], none)], 2.0).splitlines()
    assert re.split(r" {2,}", shown[1]) == ["a", "8", "1", "1", "1", "1", "0", "0", "2", "0.00"]
    assert "not measured" in shown[2] and "not measured" not in shown[3] and shown[3].startswith("sum")


def test_jobs_of_a_run_are_those_that_left_a_trace(tmp_path: Path) -> None:
    run = tmp_path / "multirun" / "0"
    for path in ("logs/launch/41_0_log.out", "logs/launch/42_1_0_log.out", "scale/44.json", "metrics.jsonl"):
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text("")
    (run / "job.json").write_text('{"job_id": "43", "kind": "slurm"}')
    (run.parent / "sweep.json").write_text('{"command": "rl", "points": {"0": {"overrides": [], "folder": "0", "job": "40_0"}}}')
    assert sorted(jobs_of(run)) == ["40_0", "41", "42_1", "43", "44"]
    (run / "job.json").write_text('{"job_id": "43", "kind": "local"}')
    assert "43" not in jobs_of(run)


def test_wrong_words_are_refused_before_slurm_is_asked(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = ((["--price", "x"], "'x'"), (["--price=-1"], "'-1'"), (["--price"], "expected one"), (["--cots"], "--cots"))
    for words, named in wrong:
        with pytest.raises(SystemExit) as ended:
            main(["--cost", *words])
        assert ended.value.code == 2 and named in capsys.readouterr().err
    with pytest.raises(DataError, match="nobody"):
        main(["--cost", "nobody"])
    assert main(["--cost"]) == 0
