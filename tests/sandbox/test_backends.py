"""What a backend answers: the same on each of them."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from offered import SMALL, backend, base_image, leftovers, new  # noqa: F401

from k15.errors import ConfigError, SandboxError
from k15.sandbox.backends import GUARANTEES, open_backend, resident, wire
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.backends.bwrap import DROPPED_UID
from k15.sandbox.backends.crun import Crun
from k15.sandbox.backends.native import binary
from k15.sandbox.backends.probe import Report, choose, examine, table
from k15.sandbox.backends.warm import Warm, suits
from k15.sandbox.images.store import Images
from k15.sandbox.job import Job, Limits

ENDS = [  # shell words -> exit code, signal
    ("exit 0", 0, None),
    ("exit 3", 3, None),
    ("exit 137", 137, None),  # not to be taken for a signal
    ("kill -ABRT $$", None, signal.SIGABRT),
    ("kill -SEGV $$", None, signal.SIGSEGV),
    ("kill -KILL $$", None, signal.SIGKILL),
    ("kill -TERM $$", None, signal.SIGTERM),
]


def run(backend, *command, limits=SMALL, **words):  # noqa: F811
    outcome = backend.run(Job(command, limits=limits, **words))
    assert outcome.error is None, outcome
    return outcome


@pytest.mark.parametrize("script,code,number", ENDS)
def test_how_it_ended(backend, script, code, number):  # noqa: F811
    outcome = run(backend, "sh", "-c", script)
    assert (outcome.exit_code, outcome.signal, outcome.limit) == (code, number, None)


def test_in_and_out(backend):  # noqa: F811
    text = os.urandom(3 << 20)
    code = (
        "import os,sys\nd=sys.stdin.buffer.read()\nopen('copy','wb').write(d)\nos.makedirs('a/b')\n"
        "open('a/b/c','w').write(open('in/x').read())\n"
        "sys.stderr.write(os.environ['GREETING'])\nprint(sorted(os.environ), os.getcwd(), len(d), os.getuid(), sys.argv[1])"
    )
    outcome = run(
        backend, "python3", "main.py", "ärgument", stdin=text, files={"main.py": code.encode(), "in/x": b"inner"},
        keep=["copy", "a/b/c", "nothing"], env={"GREETING": "grüß", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert outcome.kept == {"copy": text, "a/b/c": b"inner"}
    assert outcome.stderr.decode() == "grüß"
    assert outcome.stdout.decode() == f"['GREETING', 'LC_ALL'] {wire.WORKDIR} {len(text)} 65534 ärgument\n"
    assert 0 < outcome.cpu_s < outcome.wall_s + 2 and outcome.memory_mb > 1


def test_each_job_starts_from_nothing(backend):  # noqa: F811
    run(backend, "sh", "-c", "echo x > /tmp/left; echo x > /dev/shm/left; echo x > left")
    assert run(backend, "sh", "-c", "ls -A /tmp /dev/shm . | grep left; true").stdout == b""


def test_unread_input_and_closed_output(backend):  # noqa: F811
    outcome = run(backend, "sh", "-c", "exec >&- 2>&-; sleep 0.1; exit 4", stdin=bytes(2 << 20))
    assert outcome.exit_code == 4


def test_unknown_command_and_wrong_paths(backend):  # noqa: F811
    outcome = run(backend, "no-such-command")
    assert outcome.exit_code == 127 and b"no-such-command" in outcome.stderr
    for path in ("../out", "/etc/x", "a/../../b", ""):
        with pytest.raises(SandboxError, match="relative path"):
            backend.run(Job(["true"], files={path: b""}))
    with pytest.raises(SandboxError, match="no sandbox image"):
        backend.run(Job(["true"], image="fortran"))


def test_many_at_once(backend):  # noqa: F811
    def one(number):
        return run(backend, "sh", "-c", f"echo {number} > f; read x; echo $x $(cat f)", stdin=f"in{number}\n".encode()).stdout

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(24)))
    assert answers == [f"in{n} {n}\n".encode() for n in range(24)]


def test_an_image_of_the_users_own(base_image, tmp_path, monkeypatch):  # noqa: F811
    store = Images({"mine": base_image, "broken": tmp_path})
    assert store.rootfs("mine") == base_image and "mine" in store.names()
    with pytest.raises(SandboxError, match="lacks the directories"):
        store.rootfs("broken")
    with contextlib.closing(Bubblewrap(store, groups=False)) as opened:
        assert run(opened, "cat", "/etc/hostname", image="mine").stdout == b"sandbox\n"
    monkeypatch.setenv("K15_CACHE_DIR", str(tmp_path))
    with pytest.raises(SandboxError, match="images build base"):
        Images().rootfs("base")


def test_the_probe_finds_what_holds(backend):  # noqa: F811
    report = examine(backend)
    allowed = {"memory"} if not getattr(backend, "memory_is_hard", False) else set()
    assert report.works and set(GUARANTEES) - report.guarantees == allowed, report.problems
    assert "memory" in table([report])


def test_never_less_than_asked_for(base_image):  # noqa: F811
    """A weaker backend is refused with the reason; a broken one shows what it lets through."""

    class Naked:  # no isolation at all: runs the job on the host (harmless jobs only: the probe's own)
        name = "naked"

        def run(self, job):
            import subprocess

            from k15.sandbox.job import Outcome

            if "fork" in job.command[2] or "urandom" in job.command[2] or "open(str" in job.command[2]:
                return Outcome(0, stdout=b"64")
            done = subprocess.run(job.command, capture_output=True, env={}, cwd="/")
            return Outcome(done.returncode, stdout=done.stdout, stderr=done.stderr)

        def close(self):
            pass

    report = examine(Naked())
    assert {"network", "files", "processes", "disk", "memory"} <= set(report.problems)
    with pytest.raises(SandboxError, match=r"naked lacks 'network'.*\n.*Required: network"):
        choose({"naked": Naked}, ["network"])
    with pytest.raises(ConfigError, match="sandbox.require"):
        choose({"naked": Naked}, ["netwrok"])
    with pytest.raises(ConfigError, match="sandbox.backend"):
        open_backend("docker")
    assert Report("x", frozenset(), {}).works is False


def test_a_warm_interpreter_takes_what_suits_it(base_image, tmp_path):  # noqa: F811
    """Another python3 on the PATH, switches and PYTHON* variables are left to the backend behind; so is a broken image."""
    python = Job(["python3", "a.py"], files={"a.py": b"import sys; print(sys.flags.optimize)"})
    assert suits(python, base_image) and suits(replace(python, env={"PATH": "/usr/bin:/bin"}), base_image)
    for change in (
        {"command": ["python3", "-O", "a.py"]}, {"command": ["python3"]}, {"command": ["sh", "a.py"]},
        {"env": {"PYTHONHASHSEED": "1"}}, {"env": {"PATH": ".:/usr/bin"}}, {"env": {"PATH": "/opt"}},
    ):  # fmt: skip
        assert not suits(replace(python, **change), base_image), change
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/python3").touch()
    assert not suits(replace(python, env={"PATH": "/opt:/usr/bin"}), tmp_path)
    with contextlib.closing(Warm()) as warm:
        assert warm.run(replace(python, command=["python3", "-O", "a.py"])).stdout == b"1\n"
        warm.run(python)
        _kill_waiting(warm._interpreters)
        assert warm.run(python).stdout == b"0\n"  # a new interpreter takes the place of one that was killed


def _waiting(residents):
    (one,) = residents._places["base"].free
    return one.process


def _kill_waiting(residents):
    waiting = _waiting(residents)
    waiting.kill()
    waiting.wait()


def test_an_init_that_waits_is_replaced_and_done_without(base_image, monkeypatch, caplog):  # noqa: F811
    """Killed, another takes its place; where it cannot start (no namespaces inside a sandbox), each job has its own bwrap."""
    with contextlib.closing(Bubblewrap(groups=False)) as opened:
        assert run(opened, "echo", "one").stdout == b"one\n"
        _kill_waiting(opened._residents)
        assert run(opened, "echo", "two").stdout == b"two\n"
    known = resident.command
    monkeypatch.setattr(resident, "command", lambda bwrap, *a, **k: [bwrap, "--disable-userns", *known(bwrap, *a, **k)[1:]])
    with contextlib.closing(Bubblewrap(groups=False)) as opened:
        assert run(opened, "echo", "three").stdout == b"three\n"
    assert "no namespaces inside a sandbox" in caplog.text


def test_an_init_that_waits_outlives_the_thread_that_started_it_and_says_why_it_starts_no_job(base_image):  # noqa: F811
    """The kernel would end what is bound to a thread with it; no process to be had ends the job's attempt and nothing else."""
    with contextlib.closing(Bubblewrap(groups=False)) as opened:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run, opened, "true").result()
        time.sleep(0.2)
        waiting = _waiting(opened._residents)
        one = _child(waiting.pid)
        _bound_processes(one, 0)
        outcome = opened.run(Job(["true"], stdin=bytes(2 << 20), limits=SMALL))  # more than the socket holds: some stays unsent
        assert outcome.error.endswith("cannot start the job's process: Resource temporarily unavailable"), outcome
        _bound_processes(one, resource.getrlimit(resource.RLIMIT_NPROC)[0])
        assert run(opened, "echo", "on").stdout == b"on\n"
        assert _waiting(opened._residents) is waiting and waiting.poll() is None


