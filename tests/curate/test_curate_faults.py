"""What a busy store, a folder that cannot be, and sources that others wrote do to `k15 curate`."""

import json
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from raw import settings, write

from k15.cli import main
from k15.config.curate import FieldsConfig
from k15.curate.rows import read
from k15.data import versions as module
from k15.data.versions import PROMPTS, add_version, prompts_file, versions
from k15.errors import ConfigError, DataError
from k15.log.journal import Journal
from k15.runs.curate import preflight, run


def test_processes_that_end_at_once_get_a_version_each(tmp_path: Path, monkeypatch):
    """All look at the store, then all write."""
    together = threading.Barrier(4)
    renamed = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.parent == tmp_path and target.name == "v1":
            together.wait(10)
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(module.os, "getpid", threading.get_ident)  # threads stand for processes
    made = []
    threads = [threading.Thread(target=lambda i=i: made.append(add_version(tmp_path, {PROMPTS: str(i)}, {}))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder.name for folder, new in made if new) == ["v1", "v2", "v3", "v4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v1", "v2", "v3", "v4"]  # no half is left
    assert {(p / PROMPTS).read_text() for p in versions(tmp_path).values()} == {"0", "1", "2", "3"}
    assert [json.loads((p / "manifest.json").read_text())["version"] for p in versions(tmp_path).values()] == [1, 2, 3, 4]


@pytest.mark.parametrize("taken", ["folder", "file", "broken", "bytes"])
def test_a_number_that_something_has_is_taken(taken: str, tmp_path: Path):
    first = tmp_path / "v1"
    if taken == "file":
        first.write_text("mine")
    else:
        first.mkdir()
        (first / "mine").touch()
    if taken in ("broken", "bytes"):
        (first / "manifest.json").write_bytes(b'{"sha256"' if taken == "broken" else b"\xff")
        with pytest.raises(DataError, match="v1/manifest.json is damaged: not "):
            prompts_file(tmp_path)
    folder, new = add_version(tmp_path, {PROMPTS: "x"}, {})
    assert (folder.name, new) == ("v2", True) and add_version(tmp_path, {PROMPTS: "x"}, {}) == (folder, False)
    assert prompts_file(tmp_path) == folder / PROMPTS


@pytest.mark.parametrize("words", ["store=s.jsonl dry_run=true", "store=s.jsonl/x", "store=/proc/foo/bar", "store=nowhere",
                                   "run_dir=/proc/foo"])  # fmt: skip
def test_a_folder_that_cannot_be_is_refused_before_a_row_is_read(words: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["k15"])
    (tmp_path / "nowhere").symlink_to("nothing")
    write(tmp_path / "s.jsonl", ["no JSON"])  # would be told, were it read
    assert main(["curate", "sources=[s.jsonl]", *words.split()]) == 2
    setting, _, value = words.split()[0].partition("=")
    said = capsys.readouterr().err
    assert f"give another {setting}=FOLDER" in said and value in said and len(said.splitlines()) == 1, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nowhere", "s.jsonl"]


def test_what_parquet_fills_in_is_absent_and_its_decimals_are_numbers(tmp_path: Path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    code = [{"prompt": "Add two numbers.", "answer": {"tests": [["1 2", "3"]], "language": "python"}},
            {"prompt": "Write add(a, b).", "answer": {"harness": "assert add(1, 2) == 3"}}]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(code), tmp_path / "code.parquet")
    found = list(read(str(tmp_path / "code.parquet"), FieldsConfig()))
    assert [(row.domain, json.loads(row.answer)) for row in found] == [("code", row["answer"]) for row in code]
    math = [{"prompt": "What is 4!?", "answer": Decimal("24.00"), "pass_rate": Decimal("0.25")}]
    parquet.write_table(pa.Table.from_pylist(math), tmp_path / "math.parquet")
    (row,) = read(str(tmp_path / "math.parquet"), FieldsConfig())
    assert (row.answer, row.meta) == ("24.00", {"pass_rate": 0.25})


def test_a_conversation_is_called_one(tmp_path: Path):
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}
    (bad,) = read(write(tmp_path / "s.jsonl", [row]), FieldsConfig())
    assert "field `prompt` holds no prompt, but a list" in bad.reason and "of a conversation" in bad.reason


def test_two_files_that_number_their_rows_alike_get_ids_by_content(tmp_path: Path):
    a, b = (write(tmp_path / f"{name}.jsonl", [{"id": i, "prompt": f"What is {i}{sign}{i}?", "answer": i} for i in range(2)])
            for name, sign in (("a", "+"), ("b", "*")))  # fmt: skip
    with pytest.raises(DataError, match="b.jsonl:1: id '0' was used by .*a.jsonl:1 .*fields.id=null") as error:
        run(settings(tmp_path, sources=f"[{a},{b}]"))
    assert "on_bad_row" not in str(error.value)
    assert run(settings(tmp_path, sources=f"[{a},{b}]", fields__id="null", filters__leaks="false")) == 0
    assert len((tmp_path / "store" / "v1" / PROMPTS).read_text().splitlines()) == 4


@pytest.mark.parametrize("words", [{"filters.contamination_ngram": -1}, {"hack.temperature": "nan"}, {"hack.temperature": "inf"},
                                   {"engine.request_timeout_s": "nan"}])  # fmt: skip
def test_a_number_that_is_none_is_refused(words: dict, tmp_path: Path):
    cfg = settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', ['{}'])}]", **words)
    ((name, value),) = words.items()
    with pytest.raises(ConfigError, match=f"{name.partition('.')[2]} is {value}"):
        preflight(cfg, 1)


def test_a_journal_that_is_none_and_a_full_disk_are_told(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    path.write_text("no database " * 100)
    with pytest.raises(DataError, match="answers.sqlite cannot be used .*it is no journal: move it away"):
        Journal(path)
    path.unlink()
    journal = Journal(path)
    with pytest.raises(DataError, match="another k15 process"):
        Journal(path)
    journal.put("a", 1)
    journal._db.execute("PRAGMA max_page_count = 4")  # a disk that fills up
    with pytest.raises(DataError, match="full.*make room; what came so far is kept"):
        journal.put("b", "x" * 100_000)
    assert journal.get("a") == 1 and "b" not in journal
    journal.close()
