"""Short Python jobs without the start of an interpreter: a warm one, in a sandbox of its own, forks for each job (resident.py).

What is shared between jobs of one interpreter is its memory layout and its hash seed. Anything that is not `python3 FILE ...` or
`python3 -c CODE ...` goes to the backend behind it.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

from k15.sandbox.backends import seccomp, wire
from k15.sandbox.backends.bubblewrap import TICK_S, Bubblewrap
from k15.sandbox.backends.native import binary
from k15.sandbox.backends.resident import Residents
from k15.sandbox.images.store import Images, cache_root
from k15.sandbox.job import Backend, Job, Outcome

_ZYGOTE = Path(__file__).parent / "native" / "zygote.py"
_PYTHON = "/usr/bin/python3"
_PATH = "/bin:/usr/bin"  # of a program without PATH (confstr)


class Warm:
    """See `k15.sandbox.job.Backend`. `behind` runs every job that does not suit a warm interpreter.

    Memory is watched, not held by a cgroup, also where `behind` has cgroups. An image without a fitting interpreter is left
    to `behind`. Raises SandboxError where the filter or the compiled parts are missing.
    """

    name = "warm"
    memory_is_hard = False

    def __init__(self, behind: Backend | None = None, images: Images | None = None) -> None:
        self._images = images if images is not None else Images()
        self._behind = behind if behind is not None else Bubblewrap(self._images, groups=False)
        self._filter = seccomp.program()
        inside = {"/dev/warm.so": binary("warm.so"), "/dev/zygote.py": _readable(_ZYGOTE)}
        self._interpreters = Residents("the warm interpreter", inside, [_PYTHON, "/dev/zygote.py"])

    def run(self, job: Job) -> Outcome:
        """Run the job to its end; blocking, from any thread. Raises SandboxError for an unknown image or a wrong path."""
        outcome = None
        rootfs = self._images.rootfs(job.image)
        if suits(job, rootfs):
            request = wire.request(job, self._filter, mount_tmp=True, watch_memory=True, watch_processes=True, tick_s=TICK_S)
            outcome = self._interpreters.run(job, rootfs, request)
        return outcome if outcome is not None else self._behind.run(job)

    def close(self) -> None:
        """End the interpreters and the backend behind. No job may be running."""
        self.stop()
        self._behind.close()

    def stop(self) -> None:
        """End the interpreters alone; the next warm job starts one again."""
        self._interpreters.close()


def suits(job: Job, rootfs: Path) -> bool:
    """Whether a warm interpreter runs it as a cold one would: the image's python3 with a file or -c and no other switch."""
    words = list(job.command)
    if len(words) < 2 or any(name.startswith("PYTHON") for name in job.env):
        return False
    if not (words[1] == "-c" and len(words) > 2) and words[1].startswith("-"):
        return False
    return words[0] == _PYTHON or (words[0] == "python3" and _found(rootfs, job.env.get("PATH", _PATH)) == _PYTHON)


@cache
def _found(rootfs: Path, path: str) -> str | None:
    """Where `python3` is found along a PATH inside an image; None for nowhere or by a way that leads out of the image."""
    for folder in path.split(":"):
        if not folder.startswith("/") or ".." in folder:
            return None
        inside = rootfs / folder.strip("/")
        if (inside / "python3").is_symlink() or (inside / "python3").exists():
            return _PYTHON if inside.resolve() == (rootfs / "usr/bin").resolve() else f"{folder}/python3"
    return None


def _readable(path: Path) -> Path:
    """A copy in the cache, which the uid of the sandbox can read, named by content."""
    data = path.read_bytes()
    copy = cache_root() / "bin" / f"{hashlib.sha256(data).hexdigest()[:16]}-{path.name}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        fresh = copy.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(data)
        fresh.chmod(0o644)
        fresh.replace(copy)
    return copy