def _bound_processes(pid: int, soft: int) -> None:
    uid = str(DROPPED_UID)
    own = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"] if os.geteuid() == 0 else []
    subprocess.run([*own, "prlimit", "--pid", str(pid), f"--nproc={soft}:"], check=True)


def _child(pid: int) -> int:
    for other in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{other}/stat").read_text().rsplit(")", 1)[1].split()[1] == str(pid):
                return int(other)
    raise AssertionError(f"process {pid} has no child")


def test_a_start_that_failed_is_tried_again_later(base_image, monkeypatch, caplog):  # noqa: F811
    """Also where the program itself cannot be executed; until then jobs start without, and nothing is left open."""
    known, before = resident.command, leftovers()
    with contextlib.closing(Bubblewrap(groups=False)) as opened:
        monkeypatch.setattr(resident, "command", lambda bwrap, *a, **k: ["/nowhere/bwrap", *known(bwrap, *a, **k)[1:]])
        monkeypatch.setattr(resident, "dropped", list)
        for _ in range(2):
            assert run(opened, "echo", "without").stdout == b"without\n"
        assert caplog.text.count("cannot be started") == 1 and not new(before, leftovers())
        monkeypatch.undo()
        place = opened._residents._places["base"]
        assert not place.free
        place.retry_at = 0.0
        assert run(opened, "echo", "with").stdout == b"with\n" and place.free


