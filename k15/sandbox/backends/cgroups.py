"""Cgroups made once and used by one job after another: total memory, number of processes, processor time.

Processor time is init's to hold and to tell (native/survey.c). The kernel's own account of a group is looked at after the job:
it has what children of parents that ignore SIGCHLD used, also where init may open no task clock.
Version 1 and 2. On version 2 a group with processes cannot hand controllers down, so the service's own processes move into
a leaf beside the slots (this is what a delegated group is for: a Slurm step, a container, a systemd scope with Delegate=yes).
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends.held import abandoned, hold
from k15.sandbox.job import Job, Limits, Outcome

BASE = Path("/sys/fs/cgroup")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
START_CPU_S = 0.05  # the group's share that is not the job's: the runtime's and init's, at most
_LEAF = "k15-service"
OWN_PROCESSES = 7  # the launcher, the runtime's and init, which sit in the group beside the job's
_REMEDY = "run as root, or in a delegated cgroup (Slurm: task/cgroup; systemd: Delegate=yes)"
_DEVICES = (
    "c *:* m",
    "c 1:3 rw",
    "c 1:5 rw",
    "c 1:7 rw",
    "c 1:8 r",
    "c 1:9 r",
)  # crun makes nodes; null zero full random urandom


@dataclass(frozen=True)
class Places:
    """Directories in which groups can be made: by controller (version 1), or the one directory (version 2)."""

    version: int
    memory: Path
    pids: Path
    devices: Path | None = None
    cpu: Path | None = None

    def directories(self) -> list[Path]:
        return list(dict.fromkeys(d for d in (self.memory, self.pids, self.devices, self.cpu) if d is not None))

    def below(self, name: str) -> "Places":
        """The same, one directory further down."""
        devices, cpu = (d / name if d is not None else None for d in (self.devices, self.cpu))
        return Places(self.version, self.memory / name, self.pids / name, devices, cpu)


def find() -> Places:
    """Where this process may make groups. SandboxError, saying why, where it may not."""
    own = {names: path for line in _own() for _, joint, path in [line.split(":", 2)] for names in joint.split(",")}
    if own.get("memory") is not None and own.get("pids") is not None:
        devices = BASE / "devices" / own["devices"].lstrip("/") if "devices" in own else None
        cpu = BASE / "cpuacct" / own["cpuacct"].lstrip("/") if "cpuacct" in own and not _has_task_clock() else None
        places = Places(1, BASE / "memory" / own["memory"].lstrip("/"), BASE / "pids" / own["pids"].lstrip("/"), devices, cpu)
    elif "" in own and (BASE / "cgroup.controllers").exists():
        here = BASE / own[""].lstrip("/")
        if here.name == _LEAF:  # another backend of this process has moved it there
            here = here.parent
        places = Places(2, here, here, cpu=here)
        offered = (here / "cgroup.controllers").read_text().split() if here.is_dir() else []
        if not {"memory", "pids"} <= set(offered):
            raise SandboxError(f"this process's cgroup offers only {offered}, not memory and pids; {_REMEDY}")
    else:
        raise SandboxError(f"the kernel offers no memory and pids cgroups here; {_REMEDY}")
    closed = [str(d) for d in places.directories() if not os.access(d, os.W_OK)]
    if closed:
        raise SandboxError(f"cgroups cannot be made in {closed}; {_REMEDY}")
    return places


def _has_task_clock() -> bool:
    """Whether init may count a job's time by itself. One more group to enter costs a start half a millisecond."""
    try:
        return int(PARANOID.read_text()) <= 2
    except (OSError, ValueError):
        return False


def _own() -> list[str]:
    return Path("/proc/self/cgroup").read_text().splitlines()


