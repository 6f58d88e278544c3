"""Weight segments: one shared-memory file a (version, rank), its manifest beside it, in the job's own directory.

    <dir>/owner                 locked (flock) by the process that owns the directory for as long as it lives
    <dir>/v<V>-r<R>.seg         tensors one after the other, each at a 64-byte aligned offset
    <dir>/v<V>-r<R>.json        the manifest; it appears after its segment, so what has a manifest is complete

`k15.weights.owner` owns and cleans the directories.
"""

import errno
import json
import mmap
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from k15.errors import WeightsError
from k15.weights.layout import Slice

ALIGN = 64
_FILE = re.compile(r"^v(\d+)-r(\d+)\.(seg|json)(\.tmp.*)?$")


@dataclass(frozen=True)
class Entry:
    """One slice in a segment: global `shape`, offset `starts`, own `extent`; `nbytes` at byte `offset` with `crc`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    extent: tuple[int, ...]
    offset: int
    nbytes: int
    crc: int


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


def _raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor; on the CPU and contiguous ones without a copy."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def write_segment(
    directory: Path, version: int, rank: int, slices: Iterable[Slice], *, iteration: int = 0, node: str = ""
) -> Manifest:
    """Stream `slices` into this rank's segment; only one slice is held at a time. Atomic: readers see all or nothing.

    Raises WeightsError where shared memory is full.
    """
    path = directory / segment_name(version, rank)
    tmp = path.with_name(f"{path.name}.tmp{os.getpid()}")
    entries, offset = [], 0
    try:
        with tmp.open("wb") as out:
            for piece in slices:
                raw = _raw(piece.tensor)
                out.write(bytes(-offset % ALIGN))
                offset += -offset % ALIGN
                out.write(raw)  # write, not mmap: a full /dev/shm is an error here and a SIGBUS there
                dtype = str(piece.tensor.dtype).removeprefix("torch.")
                extent = tuple(piece.tensor.shape)
                entries.append(Entry(piece.name, dtype, piece.shape, piece.starts, extent, offset, len(raw), zlib.crc32(raw)))
                offset += len(raw)
        manifest = Manifest(version, iteration, rank, node, offset, tuple(entries))
        _publish(tmp, path, manifest)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise WeightsError(
                f"{directory} is full after {offset / 1e9:.2f} GB of weights {version}. Enlarge shared memory "
                "(mount -o remount,size=... /dev/shm) or keep fewer versions."
            ) from error
        raise
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise
    return manifest


def _publish(tmp: Path, path: Path, manifest: Manifest) -> None:
    """Segment first, manifest last, both by rename."""
    beside = manifest_path(path)
    beside.unlink(missing_ok=True)  # a rewritten version must not show an old manifest with new bytes
    tmp.rename(path)
    half = beside.with_name(f"{beside.name}.tmp{os.getpid()}")
    half.write_text(manifest.to_json())
    half.rename(beside)


def adopt(tmp: Path, directory: Path, manifest: Manifest) -> Path:
    """Verify a copied segment at `tmp` and publish it under its own name. Raises WeightsError if it is damaged."""
    try:
        for _ in read_segment(tmp, manifest):
            pass
    except WeightsError:
        tmp.unlink(missing_ok=True)
        raise
    _publish(tmp, directory / manifest.file, manifest)
    return directory / manifest.file


def load_manifest(segment: Path) -> Manifest:
    """The manifest beside a segment. Raises WeightsError if there is none (the segment is missing or incomplete)."""
    try:
        return Manifest.from_json(manifest_path(segment).read_text())
    except FileNotFoundError:
        raise WeightsError(f"{segment} has no manifest beside it: the segment is missing or was not finished") from None


def read_segment(segment: Path, manifest: Manifest, *, verify: bool = True) -> Iterator[Slice]:
    """The slices of a segment, as views of its memory mapping (private: a write to one never reaches the file).

    Raises WeightsError for a file of another size, or with `verify` for a slice whose checksum differs.
    """
    with segment.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != manifest.nbytes:
            raise WeightsError(f"{segment} has {size} bytes, its manifest says {manifest.nbytes}")
        mapped = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else bytearray())
    for entry in manifest.entries:
        raw = mapped[entry.offset : entry.offset + entry.nbytes]
        if verify and zlib.crc32(raw) != entry.crc:
            raise WeightsError(f"{entry.name} at {entry.starts} in {segment} is damaged: its checksum differs")
        dtype = getattr(torch, entry.dtype)
        tensor = torch.frombuffer(raw, dtype=dtype) if entry.nbytes else torch.empty(0, dtype=dtype)
        yield Slice(entry.name, entry.shape, entry.starts, tensor.reshape(entry.extent))


def collect(directory: Path, keep_versions: Iterable[int]) -> list[str]:
    """Delete segments of other versions; returns the names deleted. Versions newer than all kept are left: they may be
    in the making. Memory that an engine still maps is freed when it lets go."""
    keep = set(keep_versions)
    newest = max(keep, default=None)
    gone = []
    for path in directory.iterdir():
        match = _FILE.match(path.name)
        if match is None or int(match[1]) in keep or (newest is not None and int(match[1]) > newest):
            continue
        path.unlink(missing_ok=True)
        gone.append(path.name)
    return gone