@pytest.mark.skipif(os.geteuid() != 0, reason="a launcher sits in cgroups, which root makes")
@pytest.mark.parametrize("make", [Crun, lambda: Bubblewrap(groups=True)], ids=["crun", "bubblewrap"])
def test_a_launcher_that_died_costs_one_job_and_its_seat(base_image, make):  # noqa: F811
    """Its process stays in the group from job to job, and is no job's; killed, the seat is taken away with all that was in it."""
    before = leftovers()
    with contextlib.closing(make()) as opened:
        run(opened, "true")
        (slot,) = opened._slots._free.queue
        seat = getattr(slot, "seat", slot)
        launcher, procs = seat._launcher._process, seat._group.entrances[0]
        run(opened, "sh", "-c", "sleep 60 & exit 0")
        assert procs.read_text().split() == [str(launcher.pid)] and launcher.poll() is None
        launcher.kill()
        launcher.wait()
        with pytest.raises(SandboxError, match="launcher"):
            run(opened, "true")
        assert not procs.exists()
        assert run(opened, "echo", "on").stdout == b"on\n"
    assert not new(before, leftovers())


def test_ready_made_parts_without_the_one_that_waits(base_image, monkeypatch, caplog):  # noqa: F811
    parts = {name: binary(name) for name in ("init", "launch")}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name, path in parts.items():
            shutil.copy(path, Path(folder) / name)
        monkeypatch.setenv("K15_SANDBOX_BIN", folder)
        with contextlib.closing(Bubblewrap(groups=False)) as opened:
            assert run(opened, "echo", "alone").stdout == b"alone\n"
    assert "'wait'" in caplog.text