class Group:
    """The groups of one slot. One job at a time. `resident`: a process that stays in them between jobs."""

    def __init__(self, places: Places, name: str) -> None:
        self._places = places
        self._set: Limits | None = None
        self.resident: int | None = None
        self.directories = [d / name for d in places.directories()]
        for directory in self.directories:
            _make(directory)
        self._memory, self._pids = places.memory / name, places.pids / name
        self._cpu = places.cpu / name if places.cpu is not None else None
        if places.devices is not None:
            _write(places.devices / name / "devices.deny", "a")
            for rule in _DEVICES:
                _write(places.devices / name / "devices.allow", rule)

    @property
    def entrances(self) -> Sequence[Path]:
        """The files into which a process writes itself."""
        return [d / "cgroup.procs" for d in self.directories]

    def prepare(self, limits: Limits) -> int:
        """Set the limits, wait until the last job's disk is given back; returns the count of kills so far."""
        if limits != self._set:
            self._set = limits
            _write(self._pids / "pids.max", str(limits.processes + OWN_PROCESSES))
            (self._limit_v1 if self._places.version == 1 else self._limit_v2)(limits.memory_mb << 20)
        for pause in (0.0, 0.001, 0.005, 0.02, 0.1, 0.5):
            time.sleep(pause)
            if self._shared() == 0:
                break
        return self.kills()

    def _limit_v1(self, size: int) -> None:
        both = self._memory / "memory.memsw.limit_in_bytes"
        one = self._memory / "memory.limit_in_bytes"
        if both.exists():
            _write(both, "-1")
            _write(one, str(size))
            _write(both, str(size))
        else:
            _write(one, str(size))
            _write(self._memory / "memory.swappiness", "0")

    def _limit_v2(self, size: int) -> None:
        _write(self._memory / "memory.max", str(size))
        _write(self._memory / "memory.oom.group", "0")  # init must live to tell; it ends the others
        if (self._memory / "memory.swap.max").exists():
            _write(self._memory / "memory.swap.max", "0")

    def _shared(self) -> int:
        for line in (self._memory / "memory.stat").read_text().splitlines():
            if line.startswith("shmem "):
                return int(line.split()[1])
        return 0

    def kills(self) -> int:
        """How many processes the kernel has killed for want of memory since the group was made."""
        name = "memory.oom_control" if self._places.version == 1 else "memory.events"
        for line in (self._memory / name).read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        raise SandboxError(f"this kernel does not count out-of-memory kills in {name}; Linux 4.13 or newer is needed")

    def cpu_s(self) -> float | None:
        """Processor seconds of all that ever ran in the group, None where nobody keeps account."""
        if self._cpu is None:
            return None
        if self._places.version == 1:
            return int((self._cpu / "cpuacct.usage").read_text()) / 1e9
        return int((self._cpu / "cpu.stat").read_text().split()[1]) / 1e6  # usage_usec comes first

    def empty(self) -> None:
        """Kill whatever is left in the groups and wait for its end."""
        for _ in range(500):
            left = {int(pid) for d in self.directories for pid in (d / "cgroup.procs").read_text().split()}
            left.discard(self.resident)
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        raise SandboxError(f"processes {sorted(left)} of a sandbox do not end")

    def bound(self, job: Job, run: Callable[[], Outcome]) -> Outcome:
        """Run a job that enters these groups; a process killed for want of memory makes it a job over its memory limit.

        The kernel kills one process (version 1) and the rest of the job may go on: its answer does not count.
        """
        before, cpu_before = self.prepare(job.limits), self.cpu_s()
        outcome = run()
        self.empty()
        if cpu_before is not None and (used := self.cpu_s() - cpu_before - START_CPU_S) > outcome.cpu_s:
            late = outcome.limit is None and outcome.error is None and used > job.limits.cpu_s
            outcome = replace(outcome, cpu_s=used, limit="cpu" if late else outcome.limit)
        if self.kills() == before or outcome.limit == "memory":
            return outcome
        return replace(outcome, limit="memory", memory_mb=float(job.limits.memory_mb), error=None)

    def remove(self) -> None:
        """Take the groups away; they must be empty (a short wait: the kernel gives them up late)."""
        with contextlib.suppress(FileNotFoundError):  # whoever owns the group above ours may have taken all of it away
            self.empty()
        for directory in self.directories:
            for pause in (0.0, 0.01, 0.1, 0.5):
                time.sleep(pause)
                with contextlib.suppress(OSError):
                    directory.rmdir()
                if not directory.exists():
                    break
            else:
                raise SandboxError(f"the cgroup {directory.name} cannot be removed")


class Nest:
    """The directory of all groups of one backend; `group` makes one, `close` removes the directory."""

    def __init__(self, places: Places, name: str) -> None:
        if places.version == 2:
            _hand_down(places.memory, places.memory / _LEAF)
        self._inner = [d / name for d in places.directories()]
        self._held: list[int] = []
        for directory in self._inner:
            try:
                self._held.append(hold(directory))
            except OSError as e:
                self.close()
                raise _not_made(directory, e) from e
        self._places = places.below(name)
        if places.version == 2:
            _write(self._places.memory / "cgroup.subtree_control", "+memory +pids")

    def group(self, name: str) -> Group:
        return Group(self._places, name)

    def close(self) -> None:
        """Remove the directories; all groups must have been removed."""
        for directory, descriptor in zip(self._inner, self._held, strict=False):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()
            os.close(descriptor)
        self._held.clear()


def _hand_down(here: Path, leaf: Path) -> None:
    """Version 2: let children of this group have controllers; its processes go into `leaf`, which stays as long as they do."""
    if {"memory", "pids"} <= set((here / "cgroup.subtree_control").read_text().split()):
        return
    _make(leaf)
    for pid in (here / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            _write(leaf / "cgroup.procs", pid)
    _write(here / "cgroup.subtree_control", "+memory +pids")


def _make(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as e:
        raise _not_made(path, e) from e


def _not_made(path: Path, error: OSError) -> SandboxError:
    return SandboxError(f"the cgroup {path.name} cannot be made: {error.strerror}; {_REMEDY}")


def _write(path: Path, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except ProcessLookupError:
        raise
    except OSError as e:
        raise SandboxError(f"the cgroup file {path.name} refuses {text!r}: {e.strerror}; {_REMEDY}") from e


def sweep() -> list[str]:
    """Remove what services that were killed have left, groups and folders that nobody holds any more; their names.

    Nothing runs in them: a sandbox ends with the service that started it.
    """
    found = [d for root in _roots() for d in root.glob("k15-*-*-*") if d.is_dir()]
    for directory in found:
        with abandoned(directory) as free:
            if free and directory.is_relative_to(BASE):
                for inner in (*directory.glob("slot-*"), directory):
                    with contextlib.suppress(OSError):  # its last process may not have ended yet; the next sweep takes it
                        inner.rmdir()
            elif free:
                shutil.rmtree(directory, ignore_errors=True)
    return sorted({d.name for d in found if not d.exists()})


def _roots() -> list[Path]:
    try:
        return [*find().directories(), Path("/run")]
    except SandboxError:
        return []
