"""Slurm's signal before the time limit, for commands that keep what they have as they go: they end at once, to be requeued.

No end may wait for a thread: Python joins all of them, and one that waits for a sandbox or a judge does so for minutes or hours,
while Slurm ends a job that is not done at its limit, and requeues it no more.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from k15.errors import REQUEUE
from k15.log import get_logger

LONGEST_S = 60.0
"""The end takes no longer; also because Python swallows an exit that is raised in a hook of fork() or in a `__del__`."""
log = get_logger("signal")


def end_within(seconds: float) -> None:
    """This process ends with REQUEUE after `seconds` at the latest, whatever its threads wait for."""
    timer = threading.Timer(seconds, os._exit, [REQUEUE])
    timer.daemon = True
    timer.start()


def end_when_signalled(run_dir: Path | None = None) -> None:
    """From now on SIGUSR1 ends this process with REQUEUE, from its main thread, so that `with` blocks end what they started.
    `run_dir`: without which the same words would begin anew."""
    words = "the same words" if run_dir is None else f"the same words with run_dir={run_dir}"

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        end_within(LONGEST_S)
        log.warning("signalled: what came so far is kept, and %s go on from there", words)
        sys.exit(REQUEUE)

    signal.signal(signal.SIGUSR1, end)
