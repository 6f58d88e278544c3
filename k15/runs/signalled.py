"""Slurm's signal before the time limit, for commands that keep what they have as they go: they end at once, to be requeued."""

import os
import signal
import sys
import threading

from k15.errors import REQUEUE
from k15.log import get_logger

LONGEST_S = 60.0
"""The end takes no longer: a thread that waits for a sandbox would hold it as long as its patience lasts, and Python swallows an
exit that is raised in a hook of fork() or in a `__del__`."""
log = get_logger("signal")


def end_when_signalled() -> None:
    """From now on SIGUSR1 ends this process with REQUEUE, from its main thread, so that `with` blocks end what they started."""
    signal.signal(signal.SIGUSR1, _end)


def _end(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    timer = threading.Timer(LONGEST_S, os._exit, [REQUEUE])
    timer.daemon = True
    timer.start()
    log.warning("signalled: what came so far is kept, and the same words go on from there")
    sys.exit(REQUEUE)
