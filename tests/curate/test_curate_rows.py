"""What is made of a row before a model is asked: its labels, options, domain, and what becomes of copies and of bad rows."""

import json
import os
from pathlib import Path

import pytest
from raw import row, settings, stages, write

from k15.config.curate import FieldsConfig
from k15.config.schema import SamplerConfig
from k15.curate.duplicates import contradictions, duplicates
from k15.curate.rows import BadRow, Row, read
from k15.data.sampler import PromptSampler
from k15.data.store import load_prompts
from k15.errors import DataError
from k15.reward.router import check_domains
from k15.runs.curate import run

TESTS = {"tests": [["1 2", "3"]], "language": "python"}


def stored(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "store" / "v1" / "prompts.jsonl").read_text().splitlines()]


def test_the_sources_own_labels_reach_the_curriculum(tmp_path: Path):
    rows = [
        {"problem": "What is 1 + 1?", "answer": "2", "solution": "One and one. " * 40, "difficulty": 0.1, "pass_rate": 0.9,
         "level": "Level 1", "unique_id": "a/1", "solved": True, "tags": ["sum"], "source": "", "prompt": None},
        {"problem": "What is 17 + 18?", "answer": "35", "difficulty": "0.8", "pass_rate": "0.2"},
        {"problem": "What is 170 + 180?", "answer": "350", "difficulty": "Hard", "pass_rate": 85},
        {"problem": "What is 8 + 9?", "answer": "17", "difficulty": float("nan")},
    ]  # fmt: skip
    assert run(settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', rows)}]")) == 0
    kept = [{k: v for k, v in r.items() if k not in ("id", "prompt", "answer", "domain", "discipline")} for r in stored(tmp_path)]
    assert kept == [
        {"difficulty": 0.1, "pass_rate": 0.9, "level": "Level 1", "unique_id": "a/1", "solved": True},
        {"difficulty": 0.8, "pass_rate": 0.2},
        {"source_difficulty": "Hard", "source_pass_rate": 85},  # which the store's reader and the sampler would take for others
        {},
    ]
    prompts = load_prompts(tmp_path / "store")
    hard = PromptSampler(prompts, SamplerConfig(kind="curriculum", warmup_iterations=0, hard_pass_rate=0.5)).weights(0)
    assert list(hard) == [0, 1, 1, 1]


CHOICES = {
    "list": {"choices": ["4", "6"]},
    "object": {"options": {"A": "4", "B": "6", "C": "7"}},
    "ARC": {"choices": {"text": ["4", "6", "7"], "label": ["A", "B", "C"]}},
    "columns": {"A": "4", "B": 6, "C": "7", "D": "9"},
}
FREE = {"empty": {"choices": [], "options": {"A": None, "B": None}}, "numbers": {"A": 1, "B": 2, "C": 7}, "two": {"A": 1, "B": 2}}


@pytest.mark.parametrize("name", [*CHOICES, *FREE])
def test_options_in_columns_of_their_own(name: str, tmp_path: Path):
    raw = {"question": "What is 3+4?", "answer": "C" if name == "columns" else "7", **(CHOICES | FREE)[name]}
    (found,) = read(write(tmp_path / "s.jsonl", [raw]), FieldsConfig())
    assert bool(found.choices) == (name in CHOICES)


def test_a_proof_without_an_answer_is_a_proof_and_no_bad_row(tmp_path: Path):
    rows = [
        {"problem": "If $n$ is odd, prove that $n^2$ is odd.", "solution": "Write $n = 2k+1$. Done."},
        {"problem": "Show that there is no greatest prime.", "answer": None},
        {"problem": "What is 1 + 1?", "solution": "It is \\boxed{2}."},
    ]
    source = write(tmp_path / "s.jsonl", rows)
    assert run(settings(tmp_path, sources=f"[{source}]")) == 0
    assert stages(tmp_path / "store" / "v1")["kind"]["reasons"] == {"proof": 2} and len(stored(tmp_path)) == 1
    with pytest.raises(DataError, match="s.jsonl:1: asks for a proof, which filters.proof=false keeps, but has no answer"):
        run(settings(tmp_path, sources=f"[{source}]", filters__proof="false"))


WORKED = [{"question": f"What is {i}+1?", "answer": f"{i}+1 it is.\n#### {i + 1}"} for i in range(3)]


@pytest.mark.parametrize(
    ("answer", "others", "found"),
    [
        ("She has 2.\nShe buys 3.\nThat is 5.", [], None),
        ("She has 2 and buys 3, so 5.", WORKED, None),
        ("She has 2 and buys 3, so 5.", [], "She has 2 and buys 3, so 5."),
        ("5" * 501, [], None),
        ("5", WORKED, "5"),
        ("\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}", [], "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}"),
        ("\\[\n\\frac12\n\\]", [], "\\[\n\\frac12\n\\]"),
    ],
)
def test_a_worked_solution_without_a_marker_is_no_final_answer(answer: str, others: list, found: str | None, tmp_path: Path):
    source = write(tmp_path / "s.jsonl", [{"question": "How many?", "answer": answer}, *others])
    first, *rest = read(source, FieldsConfig())
    assert [row.answer for row in rest] == ["1", "2", "3"][: len(others)]
    if found is not None:
        assert first.answer == found
        return
    assert isinstance(first, BadRow) and first.where == f"{source}:1"
    with pytest.raises(DataError, match="s.jsonl:1: .*(holds no answer .*of one line|no final answer: most answers).*####"):
        run(settings(tmp_path, sources=f"[{source}]"))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_evaluation_set_of_no_rows_is_refused(text: str, tmp_path: Path):
    source = write(tmp_path / "s.jsonl", [{"prompt": "What is 1 + 1?", "answer": "2"}])
    whole = write(tmp_path / "whole.jsonl", [{"prompt": "What is 3 + 3?"}])
    empty = write(tmp_path / "empty.jsonl", [text])
    with pytest.raises(DataError, match="empty.jsonl: an evaluation set of no rows"):
        run(settings(tmp_path, sources=f"[{source}]", evaluation=f"[{whole},{empty}]"))
    assert not (tmp_path / "store").exists()


def test_every_stored_domain_has_a_reward(tmp_path: Path):
    domains = {"physics": "physics", " MATH ": "word problem", "Mathematics": "word problem", " ": "word problem"}
    rows = [{"prompt": f"How many are {i} and 1?", "answer": str(i + 1), "domain": d} for i, d in enumerate(domains)]
    rows += [{"prompt": "How many of these?", "answer": "7", "domain": "Chemistry", "subject": "Algebra"}]
    rows += [{"prompt": "Add them.", "answer": TESTS, "domain": "Programming"}]
    assert run(settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', rows)}]")) == 0
    check_domains(load_prompts(tmp_path / "store"))
    found = [(r["domain"], r["discipline"]) for r in stored(tmp_path)]
    assert found == [*(("math", d) for d in (*domains.values(), "algebra")), ("code", "programming")]


def test_a_leak_is_looked_for_in_mathematics_only(tmp_path: Path):
    rows = [{"prompt": f"Print the sum. The answer is {json.dumps(TESTS)}", "answer": TESTS},
            {"prompt": "How many? The answer is 7.", "answer": "7"}]  # fmt: skip
    assert run(settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', rows)}]")) == 0
    assert [r["domain"] for r in stored(tmp_path)] == ["code"]


def test_copies_stay_once_and_contradictions_not_at_all(tmp_path: Path):
    pond = "A round pond of radius 3 lies in a garden; how large is the pond, if the path around it does not count?"
    rows = [row("What is one half?", "0.5"), row("What is  one half?", "\\frac{1}{2}"), row("Find x.", "4"), row("Find x.", "5"),
            row("Find x.", "4.0"), row("What is (8-2)/3?", "2"), row("What is 8-2/3?", "22/3"), row(pond, "$9\\pi$"),
            row(pond + " Say it.", "9\\pi "), row("Expand (x+1)(x-1).", "x^2 - 1"), row("Expand (x+1)(x-1).", "-1+x^2"),
            row("In how many?", "1 1/2"), row("In how many???", "11/2")]  # fmt: skip
    differ = contradictions(rows)
    assert differ == dict.fromkeys((2, 3, 4), (2, 3))
    rest = [r for i, r in enumerate(rows) if i not in differ]
    gone = duplicates(rest, 0.8, 0)
    assert {rows.index(rest[i]): rows.index(rest[j]) for i, (j, _) in gone.items()} == {1: 0, 8: 7, 10: 9}
    code = [Row("here", i, "Add two numbers.", json.dumps(TESTS | {"time_s": t}), "code") for i, t in (("a", 1), ("b", 2))]
    assert not contradictions(code) and set(duplicates(code, 0.8, 0)) == {1}
    raw = [{"prompt": r.text, "answer": r.answer, "id": str(i)} for i, r in enumerate(rows)]
    assert run(settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', raw)}]")) == 0
    assert stages(tmp_path / "store" / "v1")["duplicate"]["reasons"] == {"contradiction": 3, "exact": 2, "near": 1}


def test_all_bad_rows_are_named_in_a_file(tmp_path: Path, capsys):
    good = [{"prompt": "1+1?", "answer": "2"}] * 30  # the same row again is no bad one
    bad = ['{"prompt": "1?"}', "{broken\tline", '{"prompt": "2?", "answer": "2", "note": "\\ud83d"}'] * 4
    source = write(tmp_path / "s.jsonl", [*good, *bad])
    assert sum(isinstance(r, BadRow) for r in read(source, FieldsConfig())) == 12
    assert run(settings(tmp_path, sources=f"[{source}]", on_bad_row="skip")) == 0
    file, kept = tmp_path / "run" / "bad_rows.txt", tmp_path / "store" / "v1" / "bad_rows.txt"
    assert file.read_text() == kept.read_text() and str(kept) in capsys.readouterr().out
    named = [line.split("\t") for line in file.read_text().splitlines()]
    assert [where for where, _ in named] == [f"{source}:{n}" for n in range(31, 43)]
    assert "no answer" in named[0][1] and "not JSON" in named[1][1] and "field `note` holds half a character" in named[2][1]
    assert stages(tmp_path / "store" / "v1")["read"]["reasons"] == {"repeated row": 29, "unreadable": 12}
    assert run(settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', good)}]", on_bad_row="skip")) == 0 and not file.exists()
    assert len(kept.read_text().splitlines()) == 12 and "bad_rows.txt" not in os.listdir(tmp_path / "store" / "v2")
