"""Runs inside the sandbox: `python3 driver.py` with `plan.json`, `generator.py` and `cyaron.zip` beside it. No k15 there.

Each case is made in a process of its own, forked after cyaron is imported, with its own seed and limits, and leaves
`NNN.in` or, where it failed, `NNN.err`.
"""

import json
import os
import random
import resource
import signal
import sys
import traceback


def make(case: int, plan: dict) -> None:
    """One case. Whatever the generator raises goes to the caller."""
    resource.setrlimit(resource.RLIMIT_CPU, (plan["cpu_s"], plan["cpu_s"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (plan["memory_mb"] << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (plan["max_bytes"] + 1,) * 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond it raises OSError then
    seed = plan["seeds"][case]
    random.seed(seed)
    import cyaron

    scope = {"__name__": "generator", "__file__": "generator.py"}
    with open("generator.py") as f:
        exec(compile(f.read(), "generator.py", "exec"), scope)
    if not callable(scope.get("generate")):
        raise NameError("the generator defines no function `generate(case, cases, io)`")
    random.seed(seed)  # what its module level drew does not count
    name = f"{case:03d}.in"
    with open(f"{name}.part", "w+", newline="\n", encoding="utf-8") as out:
        io = cyaron.IO(out, disable_output=True)
        scope["generate"](case, len(plan["seeds"]), io)
        out.flush()
    os.rename(f"{name}.part", name)


def child(case: int, plan: dict) -> None:
    try:
        make(case, plan)
    except BaseException:
        said = traceback.format_exc(limit=-3)[-600:]
        with open(f"{case:03d}.err", "w") as f:
            f.write(said)
        os._exit(1)
    os._exit(0)


def main() -> None:
    sys.path.insert(0, "cyaron.zip")
    import cyaron  # noqa: F401  once, for all children

    with open("plan.json") as f:
        plan = json.load(f)
    for case in range(len(plan["seeds"])):
        pid = os.fork()
        if pid == 0:
            child(case, plan)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            with open(f"{case:03d}.err", "w") as f:
                f.write(f"stopped by signal {os.WTERMSIG(status)} (24 or 9: its time was up)")


if __name__ == "__main__":
    main()
