"""Points of a sweep as processes: so many at once, every end is told, and the signal to save reaches each of them."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from cluster import wait_for

from k15.cli import _points
from k15.config.compose import compose_run
from k15.config.words import quoted
from k15.launch.processes import run_all
from k15.launch.sweep import typed_again, value_of


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_at_most_so_many_run_at_once_and_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    note = "import time; print('begin', time.monotonic(), flush=True); time.sleep(0.4); print('end', time.monotonic())"
    logs = {n: tmp_path / f"{n}.log" for n in range(4)}
    commands = {n: python(note if n != 1 else note + "; raise SystemExit(3)") for n in range(4)}
    assert run_all(commands, parallel=2, logs=logs) == {0: "COMPLETED", 1: "exit 3", 2: "COMPLETED", 3: "COMPLETED"}
    marks = sorted((float(t), word) for log in logs.values() for word, t in map(str.split, log.read_text().splitlines()))
    going = highest = 0
    for _, word in marks:
        going += 1 if word == "begin" else -1
        highest = max(highest, going)
    assert highest == 2


def test_the_signal_to_save_reaches_those_that_run_and_starts_no_more(tmp_path: Path) -> None:
    saves = ("import signal, sys, time, pathlib; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(85)); "
             f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)")  # fmt: skip

    def ask() -> None:
        wait_for((tmp_path / "ready").exists, 30, "the first process")
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=ask).start()
    logs = {n: tmp_path / f"{n}.log" for n in range(2)}
    assert run_all({n: python(saves) for n in range(2)}, parallel=1, logs=logs) == {0: "saved", 1: "saved"}
    assert not logs[1].exists()


def test_a_point_gets_the_text_that_was_typed() -> None:
    """Through the quotes of `k15`, the escapes of Hydra's sweeper, and the quotes of the point's own `k15`."""
    typed = "reward.template=\\boxed{ANSWER}"
    points = _points([*quoted([typed]), "seed=1,2", "name=${data.kind}"], sampled=False)
    for point in points:
        again = [typed_again(word) for word in point]
        assert again[0] == typed
        cfg = compose_run(quoted(again))
        assert cfg.reward.template == "\\boxed{ANSWER}" and cfg.name == cfg.data.kind


def test_a_sweeper_that_searches_is_told_the_last_held_out_value(tmp_path: Path) -> None:
    assert value_of(tmp_path) is None
    rows = [{"iteration": 0, "eval_greedy_accuracy": 0.25, "eval_loss": 3.0}, {"iteration": 1, "eval_greedy_accuracy": 0.5},
            {"iteration": 2, "loss": 1.0}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert value_of(tmp_path) == 0.5
