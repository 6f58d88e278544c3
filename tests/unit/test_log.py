"""k15.log: what a killed and resumed run leaves on disk, and what the progress line and the phase timer count."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError, DataError
from k15.log import MetricsWriter, PhaseTimer, Progress, RolloutLog, get_logger, read_metrics, read_rollouts
from k15.log.progress import duration
from k15.log.rollouts import list_rollouts, rollout_record
from k15.types import Prompt, Rollout, Score, Segment


def test_import_is_light():
    heavy = ("torch", "numpy", "tensorboard", "zstandard", "wandb")
    code = f"import sys, k15.log; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- metrics.jsonl ---------------------------------------------------------------------------------------------------


def test_every_cut_of_the_file_reads_and_continues(tmp_path):
    """Whatever byte a kill cut the file at, the whole lines stay, and writing goes on after them."""
    with MetricsWriter(tmp_path) as w:
        for i in range(3):
            w.write({"iteration": i, "loss": i / 3, "note": "größer"})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    ends = [i for i, b in enumerate(whole) if b == ord("\n")]
    for cut in range(len(whole) + 1):
        (tmp_path / "metrics.jsonl").write_bytes(whole[:cut])
        lines = sum(end <= cut for end in ends)  # a line is whole with or without its newline
        assert [r["iteration"] for r in read_metrics(tmp_path / "metrics.jsonl")] == list(range(lines))
        with MetricsWriter(tmp_path) as w:
            w.write({"iteration": 7, "loss": 1.0})
        assert [r["iteration"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [*range(lines), 7]


def test_torn_line_is_logged_and_damage_inside_is_an_error(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iterat')
    MetricsWriter(tmp_path).close()
    assert "cut off a torn last line of 8 bytes" in caplog.text
    path.write_text('{"iteration": 0}\n{"iterat\n{"iteration": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_metrics(path)
    with pytest.raises(DataError, match="no metrics file"):
        read_metrics(tmp_path / "absent.jsonl")


def test_resume_gives_each_iteration_once(tmp_path):
    with MetricsWriter(tmp_path) as w:
        for i in range(6):
            w.write({"iteration": i, "run": "first"})
    with MetricsWriter(tmp_path) as w:
        with pytest.raises(AssertionError, match="resume_at"):
            w.write({"iteration": 4, "run": "second"})
        assert w.resume_at(4) == 2
        for i in range(4, 8):
            w.write({"iteration": i, "run": "second"})
        assert w.resume_at(8) == 0
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["iteration"], r["run"]) for r in rows] == [(i, "first" if i < 4 else "second") for i in range(8)]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]  # no temporary file is left


@settings(deadline=None, max_examples=60)  # each example syncs a file to disk
@given(value=st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.booleans(), st.none()))
def test_values_round_trip_as_strict_json(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("m")
    with MetricsWriter(folder) as w:
        w.write({"iteration": 1, "x": value})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads((folder / "metrics.jsonl").read_text(), parse_constant=refuse)
    back = read_metrics(folder / "metrics.jsonl")[0]["x"]
    assert type(back) is type(value)
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_killed_writer_leaves_whole_lines(tmp_path):
    """SIGKILL in the middle of writing: the lines that write() returned for are all there."""
    code = (
        "import sys; from k15.log import MetricsWriter\nw = MetricsWriter(sys.argv[1])\n"
        "for i in range(10**6):\n    w.write({'iteration': i, 'x': 'y' * 500}); print(i, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    confirmed = [int(line) for line in child.communicate()[0].split("\n") if line.isdigit()]
    MetricsWriter(tmp_path).close()
    seen = [r["iteration"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert seen == list(range(len(seen)))
    assert len(seen) > max([19, *confirmed])


def test_tensorboard_reads_a_resumed_run(tmp_path):
    """TensorBoard's own loader gets each number once, also after a resume."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsWriter(tmp_path, tensorboard=True) as w:
        for i in range(5):
            w.write({"iteration": i, "loss": float(i), "time_rollout_s": 2.0, "note": "text stays out"})
    time.sleep(1.1)  # event files are read in the order of their names, which hold whole seconds
    with MetricsWriter(tmp_path, tensorboard=True) as w:
        w.resume_at(3)
        for i in range(3, 6):
            w.write({"iteration": i, "loss": 10.0 + i})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    loss = events.Scalars("train/loss")
    assert [e.step for e in loss] == list(range(6))
    assert [e.value for e in loss] == [0, 1, 2, 13, 14, 15]
    assert [e.step for e in events.Scalars("time/rollout_s")] == [0, 1, 2]
    assert events.Tags()["scalars"] == ["train/loss", "time/rollout_s"]


def test_wandb_missing_is_a_config_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what an absent package looks like to import
    with pytest.raises(ConfigError, match=r"log.wandb_project is 'p'.*pip install wandb\) or set log.wandb_project=null"):
        MetricsWriter(tmp_path, wandb_project="p")


