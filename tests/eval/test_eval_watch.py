"""What `k15 eval watch=...` takes up: each export once, whole even while the run replaces it, and a half-done one first."""

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from knowing import write_data

from k15.config.eval import EvaluationConfig
from k15.config.hf import EXPORT_RECORD, export_record
from k15.errors import ConfigError, DataError
from k15.runs import eval_watch
from k15.runs.eval import preflight
from k15.runs.eval_watch import append, check_watched, finished, hold, keeps_all, watch
from k15.runs.exports import keep_export


def export(run: Path, number: int, named: bool = True) -> None:
    """As a training run writes it: whole, beside, and renamed into its place; then the old one goes."""
    new, old = run / f".hf.new{number}", run / f".hf.old{number}"
    new.mkdir(parents=True)
    for name in ("config.json", "a.safetensors", "b.safetensors"):
        (new / name).write_text(str(number))
    if named:
        (new / EXPORT_RECORD).write_text(export_record(number))
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
                texts[EXPORT_RECORD] = str(json.loads(texts[EXPORT_RECORD])["iteration"])
                assert len(texts) == 4 and set(texts.values()) == {str(held[0])}, texts
    finally:
        stop.set()
        trainer.join()
    assert held is not None


def test_each_iteration_once_and_what_was_begun_first(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    assert hold(run, out) is None and not finished(run)
    export(run, 5)
    assert hold(run, out) == (5, out / "iteration-5" / "model")  # begun, then the watcher was killed
    export(run, 10)
    assert hold(run, out) == (5, out / "iteration-5" / "model")
    assert (out / "iteration-5" / "model" / "config.json").read_text() == "5"
    (out / "iteration-5" / "results.json").touch()
    assert hold(run, out) == (10, out / "iteration-10" / "model")
    (out / "iteration-10" / "results.json").touch()
    assert hold(run, out) is None


def test_what_the_run_writes_before_an_export_does_not_rename_the_last_one(tmp_path: Path) -> None:
    """Metrics have iteration 25, checkpoints were written and pruned, the export of 25 is still being written."""
    run, out = tmp_path / "run", tmp_path / "out"
    export(run, 20)
    assert hold(run, out) == (20, out / "iteration-20" / "model")
    (out / "iteration-20" / "results.json").touch()
    (run / "metrics.jsonl").write_text("".join(json.dumps({"iteration": i}) + "\n" for i in range(26)))
    for number, iteration in ((5, 22), (6, 25)):
        checkpoint = run / "checkpoints" / f"{number:05d}-iteration-{iteration:05d}"
        checkpoint.mkdir(parents=True)
        os.utime(checkpoint, (1, 1))
    assert hold(run, out) is None
    export(run, 25)
    iteration, model = hold(run, out)
    assert iteration == 25 and (model / "config.json").read_text() == "25"


def test_an_export_that_does_not_say_its_iteration_is_never_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Written before exports said so: said at the start, passed over, and at the end no success."""
    run, out = tmp_path / "run", tmp_path / "out"
    export(run, 2, named=False)
    (run / "config.yaml").write_text("algo:\n  iterations: 2\n")
    (run / "metrics.jsonl").write_text('{"iteration": 2}\n')
    (run / "report").mkdir()
    (run / "report" / "index.html").touch()
    cfg = EvaluationConfig(watch=str(run), run_dir=str(out))
    with pytest.raises(DataError, match=f"model.path={run}/hf"):
        watch(cfg, out, evaluate=lambda *_: pytest.fail("evaluated"))
    assert "does not say which iteration" in caplog.text
    (run / "exports").mkdir()
    shutil.copytree(run / "hf", run / "exports" / "iteration-00002")  # kept under its number
    evaluated = []

    def evaluate(cfg: EvaluationConfig, folder: Path, plans: object) -> list:
        evaluated.append((cfg.model.path, (folder / "model" / "config.json").read_text()))
        (folder / "results.json").write_text('{"kind": "k15 eval", "results": []}')
        return []

    assert watch(cfg, out, evaluate) == 0 and evaluated == [(str(out / "iteration-2" / "model"), "2")]


def test_a_late_watcher_takes_every_export_that_is_kept(tmp_path: Path) -> None:
    """From the earliest on; also those that were kept while it evaluated."""
    run, out, taken = tmp_path / "run", tmp_path / "out", []

    def train(iteration: int) -> None:
        export(run, iteration)
        keep_export(run, iteration, "all")

    for iteration in (5, 10, 15):
        train(iteration)
    while (held := hold(run, out)) is not None:
        iteration, model = held
        assert model == out / f"iteration-{iteration}" / "model"
        assert (model / "config.json").read_text() == str(iteration)
        taken.append(iteration)
        (model.parent / "results.json").touch()
        if iteration == 10:
            train(20)
    assert taken == [5, 10, 15, 20]
    assert sorted(p.name for p in out.iterdir()) == ["iteration-10", "iteration-15", "iteration-20", "iteration-5"]


def test_what_was_not_held_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run replaces its export at every look: links to old weights would keep them on disk."""
    run, out, number = tmp_path / "run", tmp_path / "out", iter(range(1, 99))
    export(run, 0)

    def link(source: str, target: str) -> None:
        os.link(source, target)
        if source.endswith("b.safetensors"):
            export(run, next(number))

    monkeypatch.setattr(eval_watch, "link", link)
    monkeypatch.setattr(eval_watch.time, "sleep", lambda _: None)
    assert hold(run, out) is None and next(number) == 11
    assert not out.exists() or list(out.rglob("*")) == []


def test_a_watcher_goes_on_with_its_settings_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With others, an export that has results would keep them, and stand beside the others' in one table."""
    write_data(tmp_path / "data")
    run, out = tmp_path / "run", tmp_path / "out"
    export(run, 5)
    cfg = EvaluationConfig(
        watch=str(run),
        run_dir=str(out),
        tasks=["gsm8k"],
        data_dir=str(tmp_path / "data"),
        watch_idle_min=1e-6,
        watch_every_s=0.01,
    )

    def evaluate(cfg: EvaluationConfig, folder: Path, plans: object) -> list:
        (folder / "results.json").write_text('{"kind": "k15 eval", "results": []}')
        return []

    other = replace(cfg, tasks=["gsm8k", "gsm8k_cot_zeroshot"], limit=3)
    preflight(other, 1)
    assert watch(cfg, out, evaluate) == 0 and (out / "iteration-5" / "results.json").is_file()
    before = (out / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"other settings \((tasks, limit|limit, tasks)\).*another run_dir"):
        preflight(other, 1)
    export(tmp_path / "second", 5)
    with pytest.raises(ConfigError, match=r"other settings \(watch\)"):
        preflight(replace(cfg, watch=str(tmp_path / "second")), 1)
    assert (out / "config.yaml").read_text() == before
    monkeypatch.chdir(tmp_path)
    engine = replace(cfg.engine, start_timeout_s=2000.0)
    preflight(replace(cfg, watch="run", watch_idle_min=3.0, workers=2, engine=engine), 1)


def test_a_broken_export_is_named_and_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was held while it was broken was once taken first for ever."""
    monkeypatch.setattr(eval_watch.time, "sleep", lambda _: None)
    run, out = tmp_path / "run", tmp_path / "out"
    export(run, 5)
    (run / "exports" / "iteration-foo").mkdir(parents=True)
    (out / "iteration-old").mkdir(parents=True)
    assert hold(run, out) == (5, out / "iteration-5" / "model")
    (out / "iteration-5" / "model" / "config.json").unlink()  # as an earlier watcher held it
    (run / "hf" / "config.json").unlink()
    with pytest.raises(DataError, match=f"{run}/hf is no whole export"):
        hold(run, out)
    export(run, 6)
    assert hold(run, out) == (6, out / "iteration-6" / "model")
    (out / "iteration-6" / "results.json").write_text('{"kind": "k15 eval", "results": []}')
    assert append(out)
    for record in ("", "[]", '{"iteration": null}', '{"iter'):
        (run / "hf" / EXPORT_RECORD).write_text(record)
        with pytest.raises(DataError, match=f"{EXPORT_RECORD} is broken"):
            hold(run, out)
    for text in ("save: latest\n", "[]", "save:\n"):
        (run / "config.yaml").write_text(text)
        assert not keeps_all(run)


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
