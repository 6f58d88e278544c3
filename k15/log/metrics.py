"""metrics.jsonl: one JSON object a line, one line an iteration, in rising order; and what else gets the numbers.

    write -> one os.write of a whole line -> fsync      a killed run leaves whole lines, or one torn last line
    open  -> a torn last line is cut off and logged
    resume_at(i) -> lines of iterations >= i are dropped (the resumed run writes them again)

JSON has no NaN or infinity, and a diverged loss must not be lost, so these are written as the strings "nan", "inf"
and "-inf"; `read_metrics` turns them back into floats.
"""

import json
import math
import numbers
import os
from collections.abc import Mapping
from pathlib import Path

from k15.errors import DataError
from k15.log.files import atomic_write, sync_folder
from k15.log.sinks import TensorBoardSink, WandbSink
from k15.log.text import get_logger

Value = bool | int | float | str | None
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends one line an iteration to `run_dir`/metrics.jsonl and sends its numbers to TensorBoard and W&B.

    Opening an existing file continues it. Call `resume_at` with the first iteration that will be written again.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        tensorboard: bool = False,
        wandb_project: str | None = None,
        config: Mapping[str, object] | None = None,
    ) -> None:
        """`config` is what W&B shows as the run's settings; the other outputs do not use it."""
        self.run_dir = Path(run_dir)
        self.path = self.run_dir / "metrics.jsonl"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._sinks: list[TensorBoardSink | WandbSink] = []
        if tensorboard:
            self._sinks.append(TensorBoardSink(self.run_dir / "tensorboard"))
        if wandb_project is not None:
            self._sinks.append(WandbSink(self.run_dir, wandb_project, config if config is not None else {}))
        _mend_tail(self.path)
        rows = read_metrics(self.path) if self.path.exists() else []
        self._last = rows[-1]["iteration"] if rows else None
        self._fd = self._open()

    def _open(self) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        sync_folder(self.run_dir)
        return fd

    def write(self, metrics: Mapping[str, object]) -> None:
        """Append one line. `metrics["iteration"]` (int) must be larger than that of the line before."""
        row = {name: _plain(name, value) for name, value in metrics.items()}
        iteration = row.get("iteration")
        assert isinstance(iteration, int), f"a metrics line needs an integer iteration, not {iteration!r}"
        assert self._last is None or iteration > self._last, (
            f"iteration {iteration} was written after {self._last}: call resume_at first"
        )
        line = json.dumps({k: _encode(v) for k, v in row.items()}, allow_nan=False) + "\n"
        _write_all(self._fd, line.encode())
        os.fsync(self._fd)
        self._last = iteration
        for sink in self._sinks:
            sink.write(iteration, row)

    def resume_at(self, iteration: int) -> int:
        """Drop the lines of iterations >= `iteration`; returns how many. `resume_at(0)` starts afresh."""
        rows = read_metrics(self.path)
        kept = [r for r in rows if r["iteration"] < iteration]
        if len(kept) < len(rows):
            os.close(self._fd)  # it names the file that is about to be replaced
            lines = [json.dumps({k: _encode(v) for k, v in r.items()}, allow_nan=False) + "\n" for r in kept]
            atomic_write(self.path, "".join(lines).encode())
            self._fd = self._open()
            get_logger("log").info("metrics.jsonl: %d lines from iteration %d on dropped", len(rows) - len(kept), iteration)
        self._last = kept[-1]["iteration"] if kept else None
        for sink in self._sinks:
            sink.resume_at(iteration)
        return len(rows) - len(kept)

    def close(self) -> None:
        """Flush the sinks and close the files; a second call does nothing."""
        for sink in self._sinks:
            sink.close()
        self._sinks = []
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Value]]:
    """The lines of a metrics.jsonl in order, without a torn last line (a run that is being written, or was killed)."""
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise DataError(f"there is no metrics file {path}. It appears with a run's first iteration.") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append({k: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()})
        elif line.strip() and number < len(lines):  # what follows the last newline may be torn
            raise DataError(f"{path}, line {number} is not a JSON object with an integer iteration: {line[:80]!r}.")
    return rows


def _parse(line: bytes) -> dict[str, Value] | None:
    """The line's object, or None where it is not a whole metrics line."""
    try:
        row = json.loads(line)
    except ValueError:  # also UnicodeDecodeError
        return None
    return row if isinstance(row, dict) and isinstance(row.get("iteration"), int) else None


def _mend_tail(path: Path) -> None:
    """Cut off a torn last line; end a whole one that lacks only its newline."""
    if not path.exists():
        return
    data = path.read_bytes()
    head, newline, tail = data.rpartition(b"\n")
    if not tail:
        return
    with open(path, "r+b") as f:
        if _parse(tail) is not None:
            f.seek(0, os.SEEK_END)
            f.write(b"\n")
        else:
            f.truncate(len(head) + len(newline))
            get_logger("log").warning("%s: cut off a torn last line of %d bytes", path, len(tail))
        f.flush()
        os.fsync(f.fileno())


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _plain(name: str, value: object) -> Value:
    """Plain Python numbers from numpy's; a metric is a number, a string or None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"metric {name!r} is a {type(value).__name__}; it must be a number, a string or None")


def _encode(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
