"""A bounded pool: what is costly to make (cgroups, network namespace) is made once and used by one job after another."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Slots(Generic[T]):
    """Makes a thing when none is free. Thread-safe. One thing serves one job at a time."""

    def __init__(self, make: Callable[[int], T], remove: Callable[[T], None]) -> None:
        self._make, self._remove = make, remove
        self._free: queue.LifoQueue[T] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._count = 0

    @contextmanager
    def one(self) -> Iterator[T]:
        """A slot for the length of the block. One whose block raised is removed and not used again."""
        try:
            slot = self._free.get_nowait()
        except queue.Empty:
            with self._lock:
                number = self._count
                self._count += 1
            slot = self._make(number)
        try:
            yield slot
        except BaseException:
            self._remove(slot)
            raise
        self._free.put(slot)

    def close(self) -> None:
        """Remove all that are free; call it when no job runs."""
        while True:
            try:
                slot = self._free.get_nowait()
            except queue.Empty:
                return
            self._remove(slot)
