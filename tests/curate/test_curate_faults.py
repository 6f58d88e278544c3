"""What a busy store, a folder that cannot be, and sources that others wrote do to `k15 curate`."""

import json
import threading
from pathlib import Path

import pytest
from raw import write

from k15.cli import main
from k15.data import versions as module
from k15.data.versions import PROMPTS, add_version, prompts_file, versions
from k15.errors import DataError


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
