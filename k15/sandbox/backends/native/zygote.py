# ruff: noqa: SIM115 (the streams of a process stay open)
"""The warm interpreter. Runs inside a sandbox of its own, forks for each job; standard library only, any Python from 3.9.

A job in it sees what `python3 FILE` or `python3 -c CODE` would see: sys.argv, sys.path, `__main__`, streams, environment.
"""

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
import types

STREAMS = ("stdin", "stdout", "stderr")
PRELOADED = "bisect collections copy decimal fractions functools heapq itertools json math operator random re string typing"


def next_job():
    """Returns the words of the command, in the job's own process; never in the interpreter that waits."""
    native = ctypes.PyDLL("/dev/warm.so")
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    if native.wait_for_jobs() != 1:
        os._exit(0)
    python.PyOS_AfterFork_Child()
    pairs = (pair.partition("=") for pair in strings(native, "job_environment"))
    return strings(native, "job_words"), {name: value for name, _, value in pairs}


def strings(native, name):
    """A NULL-terminated array of C strings."""
    found, array = [], ctypes.POINTER(ctypes.c_char_p).in_dll(native, name)
    while array[len(found)] is not None:
        found.append(os.fsdecode(array[len(found)]))
    return found


def load():
    """Everything that jobs have in common, done once."""
    registered, os.register_at_fork = os.register_at_fork, lambda **_: None
    import random  # noqa: F401 (its own hook draws 2.5 KB from the kernel at every fork, half a millisecond)

    os.register_at_fork = registered
    for module in PRELOADED.split():
        __import__(module)


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


def prepare(words, environ):
    """Makes this process look like a fresh interpreter; returns the code to run, its globals' module."""
    random = sys.modules["random"]
    random.seed(os.urandom(32))
    os.register_at_fork(after_in_child=random._inst.seed)  # as in a fresh one, for the job's own forks
    for name in list(os.environ):
        del os.environ[name]
    os.environ.update(environ)
    if not {"LC_ALL", "LC_CTYPE", "LANG"} & environ.keys():
        os.environ["LC_CTYPE"] = "C.UTF-8"  # what the interpreter itself does in the C locale
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


def finish(code, before):
    """What the end of an interpreter does for a program, without taking apart what it shares with the warm one (5 ms)."""
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        for name in [n for n in sys.modules if n not in before or n == "__main__"]:
            vars(sys.modules.pop(name)).clear()  # the program's own objects end: its files are written out
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = code or 120
    os._exit(code)


def main():
    load()
    make_streams()
    gc.collect()
    gc.freeze()  # what all jobs share is left alone by their collector
    known = frozenset(sys.modules)
    try:
        status = run(*prepare(*next_job()))
    except SystemExit as error:
        status = error.code
    finish(status, known)


if __name__ == "__main__":
    main()
