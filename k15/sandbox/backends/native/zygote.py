# ruff: noqa: SIM115, E402 (the streams of a process stay open; imports under another register_at_fork)
"""The warm interpreter. Runs inside a sandbox of its own, forks for each job; standard library only, any Python from 3.9.

A job in it sees what `python3 FILE` or `python3 -c CODE` would see: sys.argv, sys.path, `__main__`, streams, environment. What a
job's process does before the job and after it is counted in pages that it writes to: each is copied, and takes 4 us.
"""

import os

HOOKS = []  # what the modules below want done in every fork: of no use in the interpreter's own, half a millisecond each
registered, os.register_at_fork = os.register_at_fork, lambda **hooks: HOOKS.append(hooks)
import _random
import _signal
import atexit
import ctypes
import gc
import random
import sys
import threading
import types

os.register_at_fork = registered
STREAMS = ("stdin", "stdout", "stderr")
PRELOADED = "bisect collections copy decimal fractions functools heapq itertools json math operator random re string typing"


def load():
    """Everything that jobs have in common, done once; returns what waits for the next job."""
    for module in PRELOADED.split():
        __import__(module)
    native = ctypes.PyDLL("/dev/warm.so")
    native.next_job.restype = ctypes.py_object
    os.environ.clear()
    return native.next_job


def make_streams():
    """The job's streams on descriptors 0 to 2, which are what they will be in a job: a file and two pipes."""
    kept = [os.dup(fd) for fd in range(3)]
    given = [os.memfd_create("stdin"), *os.pipe()]
    for fd, like in ((0, given[0]), (1, given[2]), (2, given[2])):
        os.dup2(like, fd)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
    for stream in STREAMS:
        setattr(sys, f"__{stream}__", getattr(sys, stream))
    for fd, real in enumerate(kept):
        os.dup2(real, fd)
    for fd in (*kept, *given):
        os.close(fd)


def prepare(told):
    """Makes this process look like a fresh interpreter; returns the code to run, its name, its globals' module."""
    count, *rest = told.split(b"\0")
    words = [os.fsdecode(word) for word in rest[: int(count)]]
    _random.Random.seed(random._inst, int.from_bytes(os.urandom(32), "little"))
    for hooks in HOOKS:
        os.register_at_fork(**hooks)  # as in a fresh one, for the job's own forks
    data = os.environ._data  # the C library's environment is the job's already
    for pair in rest[int(count) :]:
        name, _, data[name] = pair.partition(b"=")
    if data.keys().isdisjoint((b"LC_ALL", b"LC_CTYPE", b"LANG")):
        os.environ["LC_CTYPE"] = "C.UTF-8"  # what the interpreter itself does in the C locale
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    if words[1] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[3:]], ""
        return words[2], "<string>", main
    path = os.path.abspath(words[1])
    sys.argv, sys.path[0], main.__file__ = words[1:], os.path.dirname(path), path
    try:
        with open(words[1], "rb") as file:
            return file.read(), path, main
    except OSError as e:
        print(f"python3: can't open file {path!r}: [Errno {e.errno}] {e.strerror}", file=sys.stderr)
        sys.exit(2)


def run(source, name, main):
    """Runs the code as the main program; an exception is shown without the frames of this file. Returns the exit code."""
    try:
        exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)
        return 0
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 1


def finish(code, before, last):
    """What the end of an interpreter does for a program, without taking apart what it shares with the warm one (5 ms).

    `before`: the names of its modules, the `last` of which was imported last; looking at each would copy the pages they are on.
    """
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        fresh = []
        for name in reversed(sys.modules):
            if name == last:
                break
            if name not in before:
                fresh.append(name)
        for name in ["__main__", *reversed(fresh)]:
            if name in sys.modules:
                vars(sys.modules.pop(name)).clear()  # the program's own objects end: its files are written out
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = code or 120
    os._exit(code)


def main():
    next_job = load()
    make_streams()
    known, last = frozenset(sys.modules), next(reversed(sys.modules))
    gc.collect()
    gc.freeze()  # what all jobs share is left alone by their collector
    ctypes.CDLL(None).malloc_trim(0)  # what compiling the modules has left, a third of what each fork would take over
    try:
        status = run(*prepare(next_job()))
    except SystemExit as error:
        status = error.code
    finish(status, known, last)


if __name__ == "__main__":
    main()
