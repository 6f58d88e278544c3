"""A run and its prompt store: what is added to the store changes no run that has begun."""

import json
from pathlib import Path

import pytest

from k15.cli import check_points
from k15.config.compose import compose_run, from_yaml
from k15.config.schema import TinyModelConfig
from k15.data.store import load_prompts
from k15.data.tiny import write_tiny_model
from k15.data.versions import add_version
from k15.errors import ConfigError
from k15.runs.job import prepare_folder
from k15.runs.rl import JOB


def grow(store: Path, count: int, domain: str = "math") -> None:
    """The next version, with `count` prompts."""
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "id": i, "domain": domain} for i in range(count)]
    add_version(store, {"prompts.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}, {})


def start(run_dir: Path, *words: str) -> str:
    """What a first or another start writes down as its data."""
    prepare_folder(compose_run(["data=jsonl", *words]), run_dir, JOB.may_change)
    return from_yaml((run_dir / "config.yaml").read_text()).data.path


def test_a_run_stays_with_the_version_that_it_began_with(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir, words = tmp_path / "run", ["data.path=store/", "data.eval_path=held"]
    grow(Path("store"), 3)
    grow(Path("held"), 2)
    assert start(run_dir, *words) == "store/v1"
    grow(Path("store"), 5)
    assert start(run_dir, *words) == "store/v2", "nothing was trained yet"
    (run_dir / "checkpoints" / "00000-iteration-00005").mkdir(parents=True)
    grow(Path("store"), 7)
    assert start(run_dir, *words) == start(run_dir, "data.path=store/v2", words[1]) == "store/v2"
    assert "data.path: the run goes on with the version that it began with, not with store/v3" in caplog.text
    assert len(load_prompts("store/v2")) == 5
    for other in ("store/v3", "other", "store/v2/prompts.jsonl"):
        with pytest.raises(ConfigError, match=r"other settings \(data.path\)"):
            start(run_dir, f"data.path={other}", words[1])


def test_a_run_from_before_versions_were_written_down_goes_on(tmp_path: Path) -> None:
    run_dir, store = tmp_path / "run", tmp_path / "store"
    words = [f"data.path={store}", f"data.eval_path={store}"]
    start(run_dir, *words)  # there is no version to be named
    (run_dir / "checkpoints" / "00000-iteration-00005").mkdir(parents=True)
    grow(store, 3)
    assert start(run_dir, *words) == f"{store}/v1"


def test_what_is_checked_is_the_version_of_the_run(tmp_path: Path) -> None:
    """Not a later one that it could not use: a requeue would end there."""
    store, run_dir = tmp_path / "store", tmp_path / "run"
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 192)
    (model / "model.safetensors").touch()
    words = ["data=jsonl", f"data.path={store}", "data.eval_fraction=0.5", "algo.prompts_per_iteration=2", f"run_dir={run_dir}"]
    words.append(f"model.path={model}")
    grow(store, 9)
    start(run_dir, *words)
    (run_dir / "checkpoints" / "00000-iteration-00005").mkdir(parents=True)
    grow(store, 9, domain="history")
    check_points("rl", words, multirun=False, submitted=False)
