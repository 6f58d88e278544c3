"""Several commands as processes of this machine, a few at a time."""

import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from k15.child import end, prepare
from k15.errors import REQUEUE

POLL_S = 0.1


def run_all(commands: Mapping[int, list[str]], *, parallel: int, logs: Mapping[int, Path] | None) -> dict[int, str]:
    """Run each to its end, at most `parallel` at once; the end of each: COMPLETED, `saved` (85), or `exit N`.

    `logs`: files that get the output, else it goes where ours goes. USR1 (save, go on later) is passed on, and starts no more.
    """
    waiting, running, ends = dict(commands), {}, {}
    stop = []

    def passed_on(number: int, frame: object) -> None:
        stop.append(number)
        for process, _ in running.values():
            process.send_signal(number)

    before = signal.signal(signal.SIGUSR1, passed_on)
    try:
        while running or (waiting and not stop):
            while waiting and len(running) < parallel and not stop:
                number = next(iter(waiting))
                running[number] = _start(waiting.pop(number), None if logs is None else logs[number])
            for number, (process, log) in list(running.items()):
                code = process.poll()
                if code is not None:
                    ends[number] = "COMPLETED" if code == 0 else "saved" if code == REQUEUE else f"exit {code}"
                    del running[number]
                    if log is not None:
                        log.close()
            time.sleep(POLL_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
        for process, _ in running.values():
            end(process)
    return ends | {number: "saved" for number in waiting}


def _start(command: list[str], log: Path | None):
    file = log.open("ab") if log is not None else None
    process = subprocess.Popen(command, preexec_fn=prepare, stdout=file, stderr=subprocess.STDOUT if file is not None else None)
    return process, file
