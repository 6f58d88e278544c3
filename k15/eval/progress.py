"""How far a task is: one rewritten row on a terminal, a line now and then in a log."""

import sys
import time
from typing import TextIO

from k15.log.progress import duration


class Bar:
    """Counts to `total`. `units`: what `add` also counts, shown as a rate ("tok")."""

    def __init__(self, label: str, total: int, units: str = "", stream: TextIO | None = None) -> None:
        self._label, self._total, self._units = label, total, units
        self._stream = stream if stream is not None else sys.stderr
        self._tty = self._stream.isatty()
        self._every_s = 0.1 if self._tty else 30.0
        self._done = self._counted = 0
        self._started = time.monotonic()
        self._shown = self._started if not self._tty else 0.0

    def add(self, done: int = 1, counted: int = 0) -> None:
        """So many more are done."""
        self._done += done
        self._counted += counted
        if time.monotonic() - self._shown >= self._every_s or self._done == self._total:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        seconds = max(self._shown - self._started, 1e-9)
        left = seconds / self._done * (self._total - self._done) if self._done else 0.0
        line = f"{self._label}  {self._done}/{self._total}  {duration(seconds)} gone, {duration(left)} left"
        if self._units:
            line += f"  {self._counted / seconds:,.0f} {self._units}/s"
        end = "\n" if not self._tty or self._done == self._total else ""
        self._stream.write(f"\r\x1b[K{line}{end}" if self._tty else line + end)
        self._stream.flush()
