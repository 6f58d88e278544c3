"""The conversation with init (native/wire.h), as bytes. Pure: no processes, no sockets."""

import struct
from collections.abc import Iterable
from pathlib import PurePosixPath

from k15.errors import SandboxError
from k15.sandbox.job import Job, Outcome

MAGIC = 0x3531356B
MOUNT_TMP = 1
STOP_OUTPUT = b"o"
WORKDIR = "/tmp/work"  # the job's working directory in every image and backend
NO_REPORT = "the sandbox ended without a report"
LIMITS = (None, "wall", "cpu", "memory", "output", "disk")
_HEAD = struct.Struct("=IIQQQQQII")
_TAIL = struct.Struct("=IiiIQQQII")


def relative(path: str, what: str) -> bytes:
    """A path below the working directory as bytes; SandboxError for one that leaves it."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in path:
        raise SandboxError(f"{what} {path!r} must be a relative path below the working directory, without '..'")
    return str(parts).encode()


def request(job: Job, program: bytes, *, mount_tmp: bool, watch_memory: bool, watch_processes: bool, tick_s: float) -> bytes:
    """A job as init reads it. `program`: the seccomp filter as BPF."""
    limits = job.limits
    if not job.command:
        raise SandboxError("the job has an empty command")
    for word in (*job.command, *job.env, *job.env.values()):
        if "\0" in word:
            raise SandboxError(f"a word of the job's command or environment holds a zero byte: {word!r}")
    head = _HEAD.pack(
        MAGIC, MOUNT_TMP if mount_tmp else 0, int(limits.wall_s * 1e6), int(limits.cpu_s * 1e6),
        limits.memory_mb << 20 if watch_memory else 0, limits.disk_mb << 20, limits.files,
        limits.processes if watch_processes else 0, int(tick_s * 1e6),
    )  # fmt: skip
    files = [part for path, content in job.files.items() for part in (relative(path, "file"), content)]
    body = b"".join([
        head, _blob(program), _blob(job.stdin), _list(w.encode(errors="surrogateescape") for w in job.command),
        _list(f"{k}={v}".encode(errors="surrogateescape") for k, v in job.env.items()), _list(files),
        _list(relative(path, "kept file") for path in job.keep),
    ])  # fmt: skip
    return struct.pack("=Q", len(body)) + body


def outcome(report: bytes, job: Job, stdout: bytes, stderr: bytes) -> Outcome:
    """What init reported, or an Outcome with `error` where the report is missing or cut short."""
    try:
        magic, code, signal, limit, wall, cpu, memory, error, kept = _TAIL.unpack_from(report)
        at = _TAIL.size
        text = report[at : at + error].decode(errors="replace")
        at += error
        files = {}
        for _ in range(kept):
            index, size = struct.unpack_from("=IQ", report, at)
            at += 12
            if len(report) < at + size:
                raise struct.error("cut short")
            files[job.keep[index]] = report[at : at + size]
            at += size
    except struct.error:
        return Outcome(None, stdout=stdout, stderr=stderr, error=NO_REPORT)
    if magic != MAGIC or error:
        return Outcome(None, stdout=stdout, stderr=stderr, error=text or "the sandbox's report is not one")
    return Outcome(
        code if code >= 0 else None, signal or None, stdout, stderr, wall / 1e6, cpu / 1e6,
        memory / 2**20 if memory else None, LIMITS[limit], files,
    )  # fmt: skip


def explained(outcome: Outcome, exit_code: int) -> Outcome:
    """Where there was no report: how the runtime ended and what it said."""
    if outcome.error != NO_REPORT:
        return outcome
    said = outcome.stderr.decode(errors="replace").strip()[-500:]
    return Outcome(None, error=f"{NO_REPORT} (exit {exit_code}): {said}")


def _blob(data: bytes) -> bytes:
    return struct.pack("=I", len(data)) + data


def _list(items: Iterable[bytes]) -> bytes:
    blobs = [_blob(item) for item in items]
    return struct.pack("=I", len(blobs)) + b"".join(blobs)
