"""The child process that checks one answer at a time: `python -m k15.reward.worker FD`, started by `pool.WorkerPool`.

Jobs and results are length-prefixed pickles on an inherited socket. Untrusted text meets algebra (and the user's own
reward function) here and only here, under an alarm that kills this process even inside C code; algebra has a memory
limit too.
"""

import asyncio
import importlib
import inspect
import logging
import math
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import cache
from typing import SupportsFloat

from k15.reward.compare import compare

MEMORY_BYTES = 2 << 30  # for algebra
HEADER = struct.Struct("!Q")


def receive(connection: socket.socket) -> object:
    """One message. Raises EOFError when the other side has gone."""
    size = HEADER.unpack(_exactly(connection, HEADER.size))[0]
    return pickle.loads(_exactly(connection, size))  # from our own parent or child over an inherited socket pair


def send(connection: socket.socket, message: object) -> None:
    body = pickle.dumps(message)
    connection.sendall(HEADER.pack(len(body)) + body)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            raise EOFError("the other side of the reward worker's socket has gone")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def verify(given: str, wanted: str, question: str | None = None) -> tuple[bool, str]:
    """(correct, reason) by text, numbers and algebra; both in canonical notation (`k15.reward.notation`).

    What is equal by algebra must be worked out too, and no copy of the `question`, where that is given.
    """
    from k15.reward.algebra import equal
    from k15.reward.form import refusal

    limit_memory(MEMORY_BYTES)
    refused: list[str] = []

    def answers(mine: str, right: str) -> bool:
        if not equal(mine, right):
            return False
        reason = refusal(mine, right, question)
        if reason is not None:
            refused.append(reason)
        return reason is None

    verdict = compare(given, wanted, answers)
    assert verdict is not None, "algebra always decides"
    return verdict if verdict[0] or not refused else (False, refused[0])


def second(extracted: str, answer: str) -> bool | None:
    """math-verify's own verdict, as it comes (the audit's second method); None where it cannot read one of the two."""
    import math_verify

    limit_memory(MEMORY_BYTES)
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, given = (
        math_verify.parse(f"\\boxed{{{text}}}", fallback_mode="no_fallback", parsing_timeout=None) for text in (answer, extracted)
    )
    if not gold or not given:
        return None
    return math_verify.verify(gold, given, timeout_seconds=None)


def limit_memory(data_bytes: int) -> None:
    """Bound what this process may allocate (RLIMIT_DATA, since libraries reserve address space that they never use)."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, hard))


def prepare(kind: str, spec: str | None = None) -> None:
    """Import what jobs of this kind need, so that their time limit is for them alone."""
    if kind == "custom":
        assert spec is not None, "a custom job names its function"
        load(spec)
    else:
        verify("(x+1)^2", "x^2+2x+1")


@cache
def load(spec: str) -> Callable[..., object]:
    """The function that `package.module:function` names."""
    module, _, name = spec.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{spec} is a {type(function).__name__}, not a function")
    return function


def check_custom(spec: str) -> str:
    """Load the function and return its signature, so that a wrong one is found before the first rollout."""
    signature = inspect.signature(load(spec))
    signature.bind(None, "")  # called as function(prompt, response)
    return str(signature)


def custom(spec: str, prompt: object, response: str, memory_bytes: int = 4 << 30) -> float:
    """Call the user's function, sync or async; its value must be a finite number (a bool, an int, a float, or NumPy's)."""
    limit_memory(memory_bytes)
    value = load(spec)(prompt, response)
    if inspect.isawaitable(value):
        value = asyncio.run(_awaited(value))
    if not isinstance(value, SupportsFloat) or isinstance(value, str):
        raise TypeError(f"{spec} returned {value!r:.80}; a reward must be a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{spec} returned {number}; a reward must be a finite number")
    return number


async def _awaited(value: object) -> object:
    return await value  # type: ignore[misc]


JOBS: dict[str, Callable[..., object]] = {f.__name__: f for f in (prepare, verify, second, check_custom, custom)}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, also on Ctrl-C
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    connection = socket.socket(fileno=int(sys.argv[1]))
    while True:
        try:
            job, arguments, wall_s, cpu_s = receive(connection)  # type: ignore[misc]
        except EOFError:
            return
        # The parent kills at wall_s; the alarm is for the case that the parent itself has died meanwhile.
        signal.setitimer(signal.ITIMER_REAL, wall_s + 1.0)
        signal.setitimer(signal.ITIMER_PROF, cpu_s if cpu_s is not None else 0.0)  # SIGPROF ends the process, even inside C code
        try:
            answer = (True, JOBS[job](*arguments))
        except BaseException as error:  # every failure is a result: the parent counts and logs it
            answer = (False, f"{type(error).__name__}: {error}"[:500])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, answer)


if __name__ == "__main__":
    main()
