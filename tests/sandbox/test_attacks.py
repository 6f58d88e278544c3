"""The attack suite: every attack fails on every backend that is offered here, and the next job finds a healthy sandbox."""

import gc
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import attacks
import pytest
from offered import MARK, SMALL, VARIANTS, backend, base_image, leftovers, new  # noqa: F401

from k15.sandbox.backends.cgroups import sweep
from k15.sandbox.job import Job

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks name system calls by their x86-64 numbers")


@pytest.fixture(scope="module", autouse=True)
def host(tmp_path_factory):
    """Things on the host that a sandbox must not find, as JSON."""
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o777)
    secret = "sdrawkcab-terces-" + os.urandom(6).hex()
    (folder / "secret").write_text(secret)
    os.environ["K15_LAUNCHER_SECRET"] = secret
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named, socket.socket() as port:
        abstract.bind("\0k15-" + secret)
        named.bind(str(folder / "socket"))
        port.bind(("127.0.0.1", 0))
        for s in (abstract, named, port):
            s.listen(50)
        paths = [str(folder / "secret"), str(Path(__file__)), "/var/cache/k15", str(Path.home() / ".profile"), "/sys/fs/cgroup"]
        yield json.dumps({
            "paths": paths,
            "socket_file": str(folder / "socket"), "port": port.getsockname()[1],
            "secret": secret[::-1], "pid": os.getpid(), "parent": os.getppid(), "mark": MARK, "nproc": True,
        })  # fmt: skip
    del os.environ["K15_LAUNCHER_SECRET"]


def attack(backend, host, script, limits=SMALL, ends=True, **words):  # noqa: F811
    """Run an attack; asserts that nothing of it worked and that the sandbox is healthy afterwards."""
    code = attacks.PRELUDE + script + ("\nprint('held')\n" if ends else "")
    started = time.monotonic()
    outcome = backend.run(Job(["python3", "-c", code], env={"K15_HOST": host}, limits=limits, **words))
    took = time.monotonic() - started
    assert outcome.error is None, outcome
    broken = [line for line in outcome.stdout.decode(errors="replace").splitlines() if line.startswith("BROKEN")]
    assert not broken, "\n".join(broken)
    if ends:
        assert outcome.stdout.endswith(b"held\n"), outcome
    assert took < limits.wall_s + 10
    health = backend.run(Job(["sh", "-c", "echo healthy; ls -A"], limits=SMALL))
    assert (health.exit_code, health.stdout, health.error) == (0, b"healthy\n", None), health
    return outcome


@pytest.mark.parametrize("name", ["NETWORK", "HOST_FILES", "ENVIRONMENT", "KILL", "PROC_WRITES"])
def test_breaking_out(backend, host, name):  # noqa: F811
    attack(backend, host, getattr(attacks, name))


def test_forbidden_system_calls(backend, host):  # noqa: F811
    words = json.loads(host) | {"nproc": backend.name == "bubblewrap"}  # under crun the pids cgroup holds the number
    attack(backend, json.dumps(words), attacks.SYSTEM_CALLS)


@pytest.mark.parametrize("code", [attacks.INT80, attacks.X32], ids=["i386", "x32"])
def test_other_system_call_tables(backend, host, code):  # noqa: F811
    outcome = attack(backend, host, attacks.OTHER_ABI.replace("{code}", repr(code)), ends=False)
    assert outcome.signal == signal.SIGSYS


def test_killing_everything(backend, host):  # noqa: F811
    for script in (
        "os.kill(0, 9)",
        "os.killpg(os.getpgid(0), 9)",
        "os.fork()\ntry: os.kill(-1, 9)\nexcept OSError: pass\nos.abort()",
    ):
        assert attack(backend, host, script + "\ntime.sleep(1)", ends=False).signal in (signal.SIGKILL, signal.SIGABRT)
    outcome = attack(backend, host, "os.kill(os.getpid(), signal.SIGSTOP)", limits=replace(SMALL, wall_s=0.7), ends=False)
    assert outcome.limit == "wall"


def hidden_time(count, seconds):
    return attacks.HIDDEN_TIME.replace("COUNT", str(count)).replace("SECONDS", str(seconds))


def test_time_of_children_that_nobody_waits_for(backend, host):  # noqa: F811
    outcome = attack(backend, host, hidden_time(150, 0.02), limits=replace(SMALL, cpu_s=0.4), ends=False)
    assert outcome.limit == "cpu" and 0.4 < outcome.cpu_s < 1.0, outcome
    outcome = attack(backend, host, hidden_time(60, 0.005))
    assert 0.3 < outcome.cpu_s < 2.0, outcome


