"""What `k15 eval watch=...` takes up: each export once, whole even while the run replaces it, and a half-done one first."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from k15.errors import ConfigError
from k15.runs import eval_watch
from k15.runs.eval_watch import check_watched, finished, hold, iteration_of, keeps_all
from k15.runs.exports import keep_export


def export(run: Path, number: int) -> None:
    """As a training run writes it: whole, beside, and renamed into its place; then the old one goes."""
    new, old = run / f".hf.new{number}", run / f".hf.old{number}"
    new.mkdir(parents=True)
    for name in ("config.json", "a.safetensors", "b.safetensors"):
        (new / name).write_text(str(number))
    if (run / "hf").exists():
        (run / "hf").rename(old)
    new.rename(run / "hf")
    shutil.rmtree(old, ignore_errors=True)


def test_an_export_is_held_whole_while_the_run_replaces_it(tmp_path: Path) -> None:
    run, stop = tmp_path / "run", threading.Event()
    export(run, 0)

    def train() -> None:
        number = 1
        while not stop.is_set():
            export(run, number)
            number += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for turn in range(40):
            held = hold(run, tmp_path / f"out{turn}")
            if held is not None:
                texts = {p.name: p.read_text() for p in held[1].iterdir()}
                assert len(texts) == 3 and len(set(texts.values())) == 1, texts
    finally:
        stop.set()
        trainer.join()
    assert held is not None


def test_each_iteration_once_and_what_was_begun_first(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    assert hold(run, out) is None and not finished(run)
    for number, iteration in ((1, 5), (2, 10)):
        checkpoint = run / "checkpoints" / f"{number:05d}-iteration-{iteration:05d}"
        checkpoint.mkdir()
        export(run, iteration)
        os.utime(checkpoint, (1000 * number, 1000 * number))
        os.utime(run / "hf", (1000 * number + 5, 1000 * number + 5))
        assert iteration_of(run, 1000 * number + 5) == iteration
        if number == 1:
            assert hold(run, out) == (5, out / "iteration-5" / "model")  # begun, then the watcher was killed
    assert hold(run, out) == (5, out / "iteration-5" / "model")
    assert (out / "iteration-5" / "model" / "config.json").read_text() == "5"
    (out / "iteration-5" / "results.json").touch()
    assert hold(run, out) == (10, out / "iteration-10" / "model")
    (out / "iteration-10" / "results.json").touch()
    assert hold(run, out) is None


def test_a_late_watcher_takes_every_export_that_is_kept(tmp_path: Path) -> None:
    """From the earliest on; also those that were kept while it evaluated."""
    run, out, taken = tmp_path / "run", tmp_path / "out", []

    def train(number: int, iteration: int) -> None:
        checkpoint = run / "checkpoints" / f"{number:05d}-iteration-{iteration:05d}"
        checkpoint.mkdir(parents=True)
        export(run, iteration)
        os.utime(checkpoint, (1000 * number, 1000 * number))
        os.utime(run / "hf", (1000 * number + 5, 1000 * number + 5))
        keep_export(run, iteration, "all")

    for number, iteration in ((1, 5), (2, 10), (3, 15)):
        train(number, iteration)
    while (held := hold(run, out)) is not None:
        iteration, model = held
        assert model == out / f"iteration-{iteration}" / "model"
        assert (model / "config.json").read_text() == str(iteration)
        taken.append(iteration)
        (model.parent / "results.json").touch()
        if iteration == 10:
            train(4, 20)
    assert taken == [5, 10, 15, 20]
    assert sorted(p.name for p in out.iterdir()) == ["iteration-10", "iteration-15", "iteration-20", "iteration-5"]


def test_what_was_not_held_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run replaces its export at every look: links to old weights would keep them on disk."""
    run, out, number = tmp_path / "run", tmp_path / "out", iter(range(1, 99))
    export(run, 0)

    def link(source: str, target: str) -> None:
        os.link(source, target)
        if source.endswith("b.safetensors"):
            n = next(number)
            (run / "checkpoints" / f"{n:05d}-iteration-{n:05d}").mkdir(parents=True)
            export(run, n)

    monkeypatch.setattr(eval_watch, "link", link)
    monkeypatch.setattr(eval_watch.time, "sleep", lambda _: None)
    assert hold(run, out) is None and next(number) == 11
    assert not out.exists() or list(out.rglob("*")) == []


def test_only_runs_that_export_as_they_go_are_watched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        check_watched(tmp_path / "run")
    check_watched(tmp_path)  # its config.yaml comes later
    (tmp_path / "config.yaml").write_text("stages:\n  first:\n    epochs: 1\nsave:\n  every: 5\n")
    with pytest.raises(ConfigError, match=f"model.path={tmp_path}/hf"):
        check_watched(tmp_path)
    for exports in ("all", "latest"):
        (tmp_path / "config.yaml").write_text(f"algo:\n  iterations: 3\nsave:\n  exports: {exports}\n")
        check_watched(tmp_path)
        assert keeps_all(tmp_path) == (exports == "all")
