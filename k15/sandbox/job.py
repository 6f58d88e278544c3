"""What a sandbox backend is asked and what it answers. Torch-free; imports nothing of the other rooms but errors.

Backend.run(Job) -> Outcome      blocking; safe to call from many threads at once
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard limits of one job. MB are 2^20 bytes; `wall_s` bounds everything, `cpu_s` the processor time of all processes."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_mb: int = 512
    processes: int = 64
    output_bytes: int = 1 << 20  # of stdout and of stderr, each
    disk_mb: int = 64
    files: int = 16384  # inodes


@dataclass(frozen=True, slots=True)
class Job:
    """One command in a fresh sandbox.

    `files`: relative path -> content, put into the working directory before it starts. `keep`: relative paths to bring
    back (a compiled program). `image`: the name of a root filesystem. The environment is `env` and nothing else.
    """

    command: Sequence[str]
    image: str = "base"
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    keep: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. Exactly one of `exit_code` and `signal` is set, unless a limit ended it.

    `limit`: None, or which limit ended it: "wall", "cpu", "memory", "output", "disk". `error`: the sandbox itself failed
    (never the job's fault; to be retried or reported, never scored). `kept`: the files of `Job.keep` that exist.
    """

    exit_code: int | None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_mb: float | None = None
    limit: str | None = None
    kept: Mapping[str, bytes] = field(default_factory=dict)
    error: str | None = None


class Backend(Protocol):
    """An isolation mechanism. `name` is one of `k15.sandbox.backends.BACKENDS`."""

    name: str

    def run(self, job: Job) -> Outcome:
        """Run the job to its end. Raises SandboxError only where the backend is unusable."""
        ...

    def close(self) -> None:
        """Leave no process, mount, cgroup or file behind."""
        ...
