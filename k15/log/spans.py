"""Seconds by phase of an iteration."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PhaseTimer:
    """`with timer.span("rollout"): ...` adds to `time_rollout_s`; `take()` gives all seconds and starts anew.

    Spans may nest: the inner span's seconds are taken from the outer one, so that the phases add up to wall time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @property
    def phase(self) -> str | None:
        """The innermost open span."""
        return self._open[-1] if self._open else None

    def _charge(self) -> None:
        """Give the time since the last change to the innermost open span."""
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def span(self, phase: str) -> Iterator[None]:
        """Time the block as `phase`; the time counts also when the block raises."""
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """`{"time_<phase>_s": seconds}` since the last call. Spans still open go on counting into the next."""
        self._charge()
        seconds, self._seconds = self._seconds, {}
        return {f"time_{phase}_s": s for phase, s in seconds.items()}
