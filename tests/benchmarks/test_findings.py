"""The findings' runs, statistics and tables, from hand-made metrics; and every experiment file against `k15 rl`'s own checks."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.findings import arms, measures, run
from benchmarks.findings.arms import Job, Lengths, Point, RunError, run_all
from benchmarks.findings.findings import ALL
from benchmarks.findings.plan import FINDINGS, jobs
from benchmarks.findings.result import markdown, write
from k15.config.compose import compose_run
from k15.runs.prepare import preflight

CONF = Path(run.__file__).parents[2] / "conf" / "experiment" / "finding"


def _run(accuracies: list[float], lengths: list[float]) -> list[Point]:
    return [Point(4 * i, a, a - 0.05, a + 0.05, n, 1024.0 * i) for i, (a, n) in enumerate(zip(accuracies, lengths, strict=True))]


def test_measures_by_hand():
    points = _run([0.2, 0.6, 0.8, 0.7], [10, 20, 30, 25])
    assert measures.final(points) == pytest.approx(0.75)
    assert measures.on_the_way(points) == pytest.approx((0.4 + 0.7 + 0.75) / 3)
    assert measures.samples_to(points, 0.5) == pytest.approx(768)
    assert measures.samples_to(points, 0.9) is None
    assert measures.samples_to(points, 0.1) == 0
    rise, correlation = measures.slope(points)
    assert (rise, correlation) == (pytest.approx(2.94, abs=0.1), pytest.approx(0.96, abs=0.03))
    assert measures.stated_accuracy([points, points]) == pytest.approx(0.2 + 0.75 * 0.6)


def test_intervals_and_verdicts():
    found = measures.spread([1.0, 2.0, 3.0])
    assert (found.low, found.high) == (pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3), pytest.approx(4.484, abs=1e-3))
    assert measures.verdict(found) == measures.UNDECIDED
    assert measures.verdict(measures.spread([1.0, 1.1, 1.2])) == measures.REPEATS
    assert measures.verdict(measures.spread([-1.0, -1.1, -1.2])) == measures.OPPOSITE
    assert measures.verdict(measures.spread([5.0])) == measures.UNDECIDED  # one seed decides nothing
    assert measures.joint([measures.REPEATS, measures.UNDECIDED]) == measures.UNDECIDED


def _curves(name: str) -> dict[str, list[list]]:
    """Three seeds an arm; each arm is ten points above the one before it."""
    if name == "harder_longer":
        return {"base": [[Lengths(i, 10 + i, 10 + 2 * i + 0.1 * s) for i in range(1, 6)] for s in range(3)]}
    return {
        arm: [
            _run([0.2 + 0.01 * s, *(0.4 + 0.1 * n + 0.01 * s + 0.02 * i for i in range(4))], [10, 20 + s, 22 + s, 24 + s, 26 + n])
            for s in range(3)
        ]
        for n, arm in enumerate(FINDINGS[name])
    }


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_makes_its_table_and_figure(name, tmp_path):
    result = ALL[name](_curves(name))
    write(result, tmp_path / name, {"seeds": [0, 1, 2]})
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert content["verdict"] == result.verdict and content["finding"] == name
    assert [list(row.values()) for row in content["table"]] == [list(row) for row in result.rows]  # no column has another's name
    assert f"**{result.verdict}**" in markdown(result) and (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_verdicts_of_made_up_arms():
    assert ALL["curriculum"](_curves("curriculum")).verdict == measures.REPEATS
    assert ALL["accuracy_and_length"](_curves("accuracy_and_length")).verdict == measures.REPEATS
    assert ALL["negative_gradients"](_curves("negative_gradients")).verdict == measures.REPEATS
    reverse = dict(zip(("base", "rest"), _curves("negative_gradients").values(), strict=True))
    assert ALL["negative_gradients"](reverse).verdict == measures.OPPOSITE
    assert "per token: better" in ALL["per_token_square"](_curves("per_token_square")).verdict


def test_an_arm_that_never_gets_there_is_said_and_counted_whole():
    curves = _curves("curriculum")
    curves["curriculum"] = [_run([0.2] * 5, [10] * 5) for _ in range(3)]
    result = ALL["curriculum"](curves)
    assert result.verdict == measures.OPPOSITE
    assert result.notes == ["curriculum: 3 of 3 seeds never reach it; their whole run is counted."]


def test_runs_are_shared_and_models_come_first():
    found = jobs(list(FINDINGS), (0, 1))
    names = [job.name for job in found]
    assert len(set(names)) == len(names) == 2 * (len(set().union(*FINDINGS.values())) + 2)
    assert all(names.index(need) < names.index(job.name) for job in found for need in job.needs)
    assert {word.partition("finding/")[2] for job in found for word in job.words if "finding/" in word} == {
        path.stem for path in CONF.glob("*.yaml")
    }


def test_jobs_run_once_and_stop_at_a_failure(tmp_path):
    first, wrong = Job("help", ("--help",)), Job("wrong", ("no-such-command",), needs=("help",))
    with pytest.raises(RunError, match="wrong failed with exit code 2"):
        run_all([wrong, first, Job("never", ("--help",), needs=("wrong",))], tmp_path)
    assert (
        arms.seconds(tmp_path, "help") >= 0
        and arms.commits(tmp_path, ["help"]) == [machine.commit()]
        and not (tmp_path / "runs" / "never.log").exists()
    )
    run_all([first], tmp_path)  # has finished: nothing is started
    with pytest.raises(RunError, match="other settings"):
        run_all([Job("help", ("sft", "--help"))], tmp_path)


@pytest.mark.parametrize("words", [["--parallel", "0"], ["--parallel", "two"], ["--seeds", "1,1"]])
def test_wrong_numbers_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        run.main(words)
    assert words[1] in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_experiment_passes_the_checks_of_a_run(name):
    cfg = compose_run([f"experiment=finding/{name}", "cluster=local"])
    assert preflight(cfg, nodes=1)["model_type"] == "qwen2"
