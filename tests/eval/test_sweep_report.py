"""The page of a sweep: one table and one plot over all points, the best with its interval, and what is missing."""

import json
from pathlib import Path

import pytest
from synthetic import make_run

from k15.errors import DataError
from k15.eval.report import main
from k15.eval.spot_check import Check, write_spot_check
from k15.eval.sweep import best, sweep_rows
from k15.log.sweep import Sweep, SweepPoint, mark_finished, read_sweep
from k15.types import Triple


def sweep_of(folder: Path, accuracies: dict[int, float]) -> Path:
    """A 3 x 2 sweep whose points `accuracies` (of 400 problems) have run; 4 has started, the others have not."""
    taus, seeds = ("0.03", "0.1", "0.3"), ("0", "1")
    grid = [(t, s) for t in taus for s in seeds]
    sweep = Sweep("rl", {n: SweepPoint([f"algo.tau={t}", f"seed={s}", "eval.size=400"], str(n), f"7_{n}") for n, (t, s) in
                         enumerate(grid)})  # fmt: skip
    folder.mkdir()
    sweep.write(folder)
    for number, accuracy in accuracies.items():
        point = folder / str(number)
        point.mkdir()
        (point / "config.yaml").write_text("algo: {iterations: 2}\n")
        rows = [{"iteration": i, "eval_n": 400, "eval_greedy_accuracy": a, "accuracy": 0.9} for i, a in ((0, 0.2), (2, accuracy))]
        (point / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        mark_finished(point)
    (folder / "4").mkdir()
    (folder / "4" / "metrics.jsonl").write_text("")
    assert read_sweep(folder) == sweep
    return folder


def test_the_best_point_is_named_with_its_interval_and_its_equals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = sweep_of(tmp_path / "sweep", {0: 0.3, 1: 0.31, 2: 0.6, 3: 0.62})
    names, kind, rows = sweep_rows(folder)
    assert (names, kind) == (["algo.tau", "seed"], "greedy")
    top, near = best(rows)
    assert top.number == 3 and [r.number for r in near] == [2]
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    # Wilson's interval of 248 of 400, by hand
    assert "best: point 3 (algo.tau=0.1, seed=1), held-out accuracy (greedy) 62.0 % (95 % interval 57.2-66.6)" in said
    assert "not told apart from it at 95 %: point 2\n" in said and "not finished: points 4, 5 of 6" in said
    assert "does not count the choice" in said
    page = (folder / "report" / "index.html").read_text()
    assert page.count("<tr>") == 7 and "3 (best)" in page and "<svg" in page and "<script" not in page
    assert (folder / "report" / "figures" / "sweep.png").stat().st_size > 10_000


def test_a_sweep_without_accuracies_and_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = sweep_of(tmp_path / "sweep", {})
    assert main([str(folder)]) == 0
    assert "no point has an accuracy" in capsys.readouterr().out
    (folder / "sweep.json").write_text('{"command": "rl"}')
    with pytest.raises(DataError, match=r"sweep\.json cannot be read"):
        read_sweep(folder)
    assert main([str(folder)]) == 2


def test_a_real_run_folder_is_a_point(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    (folder / "0").mkdir(parents=True)
    Sweep("rl", {0: SweepPoint(["algo.tau=0.1"], "0"), 1: SweepPoint(["algo.tau=0.2"], "1")}).write(folder)
    make_run(folder / "0", iterations=6)
    _, _, rows = sweep_rows(folder)
    assert rows[0].iteration == 6 and rows[0].gain.low > 0 and rows[1].value is None


def test_points_that_are_reward_models_show_their_spot_checks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Their metrics.jsonl counts steps, not iterations: what is compared is the accuracy on held-out triples."""
    folder = tmp_path / "sweep"
    points = {n: SweepPoint([f"fit.lr={lr}", "kind=classic"], str(n)) for n, lr in enumerate(("1e-4", "1e-3", "1e-2"))}
    folder.mkdir()
    Sweep("reward_model", points).write(folder)
    for number, right in ((0, 300), (1, 340)):
        point = folder / str(number)
        point.mkdir()
        (point / "metrics.jsonl").write_text('{"step": 1, "loss": 0.9}\n')
        checks = [Check(Triple("1+1", "2", "#2", True), i < right) for i in range(400)]
        write_spot_check(point, {"classic": checks}, {})
        mark_finished(point)
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "best: point 1 (fit.lr=1e-3), held-out accuracy (spot check) 85.0 % (95 % interval 81.2-88.2)" in said
    assert "not finished: point 2 of 3" in said and "not told apart" not in said
