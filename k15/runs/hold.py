"""One run folder, one run: the head node of a job holds RUN_DIR/.lock for as long as it is a node.

The kernel's lock (flock) goes with the process, however it ends, and most shared file systems keep it across nodes. What is
written into the file says who has it. It also stands in for the lock where a file system keeps locks to one node: a holder on
another node whose Slurm job still runs there has the folder too.
"""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from k15.errors import ConfigError
from k15.log import get_logger
from k15.log.files import WITHOUT_LOCKS
from k15.node.rendezvous import JobIdentity

NAME = ".lock"
PATIENCE_S = 120.0  # KillWait of a job that was cancelled just now; NFS forgets the lock of a node that died after 90 s
LOOK_S = 2.0  # Slurm is asked each time
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT")
log = get_logger("job")


@dataclass(frozen=True)
class Holder:
    """Who has the folder. `job`: Slurm's id, or local-PID; `restart`: which start of that job."""

    job: str
    restart: int
    host: str

    def __str__(self) -> str:
        return f"{'process' if self.is_local else 'job'} {self.job.removeprefix('local-')} on {self.host}"

    @property
    def is_local(self) -> bool:
        """Outside Slurm."""
        return self.job.startswith("local-")


@contextmanager
def held(run_dir: Path, identity: JobIdentity, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """The folder (made where it is not there) is this process's for the length of the block. Raises ConfigError where another run
    has it; a Slurm job first waits `patience_s` for that one to end."""
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = _take(run_dir, Holder(identity.job, identity.restart, os.uname().nodename), patience_s)
    try:
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(run_dir: Path, me: Holder, patience_s: float) -> int:
    """A descriptor of the file that holds its lock."""
    path = run_dir / NAME
    deadline = time.monotonic() + (0.0 if me.is_local else patience_s)
    waited = False
    while (descriptor := _try(path, me)) is None:
        holder = _read(path)
        if time.monotonic() >= deadline:
            if holder is None or holder.job != me.job or holder.restart >= me.restart or holder.host == me.host:
                raise ConfigError(_refusal(run_dir, holder))
            # Slurm began this start when that one's node had failed, and that node's lock has outlived it.
            log.warning("%s still has the lock of %s, but Slurm started the job again: it is taken over", holder, run_dir)
            return _replaced(path, me)
        if not waited:
            log.info("%s is in use by %s: waiting for its end, %.0f s at most", run_dir, _named(holder), patience_s)
            waited = True
        time.sleep(LOOK_S)
    _write(descriptor, me)
    return descriptor


def _named(holder: Holder | None) -> str:
    return str(holder) if holder is not None else "another process"


def _refusal(run_dir: Path, holder: Holder | None) -> str:
    end = f" (scancel {holder.job})" if holder is not None and not holder.is_local else ""
    return (
        f"{run_dir} is in use by {_named(holder)}, and two runs in one folder damage what the other writes. "
        f"Give another run_dir=, or end that one first{end}. If its node is gone for good, remove {run_dir / NAME}."
    )


def _try(path: Path, me: Holder) -> int | None:
    """A locked descriptor, or None where a living process has the lock, or a job on a node whose locks are not seen here."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            log.warning("the file system of %s has no locks: another run in that folder is seen by its Slurm job only", path)
        try:
            if not os.path.samestat(os.fstat(descriptor), path.stat()):
                os.close(descriptor)  # replaced between open and lock
                continue
        except FileNotFoundError:
            os.close(descriptor)
            continue
        if _runs_elsewhere(_read(path), me):
            os.close(descriptor)
            return None
        return descriptor


def _runs_elsewhere(holder: Holder | None, me: Holder) -> bool:
    """Is it another Slurm job, on another node, that runs? (This job's own starts follow each other.) False where that cannot be
    known."""
    if holder is None or holder.is_local or holder.job == me.job or holder.host == me.host:
        return False
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            ["squeue", "-h", "-r", "-j", holder.job, "-o", "%T"], capture_output=True, text=True, timeout=30, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(state in RUNNING for state in done.stdout.split())


def _read(path: Path) -> Holder | None:
    """None where nobody has written himself down, or does so just now."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(descriptor: int, me: Holder) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
    os.fsync(descriptor)


def _replaced(path: Path, me: Holder) -> int:
    """A new file in place of `path`, locked before it is there."""
    mine = path.with_name(f"{NAME}.{me.host}.{os.getpid()}")
    descriptor = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _write(descriptor, me)
    mine.rename(path)
    return descriptor