@pytest.mark.parametrize("name", ["bubblewrap", "warm", *(["crun"] if os.geteuid() == 0 else [])])
def test_hidden_time_where_the_kernel_gives_no_task_clock(base_image, name):  # noqa: F811
    """As under Debian's perf_event_paranoid=3: a filter refuses perf_event_open to all that this process starts."""
    script = attacks.PRELUDE.replace('json.loads(os.environ["K15_HOST"])', "{}") + hidden_time(150, 0.02)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from offered import *\n"
        "import pyseccomp as s; from k15.sandbox.backends import cgroups; cgroups.PARANOID = Path('/nowhere')\n"
        "rules = s.SyscallFilter(s.ALLOW); rules.add_rule(s.ERRNO(1), 'perf_event_open'); rules.load()\n"
        f"b = {{'bubblewrap': lambda: Bubblewrap(groups=False), 'warm': Warm, 'crun': Crun}}[{name!r}]()\n"
        f"o = b.run(Job(['python3', '-c', {script!r}], limits=Limits(cpu_s=0.4, wall_s=30)))\n"
        "b.close(); print(o.limit, o.cpu_s, o.error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, timeout=90)
    limit, cpu_s, error = done.stdout.split()
    assert (limit, error) == ("cpu", "None") and 0.4 < float(cpu_s) < 1.0, done


def test_fork_bomb(backend, host):  # noqa: F811
    # Sixteen copies of an interpreter come near SMALL's memory: it is not that limit which is tried here.
    outcome = attack(backend, host, attacks.FORK_BOMB, limits=replace(SMALL, wall_s=3.0, memory_mb=512), ends=False)
    assert outcome.limit in ("wall", "cpu") and outcome.stdout == b"held\n", outcome


@pytest.mark.parametrize("name", attacks.MEMORY)
def test_memory_bombs(backend, host, name):  # noqa: F811
    outcome = attack(backend, host, attacks.MEMORY[name], ends=False)
    assert outcome.limit == "memory", outcome
    assert outcome.memory_mb < 2 * SMALL.memory_mb


@pytest.mark.parametrize("stream", [1, 2])
def test_output_bomb(backend, host, stream):  # noqa: F811
    outcome = attack(backend, host, f"while True: os.write({stream}, b'x' * 65536)", ends=False)
    assert outcome.limit == "output"
    assert max(len(outcome.stdout), len(outcome.stderr)) == SMALL.output_bytes


def test_file_and_inode_bombs(backend, host):  # noqa: F811
    fill = "n = 0\ntry:\n  while True: open(f'{folder}/{n}', 'wb').write(b'x' * size); n += size\n"
    fill += "except OSError: print(n)\nsys.exit(1)"
    for folder in ("/tmp/work", "/tmp/shm", "/dev/shm"):
        outcome = attack(backend, host, f"folder, size = {folder!r}, 1 << 20\n" + fill, ends=False)
        assert outcome.limit == "disk" and int(outcome.stdout) <= SMALL.disk_mb << 20
        outcome = attack(backend, host, f"folder, size = {folder!r}, 1\n" + fill, ends=False)
        assert outcome.limit == "disk" and int(outcome.stdout) <= SMALL.files


def test_sleeping(backend, host):  # noqa: F811
    outcome = attack(backend, host, "print('held', flush=True)\ntime.sleep(60)", limits=replace(SMALL, wall_s=0.5), ends=False)
    assert outcome.limit == "wall" and outcome.wall_s < 3


def test_daemons_do_not_survive(backend, host):  # noqa: F811
    started = time.monotonic()
    outcome = attack(backend, host, attacks.DAEMON)
    assert outcome.exit_code == 0 and time.monotonic() - started < 15
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            assert MARK.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes() or int(pid) == os.getpid()
        except OSError:
            continue


def test_links_lead_nowhere(backend, host):  # noqa: F811
    outcome = attack(backend, host, attacks.LINKS, keep=attacks.LINKS_KEEP)
    assert outcome.kept == {"good": b"fine"}


def test_sockets_do_not_outlive_a_job(backend, host):  # noqa: F811
    """The network namespace may serve one job after another; the kernel is late with sockets that were sent away in circles."""
    leave = ["python3", "-c", attacks.PRELUDE + attacks.SOCKETS_LEFT + "\nprint('held')\n"]
    look = (
        ["python3", "-c", "print(open('/proc/net/unix').read(), end='')"] if backend.name == "warm" else ["cat", "/proc/net/unix"]
    )
    for _ in range(15):
        left, found = (backend.run(Job(words, env={"K15_HOST": host}, limits=SMALL)) for words in (leave, look))
        assert left.stdout == b"held\n" and left.error is None, left
        assert len(found.stdout.splitlines()) == 1 and found.error is None, found
    attack(backend, host, attacks.SOCKETS_FOUND)


