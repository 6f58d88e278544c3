"""What each backend guarantees on this machine, found by trying to break it, not by reading versions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from k15.errors import ConfigError, SandboxError, unknown_name
from k15.sandbox.job import Backend, Job, Limits

GUARANTEES: Mapping[str, str] = {
    "files": "the host's files are not to be seen and the image cannot be written",
    "network": "no socket but AF_UNIX, and no way to the host or to another sandbox",
    "identity": "an unprivileged user without capabilities, in namespaces of its own; an empty environment",
    "syscalls": "no namespaces, mounts, ptrace, keys, BPF, io_uring (seccomp)",
    "processes": "a limit of processes for each sandbox; none outlives it",
    "disk": "a limit of bytes and of inodes",
    "memory-watched": "a limit of the memory of all processes together, looked at every few milliseconds: it may be "
    "passed briefly, and kernel memory (sockets, locks) does not count",
    "memory": "the same limit, held by the kernel (cgroup)",
}
DEFAULT = frozenset(GUARANTEES) - {"memory"}

_INSIDE = """
import os, socket, ctypes, sys
bad = set()
def refused(name, what):
    try: what()
    except OSError: return
    bad.add(name)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    refused("network", lambda: socket.socket(family, socket.SOCK_DGRAM if family != socket.AF_VSOCK else socket.SOCK_STREAM))
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) == -1: raise OSError(ctypes.get_errno(), name)
refused("syscalls", lambda: call("unshare", 0x10000000))
refused("syscalls", lambda: call("ptrace", 0, 0, 0, 0))
refused("syscalls", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
refused("files", lambda: open("/usr/k15-probe", "w"))
refused("files", lambda: open("/proc/sys/kernel/hostname", "w").write("x"))
refused("files", lambda: os.listdir(sys.argv[1]))
refused("identity", lambda: os.setuid(0))
refused("identity", lambda: open("/proc/1/environ").read())
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
if os.getuid() == 0 or os.environ.keys() - {"LC_CTYPE"}: bad.add("identity")
if int(status["CapEff"], 16) or status["NoNewPrivs"].strip() != "1": bad.add("identity")
print("bad:", *sorted(bad))
"""
_FORKS = "import os,time\nn=0\ntry:\n  while n<64:\n    if not os.fork(): time.sleep(9)\n    n+=1\nexcept OSError: pass\nprint(n)"
_FILES = "try:\n  for i in range(500): open(str(i),'w')\nexcept OSError: print('inodes')\nopen('0','w').write('x'*(9<<20))"
_HOG = "x=[bytearray(os.urandom(1<<20)) for i in range(400)]"


@dataclass(frozen=True)
class Report:
    """A backend on this machine: the guarantees that held, and for the others (or all) why not."""

    backend: str
    guarantees: frozenset[str]
    problems: Mapping[str, str]

    @property
    def works(self) -> bool:
        return bool(self.guarantees)


def examine(backend: Backend, hidden: str = "/sys/kernel") -> Report:
    """Try to break each guarantee of a backend, in image "base"; about a second. `hidden`: a host directory."""
    problems: dict[str, str] = {}
    small = Limits(wall_s=60, cpu_s=10, memory_mb=96, processes=12, disk_mb=8, files=100)

    def python(code: str, *words: str) -> tuple[str, str | None]:
        outcome = backend.run(Job(["python3", "-c", code, *words], limits=small))
        if outcome.error is not None:
            raise SandboxError(outcome.error)
        return outcome.stdout.decode(errors="replace").strip(), outcome.limit

    try:
        inside, _ = python(_INSIDE, hidden)
        if not inside.startswith("bad:"):
            raise SandboxError(f"its self-test did not run: {inside!r}")
        problems |= dict.fromkeys(inside.split()[1:], "the attack on it worked")
        forks, _ = python(_FORKS)
        if not forks.isdigit() or int(forks) > small.processes + 6:
            problems["processes"] = (
                f"{forks} processes with a limit of {small.processes} (a kernel before 5.14 counts them by user)"
            )
        text, limit = python(_FILES)
        if text != "inodes" or limit != "disk":
            problems["disk"] = "more bytes or inodes than allowed"
        _, limit = python("import os\n" + _HOG)
        if limit != "memory":
            problems["memory-watched"] = problems["memory"] = "more memory than allowed"
    except SandboxError as e:
        return Report(backend.name, frozenset(), dict.fromkeys(GUARANTEES, str(e)))
    if "memory" not in problems and not getattr(backend, "memory_is_hard", False):
        problems["memory"] = (
            "no cgroup holds it here; run as root, in a Slurm step with task/cgroup or in a delegated cgroup (the warm "
            "interpreter never has one)"
        )
    return Report(backend.name, frozenset(GUARANTEES) - problems.keys(), problems)


def choose(makers: Mapping[str, Callable[[], Backend]], require: Iterable[str]) -> tuple[Backend, Report]:
    """The first backend that gives every guarantee asked for; SandboxError with what each one lacks where none does."""
    wanted = frozenset(require)
    for name in sorted(wanted - GUARANTEES.keys()):
        raise unknown_name("sandbox.require", name, GUARANTEES)
    if not makers:
        raise ConfigError("no sandbox backend is allowed; allow at least one")
    lacks = []
    for name, make in makers.items():
        try:
            backend = make()
        except SandboxError as e:
            lacks.append(f"{name}: {e}")
            continue
        report = examine(backend)
        if wanted <= report.guarantees:
            return backend, report
        backend.close()
        lacks += [f"{name} lacks {g!r} ({GUARANTEES[g]}): {report.problems[g]}" for g in sorted(wanted - report.guarantees)]
    raise SandboxError(
        "no sandbox backend gives what is required here:\n  "
        + "\n  ".join(dict.fromkeys(lacks))
        + "\nRequired: "
        + ", ".join(sorted(wanted))
    )


def table(reports: Iterable[Report]) -> str:
    """The reports as text: a row a guarantee, a column a backend, then the reasons."""
    reports = list(reports)
    lines = [f"{'':16s}" + "".join(f"{r.backend:>14s}" for r in reports)]
    lines += [f"{g:16s}" + "".join(f"{'yes' if g in r.guarantees else 'NO':>14s}" for r in reports) for g in GUARANTEES]
    for r in reports:
        lines += [f"{r.backend}: no {names}: {why}" for why, names in _by_reason(r).items()]
    return "\n".join(lines)


def _by_reason(report: Report) -> dict[str, str]:
    reasons: dict[str, list[str]] = {}
    for name, why in report.problems.items():
        reasons.setdefault(why, []).append(name)
    return {why: ", ".join(names) for why, names in reasons.items()}
