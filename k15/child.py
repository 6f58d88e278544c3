"""What every process that k15 starts does between fork and exec, and how one is ended."""

import ctypes
import signal
import subprocess

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def prepare() -> None:
    """For `preexec_fn`: die with the parent's thread (also when it is killed), and ignore the signals to save.

    Slurm passes such a signal on to every process of a step; the controller alone acts on it, by a handler of its own.
    """
    die_with_parent()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """This process is killed when the thread that started it ends, also when that one is killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end(process: subprocess.Popen, grace_s: float = 30.0) -> None:
    """SIGTERM, and SIGKILL where it goes on for longer than that."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
