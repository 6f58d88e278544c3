"""The live line: one rewritten row on a terminal, a plain line now and then in a Slurm log."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Shows where a run is. Iterations are counted 1..total; the last values shown stay until new ones come.

    In a log file a line is written when the iteration changes, and within one at most every `min_interval_s`.
    The time left is `window` iterations' mean seconds times what is left of the run, less what this one has taken.
    """

    def __init__(
        self,
        total_iterations: int,
        *,
        stream: TextIO | None = None,
        min_interval_s: float = 10.0,
        window: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total_iterations
        self._stream = stream if stream is not None else sys.stdout
        self._tty = self._stream.isatty()
        self._min_interval_s = 0.1 if self._tty else min_interval_s
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=window)  # seconds of the last whole iterations
        self._iteration: int | None = None
        self._started = clock()
        self._printed_at: float | None = None
        self._values: dict[str, float] = {}
        self._line = self._shown = ""

    def update(
        self,
        iteration: int,
        phase: str,
        *,
        tokens_per_s: float | None = None,
        reward: float | None = None,
        accuracy: float | None = None,
        length: float | None = None,
        loss: float | None = None,
        eta_s: float | None = None,
    ) -> None:
        """Show this state. `accuracy` is a share (0..1), `length` in tokens; `eta_s` replaces the own estimate."""
        now = self._clock()
        changed = iteration != self._iteration
        if changed:
            if self._iteration is not None and iteration == self._iteration + 1:
                self._durations.append(now - self._started)
            self._iteration, self._started = iteration, now
        given = {"tokens_per_s": tokens_per_s, "reward": reward, "accuracy": accuracy, "length": length, "loss": loss}
        self._values |= {k: v for k, v in given.items() if v is not None}
        self._line = self._format(phase, eta_s if eta_s is not None else self.eta_s())
        if changed or self._printed_at is None or now - self._printed_at >= self._min_interval_s:
            self._show(now)

    def eta_s(self) -> float | None:
        """Seconds left, or None before the first whole iteration."""
        if not self._durations or self._iteration is None:
            return None
        mean = sum(self._durations) / len(self._durations)
        left = mean * (self.total - self._iteration + 1) - (self._clock() - self._started)
        return max(left, 0.0)

    def close(self) -> None:
        """Show the last state, if it was held back, and end the row."""
        if self._line and self._line != self._shown:
            self._show(self._clock())
        if self._tty and self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def _format(self, phase: str, eta_s: float | None) -> str:
        v = self._values
        parts = [f"iteration {self._iteration:>{len(str(self.total))}}/{self.total}", f"{phase:<7}"]
        if "tokens_per_s" in v:
            parts.append(f"{v['tokens_per_s']:,.0f} tok/s")
        if "reward" in v:
            parts.append(f"reward {v['reward']:+.3f}")
        if "accuracy" in v:
            parts.append(f"accuracy {100 * v['accuracy']:.1f} %")
        if "length" in v:
            parts.append(f"length {v['length']:.1f}")
        if "loss" in v:
            parts.append(f"loss {v['loss']:.4f}")
        parts.append(f"left {duration(eta_s)}" if eta_s is not None else "left ?")
        return "  ".join(parts)

    def _show(self, now: float) -> None:
        if self._tty:
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{self._line[: columns - 1]}")
        else:
            self._stream.write(self._line + "\n")
        self._stream.flush()
        self._printed_at, self._shown = now, self._line


def duration(seconds: float) -> str:
    """`42s`, `3m07s`, `2h05m`, `3d04h`."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"
