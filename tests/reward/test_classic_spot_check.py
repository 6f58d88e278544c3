"""The spot check's numbers by hand, its page, and the settings of `k15 reward_model`."""

import json
from pathlib import Path

import pytest

from k15.cli import main
from k15.config.reward_model import compose_reward_model
from k15.data.triples import make_triples, write_triples
from k15.errors import ConfigError, DataError
from k15.eval.intervals import wilson
from k15.eval.spot_check import Check, read_checks, summary, write_checks, write_spot_check
from k15.runs.reward_model import preflight
from k15.types import Triple

RIGHT, WRONG = Triple("q=", "4", "#2+2", True, "sum"), Triple("q=", "4", "#5", False, "plain, off by one")
CLASSIC = [Check(RIGHT, True, 0.9), Check(RIGHT, False, 0.4), Check(WRONG, True, 0.8), Check(WRONG, False, 0.1)]
COT = [Check(RIGHT, True, note="1 for"), Check(RIGHT, True), Check(WRONG, True, note='{"correct": true}'), Check(WRONG, False)]


def test_the_numbers_by_hand() -> None:
    found = summary(CLASSIC)
    assert found["confusion"] == dict.fromkeys(("accepted_right", "accepted_wrong", "refused_right", "refused_wrong"), 1)
    interval = wilson(2, 4)
    assert (found["accuracy"], found["low"], found["high"]) == (0.5, interval.low, interval.high)
    assert found["by_kind"] == {"plain": {"n": 2, "accuracy": 0.5}, "sum": {"n": 2, "accuracy": 0.5}}
    assert found["expected_calibration_error"] == pytest.approx((0.1 + 0.6 + 0.8 + 0.1) / 4)
    assert "calibration" not in summary(COT) and summary(COT)["accuracy"] == 0.75


def test_one_page_for_both_and_its_round_trip(tmp_path: Path) -> None:
    found = write_spot_check(tmp_path, {"classic": CLASSIC, "cot": COT}, {"made": "by hand"})
    assert found["gain"]["estimate"] == pytest.approx(0.25)
    assert json.loads((tmp_path / "spot_check.json").read_text()) == json.loads(json.dumps(found))
    page = (tmp_path / "spot_check.md").read_text()
    assert "| Classic | 4 | 50.0 % (15.0 to 85.0) | 1 | 1 | 1 | 1 |" in page and "| 98.5 |" in page
    assert "## Classic: 2 disagreements" in page and "## Chain-of-thought: 1 disagreements" in page
    assert page.count("labelled wrong, judged right") == 2 and "labelled right, judged wrong, probability 0.40" in page
    assert (tmp_path / "spot_check.png").read_bytes()[:4] == b"\x89PNG"
    write_checks(tmp_path / "checks.jsonl", COT)
    assert read_checks(tmp_path / "checks.jsonl") == COT
    with pytest.raises(DataError, match="same triples"):
        write_spot_check(tmp_path, {"classic": CLASSIC, "cot": COT[::-1]}, {})
    with pytest.raises(DataError, match="no label"):
        Check(Triple("q", "1", "1"), True)


@pytest.mark.parametrize(("words", "said"), [
    (["kind=reward"], "Allowed: classic, cot"),
    (["fit.step=3"], "fit.step"),
    (["kind=cot", "cluster.nodes=2"], "one machine"),
    (["device=gpu"], "Allowed: auto, cpu, cuda"),
    (["calibration=plat"], "Did you mean 'platt'"),
    (["fit.steps=0"], "fit.steps is 0"),
    (["data.eval_path=x"], "data.path is null"),
    (["kind=cot", "nonsense"], "not a setting"),
    (["model.path=/m", "data.path=/d"], "data.template=plain"),
])  # fmt: skip
def test_wrong_settings_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_reward_model(words)
    assert main(["reward_model", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_both_kinds_compose() -> None:
    for kind in ("classic", "cot"):
        found = compose_reward_model([f"kind={kind}", "fit.steps=7", "parallel.tensor=2"])
        assert (found.kind, found.fit.steps, found.parallel.tensor) == (kind, 7, 2)


def test_too_few_triples_are_an_error_before_anything_starts(tmp_path: Path) -> None:
    write_triples(tmp_path / "few.jsonl", make_triples(20, 0))
    words = [
        f"data.path={tmp_path / 'few.jsonl'}",
        f"run_dir={tmp_path / 'run'}",
        "data.eval_size=10",
        "data.calibration_size=10",
    ]
    assert main(["reward_model", *words]) == 2
    with pytest.raises(DataError, match="no triple for \\['train'\\]"):
        preflight(compose_reward_model(words), nodes=1)
