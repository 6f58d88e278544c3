"""Log lines. Every room logs to `k15.<room>`; one handler, on `k15`, writes them to standard error."""

import logging
import os
import sys

from k15.errors import unknown_name

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever sys.stderr is now; silent where the application set up logging itself (Hydra, pytest)."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
        self.addFilter(lambda _: not logging.getLogger().handlers)  # the root's handlers get the record by propagation

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        # On a terminal the progress line may stand in this row: clear it, the next update draws it again.
        return f"\r\x1b[K{text}" if self.stream.isatty() else text

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def get_logger(room: str) -> logging.Logger:
    """The logger of a room, e.g. `get_logger("rollout")`. Level: the variable K15_LOG_LEVEL, or INFO."""
    base = logging.getLogger("k15")
    if not any(isinstance(h, _StderrHandler) for h in base.handlers):
        level = os.environ.get("K15_LOG_LEVEL", "INFO").upper()
        if level not in _LEVELS:
            raise unknown_name("K15_LOG_LEVEL", level, _LEVELS)
        base.addHandler(_StderrHandler())
        base.setLevel(level)
    return base.getChild(room)
