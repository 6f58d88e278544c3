"""Calibration against known answers, the input text, and generated triples whose labels an evaluator confirms."""

import math
import random
from pathlib import Path

import pytest

from k15.data.arithmetic import MARK
from k15.data.tokenizer import load_tokenizer, write_char_tokenizer
from k15.data.triples import FORMS, JUDGE_ALPHABET, make_triples, read_triples, write_triples
from k15.errors import ConfigError, DataError
from k15.reward.classic import (
    expected_calibration_error,
    fit_calibration,
    input_text,
    load_calibration,
    reliability,
    save_calibration,
)
from k15.reward.judge import judge_prompt, parse_verdict
from k15.types import Triple


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize(("slope", "intercept"), [(0.4, 0.0), (2.5, -1.0)])
def test_platt_recovers_the_truth_and_calibrates(slope: float, intercept: float) -> None:
    rng = random.Random(1)
    logits = [rng.gauss(0, 3) for _ in range(20_000)]
    labels = [rng.random() < sigmoid(slope * z + intercept) for z in logits]
    found = fit_calibration(logits, labels)
    assert found.slope == pytest.approx(slope, rel=0.08) and found.intercept == pytest.approx(intercept, abs=0.08)
    before = expected_calibration_error([sigmoid(z) for z in logits], labels)
    after = expected_calibration_error([found.probability(z) for z in logits], labels)
    assert after < 0.015 < before
    assert fit_calibration(logits, labels, "temperature").intercept == 0.0


def test_calibration_of_separated_labels_is_finite_and_of_one_kind_refused(tmp_path: Path) -> None:
    found = fit_calibration([-2.0, -1.0, 1.0, 2.0], [False, False, True, True])
    assert 0 < found.slope < 10 and 0.5 < found.probability(2.0) < 1
    assert found.probability(-1e6) == 0.0 and found.probability(1e6) == 1.0  # no overflow
    with pytest.raises(DataError, match="2 of 2 are right"):
        fit_calibration([0.0, 1.0], [True, True])
    with pytest.raises(ConfigError, match="Allowed: none, platt, temperature"):
        fit_calibration([0.0, 1.0], [True, False], "isotonic")
    save_calibration(tmp_path, found, "compact")
    assert load_calibration(tmp_path) == (found, "compact")
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(DataError, match="calibration.json"):
        load_calibration(tmp_path)


def test_expected_calibration_error_by_hand() -> None:
    """Two bins: 0.9 with 3 of 4 right (gap 0.15), 0.2 with none of 1 right (gap 0.2)."""
    p, right = [0.9, 0.9, 0.9, 0.9, 0.2], [True, True, True, False, False]
    assert expected_calibration_error(p, right) == pytest.approx((4 * 0.15 + 0.2) / 5)
    assert [(b.count, b.accuracy) for b in reliability(p, right)] == [(1, 0.0), (4, 0.75)]
    assert reliability([1.0], [True])[0].high == 1.0


def _value(response: str) -> float | None:
    """What a generated response answers, by Python's own arithmetic; `eval` sees our own digits and operators only."""
    if MARK not in response:
        return None
    given = response.split(MARK)[-1]
    assert set(given) <= set("0123456789+-*."), given
    return eval(given.lstrip("+"))


def test_generated_labels_are_true_and_no_form_gives_them_away(tmp_path: Path) -> None:
    triples = make_triples(3000, 0)
    assert triples == make_triples(3000, 0) and triples[:50] != make_triples(50, 1)
    write_char_tokenizer(tmp_path, JUDGE_ALPHABET)
    tokenizer = load_tokenizer(tmp_path)
    for t in triples:
        assert t.correct == (_value(t.response) == int(t.reference)), t
        assert parse_verdict(t.judgement) is t.correct, t
        text = judge_prompt(t, "compact") + t.judgement
        ids = tokenizer.encode_prompt(text)
        assert tokenizer.decode(ids) == text and tokenizer.pad_id not in ids and len(ids) < 150
        assert input_text(t, "compact") == judge_prompt(t, "compact")  # both judges read the same
    by_form = {form: [t.correct for t in triples if t.kind.split(",")[0] == form] for form in FORMS}
    for form, labels in by_form.items():
        assert len(labels) > 300 and 0.42 < sum(labels) / len(labels) < 0.62, form
    held_out = {t.question for t in make_triples(500, 0, "eval")}
    assert not held_out & {t.question for t in triples}


def test_jsonl_round_trip_and_its_errors(tmp_path: Path) -> None:
    path, triples = tmp_path / "t.jsonl", make_triples(20, 3)
    write_triples(path, triples)
    assert read_triples(path) == triples
    good = '{"question": "q", "reference": "1", "response": "1", "label": true}\n'
    path.write_text(good)
    assert read_triples(path) == [Triple("q", "1", "1", True)]
    for bad, rule in (
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        (good.replace("true", "1").strip(), "label is 1"),
        (good.replace('"q"', "3").strip(), "question is 3"),
    ):
        path.write_text(good + bad)
        with pytest.raises(DataError, match=f"t.jsonl:2.*{rule}"):
            read_triples(path)


def test_the_plain_input_names_its_parts() -> None:
    text = input_text(Triple("What is 1+1?", "2", "It is {2}."))
    assert text.index("What is 1+1?") < text.index("\n2\n") < text.index("It is {2}.") and text.endswith("Correct:")
    with pytest.raises(ConfigError, match="Allowed: compact, plain"):
        input_text(Triple("", "", ""), "long")
