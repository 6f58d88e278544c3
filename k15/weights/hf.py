"""Write a Hugging Face folder: sharded safetensors, config.json, tokenizer. Streams: one assembled tensor at a time."""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from k15.config.hf import EXPORT_RECORD, export_record
from k15.errors import DataError
from k15.weights.assemble import Pieces
from k15.weights.layout import Slice, hf_shapes

SHARD_BYTES = 4 << 30
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_hf(
    folder: Path,
    config: Mapping[str, Any],
    tokenizer_files_from: Path | None,
    slices: Iterable[Slice],
    *,
    iteration: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the model to `folder` (replaced if it exists) from the slices of ALL ranks, e.g. chained `read_segment`s.

    The folder appears whole or not at all, and says which `iteration` of a run it holds. Raises WeightsError if the slices are
    not exactly the model of `config`, DataError if `tokenizer_files_from` holds no tokenizer.
    """
    pieces = Pieces(slices)
    pieces.check(hf_shapes(config))
    tmp, old = (folder.with_name(f".{folder.name}.{what}") for what in ("new", "old"))  # one name: a killed job's are found
    if old.exists() and not folder.exists():  # killed between the two renames
        old.rename(folder)
    for leftover in (tmp, old):
        shutil.rmtree(leftover, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        dtype = _write_shards(tmp, pieces, shard_bytes)
        text = {**config, "dtype": str(dtype).removeprefix("torch.")}
        text.pop("torch_dtype", None)  # the same key's older name
        (tmp / "config.json").write_text(json.dumps(text, indent=2) + "\n")
        if tokenizer_files_from is not None:
            _copy_tokenizer(tokenizer_files_from, tmp)
        if iteration is not None:
            (tmp / EXPORT_RECORD).write_text(export_record(iteration))
        if folder.exists():  # moved aside first, deleted last
            folder.rename(old)
        tmp.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _copy_tokenizer(source: Path, target: Path) -> None:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise DataError(f"{source} holds no tokenizer file (looked for {', '.join(TOKENIZER_FILES[:5])}, ...)")
    for path in found:
        shutil.copyfile(path, target / path.name)


def _write_shards(folder: Path, pieces: Pieces, shard_bytes: int) -> torch.dtype:
    """Files of at most `shard_bytes` (or one tensor); returns the tensors' type."""
    shapes, dtypes = pieces.shapes, pieces.dtypes
    shards: list[list[str]] = [[]]
    filled = 0
    sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
    for name in pieces.names():
        if shards[-1] and filled + sizes[name] > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += sizes[name]
    tensors = pieces.tensors()
    where: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        where |= dict.fromkeys(names, file)
        with (folder / file).open("wb") as out:
            out.write(_header(names, shapes, dtypes, sizes))
            for name in names:
                found, tensor = next(tensors)
                assert found == name, (found, name)
                out.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
                del tensor  # before the next one is assembled
            out.flush()
            os.fsync(out.fileno())
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return dtypes["model.embed_tokens.weight"]


def _header(names: list[str], shapes: dict, dtypes: dict, sizes: dict) -> bytes:
    """The safetensors header: 8 bytes of length (little endian), then JSON padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        span = [offset, offset + sizes[name]]
        header[name] = {"dtype": _DTYPES[dtypes[name]], "shape": list(shapes[name]), "data_offsets": span}
        offset += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