def test_auto_takes_the_warm_interpreter_only_where_it_may(base_image):  # noqa: F811
    with contextlib.closing(open_backend("bubblewrap")) as opened:
        assert opened.name == "warm"
    with pytest.raises(SandboxError, match="memory"):
        open_backend("bubblewrap", require=["memory"], warm=True)
    with contextlib.closing(open_backend("bubblewrap", warm=False)) as opened:
        assert opened.name == "bubblewrap"


def test_limits_are_told_apart(backend):  # noqa: F811
    cases = {
        "wall": ("sleep 60", {"wall_s": 0.5}),
        "cpu": ("while :; do :; done", {"cpu_s": 0.3}),
        "output": ("yes", {"output_bytes": 1000}),
        "disk": ("head -c 20000000 /dev/full > f; cat /dev/urandom > g", {"disk_mb": 4}),
    }
    for name, (script, change) in cases.items():
        started = time.monotonic()
        words = {"wall_s": 60.0, "cpu_s": 20.0, "memory_mb": 128, "processes": 16, "disk_mb": 8, "files": 200} | change
        outcome = run(backend, "sh", "-c", script, limits=Limits(**words))
        assert outcome.limit == name and time.monotonic() - started < 30, (name, outcome)
    assert len(run(backend, "yes", limits=Limits(output_bytes=1000)).stdout) == 1000
    for _ in range(3):  # over at the very end, too late to be stopped
        outcome = run(backend, "printf", "12", limits=Limits(output_bytes=1))
        assert (outcome.limit, outcome.stdout) == ("output", b"1"), outcome


@pytest.mark.parametrize("backend", ["warm"], indirect=True)  # the one whose programs come from one process
def test_no_two_programs_draw_the_same_random_numbers(backend):  # noqa: F811
    code = "import os, random\ndef draw(): print(random.random(), flush=True)\ndraw()\nif not os.fork(): draw()\nelse: os.wait()"
    drawn = [word for _ in range(3) for word in run(backend, "python3", "-c", code).stdout.split()]
    assert len(set(drawn)) == 6, drawn


PROGRAMS = {  # what a program may notice of how its interpreter was started
    "uncaught": "def f():\n    return 1 / 0\nf()",
    "syntax": "x = = 1",
    "exit text": "import sys\nsys.exit('bye')",
    "exit code": "raise SystemExit(300)",
    "unclosed file": "f = open('kept', 'w')\nf.write('written')",
    "atexit and threads": "import atexit, threading, time\natexit.register(print, 'last')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')",
    "main": "import sys, pickle\nclass A: pass\nprint(__name__, sys.argv, pickle.loads(pickle.dumps(A())).__class__, __file__)",
    "path": "import sys, os, own\nprint(own.x, sys.path[0], sorted(os.environ), sys.stdin.read(), sys.flags.utf8_mode)",
    "children": "import subprocess, multiprocessing as m\nprint(subprocess.run(['echo', 'hi'], capture_output=True).stdout)\n"
    "if __name__ == '__main__':\n    with m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))",
    "interrupted": "import signal, os\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('caught')",
    "recursion": "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nimport sys\nsys.setrecursionlimit(30000)\nprint(f(25000))",
    "unicode": "print('grüß', ascii(input()))",
}


@pytest.mark.parametrize("backend", ["warm"], indirect=True)  # the others start python3 itself
@pytest.mark.parametrize("name", PROGRAMS)
def test_python_programs_behave_as_with_python3_itself(backend, base_image, name):  # noqa: F811
    """The reference is a plain interpreter in the simplest backend; a warm one must not differ from it."""
    job = Job(
        ["python3", "main.py", "word"], stdin="é\n".encode(), keep=["kept"], env={"A": "b"}, limits=SMALL,
        files={"main.py": PROGRAMS[name].encode(), "own.py": b"x = 5"},
    )  # fmt: skip
    got, cold = backend.run(job), Bubblewrap(groups=False, resident=False).run(job)
    assert got.error is None and cold.error is None
    assert (got.stdout, got.stderr, got.exit_code, got.signal, got.kept) == (
        cold.stdout, cold.stderr, cold.exit_code, cold.signal, cold.kept,
    )  # fmt: skip
