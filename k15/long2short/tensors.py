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
        if not isinstance(entries, dict):
            raise ValueError(f"its header is a {type(entries).__name__}, not an object")
    except (ValueError, OSError) as error:
        raise DataError(f"{file} is no safetensors file: {error}.") from None
    entries.pop("__metadata__", None)
    stored = [_entry(file, name, entry, 8 + length) for name, entry in entries.items()]
    if any(tensor.start + tensor.nbytes > file.stat().st_size for _, tensor in stored):
        raise DataError(f"{file} ends in the middle of a tensor; copy it again.")
    return head + text, {name: tensor for name, tensor in sorted(stored, key=lambda item: item[1].start)}


def _entry(file: Path, name: str, entry: object, data: int) -> tuple[str, Stored]:
    """One tensor of a header; `data`: where the tensors' bytes begin. Raises DataError."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            isinstance(n, int) and n >= 0 for n in shape
        ):
            pass
        case _:
            raise DataError(f"{file} is no safetensors file: its header does not say type, shape and place of {name}.")
    if dtype not in DTYPES:
        raise DataError(f"{file}: {name} is of type {dtype}; types that can be read: {', '.join(DTYPES)}.")
    tensor = Stored(file, dtype, tuple(shape), data + begin, end - begin)
    if begin < 0 or tensor.nbytes != tensor.elements * DTYPES[dtype].itemsize:
        raise DataError(f"{file}: {name} has {tensor.nbytes} bytes, but {shape} numbers of type {dtype} have "
                        f"{tensor.elements * DTYPES[dtype].itemsize}; the header is wrong, make the file again.")  # fmt: skip
    return name, tensor


def read_folder(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder by name."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        found |= read_header(file)[1]
    return found