def test_spoiling_the_working_directory(backend, host):  # noqa: F811
    for script in (
        "os.chmod('/tmp/work', 0)",
        "os.rename('/tmp/work', '/tmp/x'); os.symlink('/etc', '/tmp/work')",
        "os.rmdir('/tmp/work')",
    ):
        assert not {"passwd", "f"} & attack(backend, host, script, keep=["passwd", "f"]).kept.keys()


@pytest.mark.parametrize("backend", [v for v in VARIANTS if v != "bubblewrap-user"], indirect=True)
def test_one_sandbox_does_not_see_another(backend, host):  # noqa: F811
    """Two at once with marks of every kind (the tests' process of an ordinary user runs one at a time)."""
    mark = (
        "open('/tmp/shm/k15-mark', 'w'); open('/dev/shm/k15-mark', 'w'); open('/tmp/k15-mark', 'w')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0k15-mark'); s.listen(9)\nprint('held', flush=True); time.sleep(2.5)"
    )
    look = (
        "works('abstract socket of another', lambda: socket.socket(socket.AF_UNIX).connect('\\0k15-mark'))\n"
        "for d in ('/tmp/shm', '/dev/shm', '/tmp'): works('mark', os.stat, d + '/k15-mark')\n"
        "if 'k15-mark' in open('/proc/net/unix').read(): print('BROKEN sees sockets of another')\n"
        "if sum(n.isdigit() for n in os.listdir('/proc')) > 2: print('BROKEN sees processes of another')\n"
        "for pid in range(2, 4000):\n  if pid != os.getpid(): works('signal', os.kill, pid, 0)"
    )
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(attack, backend, host, mark, ends=False)
        time.sleep(0.6)
        attack(backend, host, look)
        assert first.result().stdout == b"held\n"


def test_the_service_killed(backend, host, base_image, tmp_path):  # noqa: F811
    """When whoever started a sandbox is killed, the sandbox ends with it, and what it left is removed; before that it is not."""
    mark = f"{MARK}-orphan"
    sleep = f"import os; os.execv('/usr/bin/python3', ['python3', '-c', 'import time; time.sleep(60)', {mark!r}])"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from offered import *\n"
        f"b = {{'bubblewrap': Bubblewrap, 'warm': Warm, 'crun': Crun}}[{backend.name!r}]()\n"
        f"print('up', flush=True); b.run(Job(['python3', '-c', {sleep!r}], limits=Limits(wall_s=60)))"
    )
    service = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent)], stdout=subprocess.PIPE)
    assert service.stdout.readline() == b"up\n"
    _wait(lambda: _running(mark), 20)
    kept = _left_by(service.pid)
    assert kept or not getattr(backend, "memory_is_hard", False)
    swept = _sweep_elsewhere()
    assert f"-{service.pid}-" not in swept and _left_by(service.pid) == kept
    service.kill()
    service.wait()
    service.stdout.close()
    _wait(lambda: not _running(mark), 10)
    _sweep(service.pid)


def _sweep(pid: int) -> None:
    """What a killed service leaves is empty: the next start takes it away."""
    _wait(lambda: sweep() is not None and not _left_by(pid), 10)


def _left_by(pid: int) -> set[str]:
    """The cgroups and folders that are named after a process."""
    groups = {f for f, _, _ in os.walk("/sys/fs/cgroup") if f"-{pid}-" in f and "k15-" in f}
    return groups | set(map(str, Path("/run").glob(f"k15-crun-{pid}-*")))


def _sweep_elsewhere() -> str:
    """Sweeps as one who sees none of this machine's processes, as on a virtual node or in a container."""
    code = "from k15.sandbox.backends.cgroups import sweep; print(sweep())"
    apart = ["unshare", "--pid", "--fork", "--mount-proc"] if os.geteuid() == 0 else []
    return subprocess.run([*apart, sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def _running(mark: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words and words[0] == b"python3":
            return True
    return False


def _wait(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sixty_runs_leave_nothing(backend, host):  # noqa: F811
    """Mixed jobs from several threads; the same with 20,000 is benchmarks/sandbox/soak.py."""
    jobs = [
        Job(["sh", "-c", "echo $((6*7)) > f; cat f"]),
        Job(["sh", "-c", "sleep 60 & sleep 60 & exit 0"]),
        Job(["sh", "-c", "kill -9 $$"]),
        Job(["sleep", "60"], limits=replace(SMALL, wall_s=0.05)),
        Job(["yes"], limits=replace(SMALL, output_bytes=100)),
    ]
    backend.run(jobs[0])
    gc.collect()
    threads = threading.active_count()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(backend.run, jobs[:2]))
        before = leftovers()
        errors = [o.error for o in pool.map(backend.run, jobs * 12) if o.error is not None]
    assert not errors
    after = leftovers()
    assert not new(before, after) and threading.active_count() == threads
