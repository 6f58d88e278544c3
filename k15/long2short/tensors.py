"""The tensors of a Hugging Face folder, a piece at a time: plain reads of safetensors files, nothing mapped, nothing kept.

A safetensors file is 8 bytes of header length (little endian), a JSON header with the dtype, shape and byte span of each
tensor, and the tensors' bytes.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from k15.config.hf import weight_files
from k15.errors import DataError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies: `start` is its first byte in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def pieces(self, size: int) -> Iterator[tuple[int, int]]:
        """(first element, elements) of consecutive pieces of at most `size` elements."""
        return ((i, min(size, self.elements - i)) for i in range(0, self.elements, size))

    def read(self, first: int, count: int) -> torch.Tensor:
        """`count` elements from `first` on, flat, in the stored type. Raises DataError for a file that is cut off."""
        item = DTYPES[self.dtype].itemsize
        buffer = bytearray(count * item)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start + first * item)
            view = memoryview(buffer)
            while view:
                got = file.readinto(view)
                if not got:
                    raise DataError(f"{self.file} ends in the middle of a tensor; copy it again.")
                view = view[got:]
        return torch.frombuffer(buffer, dtype=DTYPES[self.dtype])


def read_header(file: Path) -> tuple[bytes, dict[str, Stored]]:
    """(the header with its length, the file's tensors in the order of their bytes). Raises DataError."""
    try:
        with file.open("rb") as opened:
            head = opened.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            text = opened.read(length)
        entries = json.loads(text)
    except (ValueError, OSError) as error:
        raise DataError(f"{file} is no safetensors file: {error}.") from None
    entries.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(entries.items(), key=lambda e: e[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            raise DataError(f"{file}: {name} is of type {entry['dtype']}; types that can be read: {', '.join(DTYPES)}.")
        found[name] = Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
    return head + text, found


def read_folder(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder by name."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        found |= read_header(file)[1]
    return found
