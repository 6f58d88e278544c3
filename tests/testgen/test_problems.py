"""Problems from folders and JSONL: the same either way, and errors that say where and what."""

import json
from pathlib import Path

import pytest

from k15.errors import DataError
from k15.testgen.problems import load_problems

BED = Path(__file__).parent / "problems"


def test_a_folder_and_its_jsonl_are_the_same_problems(tmp_path):
    bed = load_problems(BED)
    rows = [
        {
            "id": p.id, "statement": p.statement, "generator": p.generator, "tolerance": p.tolerance,
            "submissions": [{"name": s.name, "language": s.language, "source": s.text} for s in p.submissions],
            "wrong": [{"name": s.name, "language": s.language, "source": s.text} for s in p.wrong],
        }
        for p in bed
    ]  # fmt: skip
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in reversed(rows)))
    assert load_problems(path) == bed
    assert [p.id for p in bed if p.tolerance is not None] == ["nearest_pair"]
    assert len({p.digest() for p in bed}) == 20


ROW = {"id": "a", "statement": "s", "submissions": [{"language": "python", "source": "pass"}]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{"], "1: not JSON"),
        ([""], "holds no problem"),
        ([json.dumps({**ROW, "statement": ""})], "texts `id` and `statement`"),
        ([json.dumps({**ROW, "submissions": ["pass"]})], "list of {language, source}"),
        ([json.dumps({**ROW, "submissions": [{"language": "cobol", "source": ""}]})], "'cobol' is not known. Allowed: python"),
        ([json.dumps({**ROW, "tolerance": 0})], "tolerance is 0"),
        ([json.dumps({**ROW, "generator": 1})], "`generator` must be a text"),
        ([json.dumps(ROW), json.dumps(ROW)], "'a' is used twice"),
    ],
)
def test_bad_rows_say_what_is_wrong(tmp_path, rows, said):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(DataError) as error:
        load_problems(path)
    assert said in str(error.value)
