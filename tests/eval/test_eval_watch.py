"""What `k15 eval watch=...` takes up: each export once, whole even while the run replaces it, and a half-done one first."""

import os
import shutil
import threading
from pathlib import Path

from k15.runs.eval_watch import finished, hold, iteration_of


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