# --- phases and progress ---------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_phases_add_up_to_wall_time():
    clock = Clock()
    timer = PhaseTimer(clock)
    with timer.span("rollout"):
        clock.now += 5
        with timer.span("weights"):
            assert timer.phase == "weights"
            clock.now += 2
        clock.now += 1
    clock.now += 50  # outside of all spans
    with pytest.raises(KeyError), timer.span("rollout"):
        clock.now += 3
        raise KeyError
    assert timer.take() == {"time_rollout_s": 9.0, "time_weights_s": 2.0}
    with timer.span("eval"):
        clock.now += 1
        assert timer.take() == {"time_eval_s": 1.0}
        clock.now += 4
    assert timer.take() == {"time_eval_s": 4.0}


def test_progress_in_a_log_file():
    clock, out = Clock(), io.StringIO()
    progress = Progress(10, stream=out, min_interval_s=10, clock=clock, window=2)
    for i, seconds in ((3, 100), (4, 30), (5, 50)):  # a resumed run begins at 3; only the last two count
        for part in range(10):
            progress.update(i, "rollout", tokens_per_s=1234.4, reward=0.5)
            clock.now += seconds / 10 if part else 0
        clock.now += seconds / 10
    progress.update(6, "train", accuracy=0.256, length=33.64)
    assert progress.eta_s() == pytest.approx(40 * 5)
    progress.update(6, "eval")
    progress.close()
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue() and len([x for x in lines if "  4/10" in x]) <= 4
    assert lines[0].endswith("left ?")
    assert lines[-2] == "iteration  6/10  train    1,234 tok/s  reward +0.500  accuracy 25.6 %  length 33.6  left 3m20s"
    assert "eval" in lines[-1]  # held back by the interval, shown by close()


def test_progress_on_a_terminal_rewrites_one_row():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock, out = Clock(), Terminal()
    progress = Progress(5, stream=out, clock=clock)
    for i in range(1, 4):
        progress.update(i, "rollout")
        clock.now += 1
    progress.close()
    assert out.getvalue().count("\n") == 1 and out.getvalue().count("\r\x1b[K") == 3


def test_duration():
    assert [duration(s) for s in (0, 59.4, 59.6, 3599, 7500, 2 * 86400 + 3 * 3600)] == [
        "0s", "59s", "1m00s", "59m59s", "2h05m", "2d03h",
    ]  # fmt: skip


def test_loggers_are_named_by_room(monkeypatch):
    assert get_logger("rollout").name == "k15.rollout"
    base = get_logger("x").parent
    monkeypatch.setattr(base, "handlers", [])
    monkeypatch.setenv("K15_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigError, match=r"K15_LOG_LEVEL is 'LOUD'.*DEBUG, ERROR, INFO, WARNING"):
        get_logger("x")


# --- rollouts --------------------------------------------------------------------------------------------------------


def record(response="4", score=None):
    prompt = Prompt("p1", "2+2?", "4", difficulty=1.0)
    segments = (Segment((5, 6), (-0.5, -1.5), 3, "budget"), Segment((7,), (-0.25,), 4, "stop"))
    return rollout_record(prompt, Rollout("p1", 2, 9, (1,), segments), score, response)


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_rollout_text_round_trips(tmp_path_factory, text):
    """Any text at all: line separators, NULs, lone surrogates, quotes."""
    log = RolloutLog(tmp_path_factory.mktemp("r"))
    path = log.write(3, [record(text), record("x")])
    assert [r["response"] for r in read_rollouts(path)] == [text, "x"]


def test_rollout_records_and_replacement(tmp_path):
    log = RolloutLog(tmp_path)
    score = Score(True, {"correct": 1.0, "length": -0.25})
    path = log.write(4, [record()] * 3)
    assert log.write(4, [record(score=score)]) == path and path.name == "00004.jsonl.zst"
    log.write(5, [])
    (got,) = read_rollouts(path)
    assert got["segments"] == [
        {"version": 3, "finish": "budget", "n_tokens": 2, "logprob_mean": -1.0},
        {"version": 4, "finish": "stop", "n_tokens": 1, "logprob_mean": -0.25},
    ]
    assert (got["reward"], got["reward_parts"], got["correct"]) == (0.75, dict(score.parts), True)
    assert (got["length"], got["finish"], got["index"]) == (3, "stop", 2)
    assert read_rollouts(log.folder / "00005.jsonl.zst") == []
    assert log.resume_at(5) == 1 and [n for n, _ in list_rollouts(tmp_path)] == [4]


def test_damaged_rollout_file(tmp_path):
    path = RolloutLog(tmp_path).write(1, [record(f"text {i}") for i in range(50)])
    data = path.read_bytes()
    for bad in (data[:-9], data[: len(data) // 2], b"", b"not zstd"):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="damaged"):
            read_rollouts(path)
    with pytest.raises(DataError, match="no rollout log"):
        read_rollouts(tmp_path / "none")
