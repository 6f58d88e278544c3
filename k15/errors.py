"""The exceptions k15 raises for users, and the exit code that asks for another run. Invariants use `assert`."""

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches

REQUEUE = 85
"""The exit code of a command that was stopped by the signal before the time limit: it has saved, and asks for another run of the
same words (0: done, 1: failed, 2: refused). slurm/preamble.sh and the end of a pipeline's job have the same number."""


class K15Error(Exception):
    """Base of all errors that k15 raises on purpose; the command line prints them without a traceback."""


class ConfigError(K15Error, ValueError):
    """A setting is wrong. The message says the value, the rule, the remedy and the allowed names."""


class DataError(K15Error, ValueError):
    """A dataset, prompt or tokenizer file is missing, empty or malformed."""


class ClusterError(K15Error, RuntimeError):
    """Slurm, a node, or a process that k15 owns did not do what it must."""


class EngineError(K15Error, RuntimeError):
    """An inference engine failed or answered with something that cannot be trusted."""


class TrainerError(K15Error, RuntimeError):
    """A trainer rank failed, or was asked for something that its state does not allow."""


class WeightsError(K15Error, RuntimeError):
    """A weight version is missing, incomplete, or not the one that was asked for."""


class SandboxError(K15Error, RuntimeError):
    """The sandbox cannot give the isolation, the image or the language that was asked for."""


TRACE = "K15_TRACE"
"""Set in the environment, errors of the system are shown with the place in k15 that they come from."""

_SYSTEM = {
    errno.ENOSPC: "Make room, or give a folder elsewhere", errno.EDQUOT: "Make room, or give a folder elsewhere",
    errno.EACCES: "Give a path that this user may use", errno.EPERM: "Give a path that this user may use",
    errno.EROFS: "Give a folder that can be written to", errno.ENOTDIR: "A part of this path is a file: give another path",
    errno.EISDIR: "A folder is where a file should be: give another path",
    errno.EEXIST: "Something is there already: give another path",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
}  # fmt: skip


def system_error(error: OSError) -> str | None:
    """What to say in place of a traceback: path, reason, remedy. None where that is all there is to go by: an error without a
    number, or K15_TRACE is set."""
    if error.errno is None or TRACE in os.environ:
        return None
    names = " -> ".join(str(n) for n in (error.filename, error.filename2) if n is not None)
    remedy = f" {_SYSTEM[error.errno]}." if error.errno in _SYSTEM else ""
    return (
        f"{names + ': ' if names else ''}{error.strerror}.{remedy} What was written until now is kept; {TRACE}=1 shows where "
        "this came from."
    )


def unknown_name(what: str, value: object, allowed: Iterable[object]) -> ConfigError:
    """A ConfigError for a name that is not in `allowed`, with the nearest allowed name as the remedy."""
    names = sorted(str(a) for a in allowed)
    near = get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{what} is {value!r}, which is not known.{hint} Allowed: {', '.join(names)}.")
