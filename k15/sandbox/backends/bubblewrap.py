"""The backend for ordinary users: bubblewrap sets up the namespaces, init the disk, the limits and the filter.

Root is never used: started by root it drops to an ordinary uid first, since a job mapped onto root's uid could read what
root owns. Where cgroups can be made they hold the memory, and each job is a bwrap of its own that enters them. Elsewhere init
watches the memory, every few milliseconds, and a job is a fork of an init that waits in a bwrap of its image (resident.py), half
the work of a bwrap a job; where the kernel lets nobody have namespaces inside a sandbox, it is a bwrap a job as well.
"""

import logging
import os
import secrets
import shutil
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.backends import seccomp, wire
from k15.sandbox.backends.bwrap import command, dropped
from k15.sandbox.backends.cgroups import Nest, find, sweep
from k15.sandbox.backends.exchange import exchange
from k15.sandbox.backends.launcher import Seat
from k15.sandbox.backends.native import binary
from k15.sandbox.backends.resident import Residents
from k15.sandbox.backends.slots import Slots
from k15.sandbox.images.store import Images
from k15.sandbox.job import Job, Outcome

TICK_S = 0.005
log = logging.getLogger(__name__)


class Bubblewrap:
    """See `k15.sandbox.job.Backend`. `groups`: None uses cgroups where this process may make them, False never, True must.

    `tracing`: for a judge that sandboxes by itself (see `seccomp.program`). `resident`: False starts a bwrap for each job.
    Raises SandboxError where bwrap, the filter, the compiled init or (with groups=True) a writable cgroup is missing.
    """

    name = "bubblewrap"

    def __init__(
        self, images: Images | None = None, *, groups: bool | None = None, tracing: bool = False, resident: bool = True
    ) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("the bubblewrap backend needs bwrap; install the package bubblewrap")
        self._bwrap = program
        self._images = images if images is not None else Images()
        self._filter = seccomp.program(tracing)
        self._init, self._launch = binary("init"), binary("launch")
        self._dropped = dropped()
        self._nest = None if groups is False else _nest(must=groups is True)
        self.memory_is_hard = self._nest is not None
        self._slots: Slots[Seat] | None = None
        self._residents: Residents | None = None
        if self._nest is not None:
            drop = self._dropped[1:-1]  # the launcher does it once
            self._slots = Slots(lambda number: Seat(self._nest, f"slot-{number}", self._launch, drop), Seat.remove)
        elif resident:
            self._residents = _residents()

    def run(self, job: Job) -> Outcome:
        """Run the job to its end; blocking, from any thread. Raises SandboxError for an unknown image or a wrong path."""
        watch, rootfs = self._slots is None, self._images.rootfs(job.image)
        request = wire.request(
            job, self._filter, mount_tmp=True, watch_memory=watch, watch_processes=True, tick_s=TICK_S if watch else 4 * TICK_S
        )
        outcome = self._residents.run(job, rootfs, request) if self._residents is not None else None
        return outcome if outcome is not None else self._alone(job, rootfs, request)

    def _alone(self, job: Job, rootfs: Path, request: bytes) -> Outcome:
        """In a bwrap of its own."""
        bwrap = command(self._bwrap, rootfs, {"/dev/init": self._init}, ["/dev/init"])
        if self._slots is None:
            return exchange([*self._dropped, *bwrap], request, job)
        with self._slots.one() as seat:
            return seat.run(bwrap, request, job)

    def close(self) -> None:
        """Remove the cgroups, where there are any, and end what waits. No job may be running."""
        if self._residents is not None:
            self._residents.close()
        if self._slots is not None:
            self._slots.close()
            self._nest.close()


def _residents() -> Residents | None:
    try:
        wait = binary("wait")
    except SandboxError as e:  # a folder of ready-made parts may be older than this one
        log.warning("%s; each job starts a bwrap of its own, which takes twice as long", e)
        return None
    return Residents("the init of the sandbox", {"/dev/wait": wait}, ["/dev/wait"])


def _nest(must: bool) -> Nest | None:
    try:
        sweep()
        return Nest(find(), f"k15-bwrap-{os.getpid()}-{secrets.token_hex(4)}")
    except SandboxError:
        if must:
            raise
        return None  # `guarantees` says that memory is watched and not held
