"""Weight segments: one shared-memory file a (version, rank), its manifest beside it, in the job's own directory.

    <dir>/owner                 locked (flock) by the process that owns the directory for as long as it lives
    <dir>/v<V>-r<R>.seg         tensors one after the other, each at a 64-byte aligned offset
    <dir>/v<V>-r<R>.json        the manifest; it appears after its segment, so what has a manifest is complete
    <dir>/v<V>-r<R>.ok          the checksums were found right on this node: other processes need not look again
    <dir>/spare-r<R>.seg        memory of a retired version, for the next one (`k15.weights.buffers`)

`k15.weights.owner` owns and cleans the directories.
"""

import fcntl
import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import xxhash

from k15.errors import WeightsError
from k15.weights.buffers import FOLD_BYTES, Buffer, Workspace, spare_path
from k15.weights.layout import Slice

ALIGN = 64
_FILE = re.compile(r"^v(\d+)-r(\d+)\.(seg|json|ok)(\.tmp.*)?$")
_SPARE = re.compile(r"^spare-r\d+\.seg$")


@dataclass(frozen=True)
class Entry:
    """One slice in a segment: global `shape`, offset `starts`, own `extent`; `nbytes` at byte `offset`, XXH3-64 `checksum`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    extent: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: int


@dataclass(frozen=True)
class Manifest:
    """What a segment holds. `node` names the node whose memory it is in, `rank` the trainer rank that wrote it."""

    version: int
    iteration: int
    rank: int
    node: str
    nbytes: int
    entries: tuple[Entry, ...]

    @property
    def file(self) -> str:
        return segment_name(self.version, self.rank)

    @property
    def digest(self) -> str:
        """Of all that the manifest says, the checksums included."""
        return xxhash.xxh3_128_hexdigest(self.to_json().encode())

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> "Manifest":
        raw = json.loads(text)
        for entry in raw["entries"]:
            entry |= {key: tuple(entry[key]) for key in ("shape", "starts", "extent")}
        return Manifest(**{**raw, "entries": tuple(Entry(**entry) for entry in raw["entries"])})


def segment_name(version: int, rank: int) -> str:
    return f"v{version}-r{rank}.seg"


def manifest_path(segment: Path) -> Path:
    """The manifest's file beside its segment."""
    return segment.with_suffix(".json")


def verified_path(segment: Path) -> Path:
    """The file that says that a segment was verified on this node."""
    return segment.with_suffix(".ok")


def write_segment(
    directory: Path,
    version: int,
    rank: int,
    slices: Iterable[Slice],
    *,
    iteration: int = 0,
    node: str = "",
    workspace: Workspace | None = None,
) -> Manifest:
    """Stream `slices` into this rank's segment; only one slice is held at a time. Atomic: readers see all or nothing.

    A process that writes version after version gives the same `workspace` each time. Raises WeightsError where shared
    memory is full.
    """
    space = workspace if workspace is not None else Workspace(directory, keep=False)
    path = directory / segment_name(version, rank)
    tmp = path.with_name(f"{path.name}.tmp{os.getpid()}")
    entries, offset = [], 0
    with space.buffer(tmp, rank) as buffer:
        for piece in slices:
            offset += -offset % ALIGN
            checksum, nbytes = _put(buffer, offset, piece.tensor.detach())
            dtype = str(piece.tensor.dtype).removeprefix("torch.")
            entries.append(
                Entry(piece.name, dtype, piece.shape, piece.starts, tuple(piece.tensor.shape), offset, nbytes, checksum)
            )
            offset += nbytes
        manifest = Manifest(version, iteration, rank, node, offset, tuple(entries))
        publish(buffer, directory, manifest)
    return manifest


def _put(buffer: Buffer, offset: int, tensor: torch.Tensor) -> tuple[int, int]:
    """(checksum, bytes) of `tensor` written at `offset`: one pass over contiguous CPU memory, else one copy and one look."""
    nbytes = tensor.numel() * tensor.element_size()
    window = buffer.window(offset, nbytes)
    if window is not None and nbytes and not (tensor.is_cpu and tensor.is_contiguous()):
        torch.frombuffer(window, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)
        return xxhash.xxh3_64_intdigest(window), nbytes
    flat = tensor.to("cpu").contiguous().reshape(-1)
    return buffer.put(offset, memoryview(flat.view(torch.uint8).numpy())), nbytes


def publish(buffer: Buffer, directory: Path, manifest: Manifest, *, verified: bool = False) -> Path:
    """Give a finished buffer its name: segment first, manifest last, both by rename. Returns the segment's path."""
    path = directory / manifest.file
    os.ftruncate(buffer.fd, manifest.nbytes)
    beside = manifest_path(path)
    beside.unlink(missing_ok=True)  # a rewritten version must not show an old manifest with new bytes
    verified_path(path).unlink(missing_ok=True)
    buffer.path.rename(path)
    if verified:
        verified_path(path).write_text(manifest.digest)
    half = beside.with_name(f"{beside.name}.tmp{os.getpid()}")
    half.write_text(manifest.to_json())
    half.rename(beside)
    return path


