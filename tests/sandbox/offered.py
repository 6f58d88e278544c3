"""Every way of running a job that the service offers on this machine, as fixtures: real backends, opened once a session."""

import contextlib
import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.backends.crun import Crun
from k15.sandbox.backends.warm import Warm
from k15.sandbox.images.build import build
from k15.sandbox.images.store import cache_root
from k15.sandbox.job import Job, Limits, Outcome

MARK = f"k15-mark-{os.getpid()}"  # a word on the command line of daemons that attacks leave
SMALL = Limits(wall_s=10, cpu_s=5, memory_mb=128, processes=16, output_bytes=1 << 16, disk_mb=8, files=200)
USER = 64_123  # an ordinary user that nobody is
VARIANTS = ["bubblewrap-watched", "warm", *(["crun", "bubblewrap-cgroup", "bubblewrap-user"] if os.geteuid() == 0 else [])]


class AsUser:
    """bubblewrap in a process of an ordinary user, as on a Slurm node: each run goes there and back."""

    name = "bubblewrap"

    def __init__(self) -> None:
        paths = [Path(__file__).resolve().parents[2], Path(pytest.__file__).parents[1]]
        env = {
            "PATH": os.environ["PATH"], "K15_CACHE_DIR": str(cache_root().parent), "HOME": "/",
            "PYTHONPATH": ":".join(map(str, paths)),
        }  # fmt: skip
        user = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
        pythons = (sys.executable, "/usr/bin/python3")  # root's own may lie where others cannot go
        python = next(p for p in pythons if subprocess.run([*user, p, "-c", "import k15.sandbox.job"], env=env).returncode == 0)
        self._process = subprocess.Popen(
            [*user, python, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=env
        )  # fmt: skip
        self._lock = threading.Lock()

    def run(self, job: Job) -> Outcome:
        """The outcome; what was raised there is raised here."""
        with self._lock:
            data = pickle.dumps(job)
            self._process.stdin.write(struct.pack("=Q", len(data)) + data)
            self._process.stdin.flush()
            answer = pickle.loads(self._process.stdout.read(struct.unpack("=Q", self._process.stdout.read(8))[0]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(20) == 0
        self._process.stdout.close()


def open_variant(name: str):
    if name == "crun":
        return Crun()
    if name == "bubblewrap-user":
        return AsUser()
    if name == "warm":
        return Warm()
    return Bubblewrap(groups=name == "bubblewrap-cgroup")


@pytest.fixture(scope="session")
def base_image():
    """The root filesystem of image "base", built where it is not there yet."""
    return build(["base"])[0]


@pytest.fixture(scope="module", params=VARIANTS)
def backend(request, base_image):
    """One backend after another. When a test file is done with it, nothing of it may be left."""
    before = leftovers()
    opened = open_variant(request.param)
    yield opened
    opened.close()
    gc.collect()
    left = new(before, leftovers())
    assert not left, left


def new(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is there after and was not before."""
    return {kind: after[kind] - before[kind] for kind in after if after[kind] - before[kind]}


def leftovers() -> dict[str, set[str]]:
    """What the sandboxes of this process could leave: processes, mounts, cgroups, files, open descriptors."""
    parents, names = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[pid] = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
            names[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    ours = {str(os.getpid())}
    while more := {p for p, parent in parents.items() if parent in ours} - ours:
        ours |= more
    words = ("/dev/init", "/dev/wait", "/dev/zygote.py", MARK)
    orphans = {p for p, parent in parents.items() if parent == "1" and any(w in names.get(p, "") for w in words)}
    mine = f"-{os.getpid()}-"
    return {
        "processes": {names.get(p, "") for p in (ours | orphans) - {str(os.getpid())}},
        "cgroups": {f for f, _, _ in os.walk("/sys/fs/cgroup") if "k15-" in f and mine in f},
        "files": {str(p) for d in ("/run", "/tmp", "/dev/shm") for p in Path(d).glob(f"k15-*{mine}*")},
        "mounts": {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "k15" in line},
        "descriptors": {
            f"{n} {os.readlink(f'/proc/self/fd/{n}').split(':')[0]}" for n in os.listdir("/proc/self/fd") if _is_open(n)
        },
    }


def _is_open(number: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{number}")


def _serve() -> None:
    inner = Bubblewrap()
    while head := sys.stdin.buffer.read(8):
        job = pickle.loads(sys.stdin.buffer.read(struct.unpack("=Q", head)[0]))
        try:
            answer = inner.run(job)
        except Exception as e:  # handed to the other side, which raises it
            answer = e
        data = pickle.dumps(answer)
        sys.stdout.buffer.write(struct.pack("=Q", len(data)) + data)
        sys.stdout.buffer.flush()
    inner.close()


if __name__ == "__main__":
    _serve()