def load_manifest(segment: Path) -> Manifest:
    """The manifest beside a segment. Raises WeightsError if there is none (the segment is missing or incomplete)."""
    try:
        return Manifest.from_json(manifest_path(segment).read_text())
    except FileNotFoundError:
        raise WeightsError(f"{segment} has no manifest beside it: the segment is missing or was not finished") from None


def read_segment(segment: Path, manifest: Manifest, *, verify: bool | None = None) -> Iterator[Slice]:
    """The slices of a segment, as views of its memory mapping (private: a write to one never reaches the file). While one is
    held, the segment's memory is not written again.

    `verify` None: look at the checksums unless this node has done so since the segment was written. Raises WeightsError for a
    file of another size, a segment that is being replaced, or a slice whose checksum differs.
    """
    if verify is None:
        verify = not _verified(segment, manifest)
    with segment.open("rb") as file:
        _share(file.fileno(), segment, manifest)  # the mapping holds a copy of the descriptor, and with it the lock
        size = manifest.nbytes
        mapped = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else bytearray())
    for entry in manifest.entries:
        raw = mapped[entry.offset : entry.offset + entry.nbytes]
        if verify and xxhash.xxh3_64_intdigest(raw) != entry.checksum:
            raise damaged(entry, segment)
        dtype = getattr(torch, entry.dtype)
        tensor = torch.frombuffer(raw, dtype=dtype) if entry.nbytes else torch.empty(0, dtype=dtype)
        yield Slice(entry.name, entry.shape, entry.starts, tensor.reshape(entry.extent))


def damaged(entry: Entry, where: object) -> WeightsError:
    return WeightsError(f"{entry.name} at {entry.starts} in {where} is damaged: its checksum differs")


def _share(fd: int, segment: Path, manifest: Manifest) -> None:
    """Lock the open segment against being written again. Raises WeightsError where it is not what `manifest` describes."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if segment.stat().st_ino != os.fstat(fd).st_ino:
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError):
        raise WeightsError(f"{segment} was replaced or collected while it was opened") from None
    size = os.fstat(fd).st_size
    if size != manifest.nbytes:
        raise WeightsError(f"{segment} has {size} bytes, its manifest says {manifest.nbytes}")


def _verified(segment: Path, manifest: Manifest) -> bool:
    try:
        return verified_path(segment).read_text() == manifest.digest
    except FileNotFoundError:
        return False


def verify_segment(segment: Path, manifest: Manifest) -> None:
    """Look at every checksum once for all processes of this node. Raises WeightsError as `read_segment` does."""
    if _verified(segment, manifest):
        return
    block = memoryview(bytearray(FOLD_BYTES))
    with segment.open("rb", buffering=0) as file:
        _share(file.fileno(), segment, manifest)
        for entry in manifest.entries:  # read, not mapped: no page faults, and the block stays in the cache
            digest = xxhash.xxh3_64()
            for start in range(0, entry.nbytes, FOLD_BYTES):
                part = block[: min(FOLD_BYTES, entry.nbytes - start)]
                if os.preadv(file.fileno(), [part], entry.offset + start) != len(part):
                    raise damaged(entry, segment)
                digest.update(part)
            if digest.intdigest() != entry.checksum:
                raise damaged(entry, segment)
    verified_path(segment).write_text(manifest.digest)


def collect(directory: Path, keep_versions: Iterable[int], *, spare: bool = False) -> list[str]:
    """Delete segments of other versions; returns the names that are gone. With `spare`, the newest deleted segment of each
    rank stays as memory for its next version.

    Versions newer than all kept are left: they may be in the making. Memory that an engine still maps is freed when it lets go.
    """
    keep = set(keep_versions)
    newest = max(keep, default=None)
    gone = []
    found = [(match, path) for path in directory.iterdir() if (match := _FILE.match(path.name)) is not None]
    # Manifests first: a segment without one is not read. Then oldest first: the newest ends as the spare.
    for match, path in sorted(found, key=lambda f: (f[0][3] == "seg", int(f[0][1]))):
        if int(match[1]) in keep or (newest is not None and int(match[1]) > newest):
            continue
        if spare and match[3] == "seg" and match[4] is None:
            path.rename(spare_path(directory, int(match[2])))
        else:
            path.unlink(missing_ok=True)
        gone.append(path.name)
    for path in [] if spare else directory.iterdir():
        if _SPARE.match(path.name):
            path.unlink(missing_ok=True)
    return gone
