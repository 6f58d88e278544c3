"""Model merging (report 2.4): the average of two or more models' weights, a long-CoT and a short one, without training.

Streamed: a piece of one tensor at a time is read from every folder, averaged in fp32, and written. Memory is a few pieces,
whatever the size of the models.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from k15.config.hf import EXPORT_RECORD, fingerprint, spelled_out, weight_files
from k15.errors import ConfigError, DataError
from k15.log import get_logger
from k15.log.files import alone, check_folder_can_be_made
from k15.long2short.tensors import DTYPES, Stored, read_folder, read_header

PIECE = 1 << 22  # elements: 16 MiB in fp32
RECORD = "merge.json"
NOT_COPIED = {RECORD, EXPORT_RECORD}  # they speak of the first folder's weights
UNREAD = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
KEPT_OF_FIRST = {"bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
MAY_DIFFER = UNREAD | KEPT_OF_FIRST  # of config.json: no part of the shape
log = get_logger("merge")


def merge(
    dirs: Sequence[str | Path], out: str | Path, weights: Sequence[float] | None = None,
    progress: Callable[[int], Callable[[], object]] | None = None,
) -> Path:  # fmt: skip
    """Write sum_i w_i model_i to the folder `out`, which appears whole or not at all; w_i = weights[i] / sum(weights), or 1/n.

    Files, names and types are those of the first folder; sums are taken in fp32 (fp64 for fp64). Integer tensors must be
    equal. An `out` that already is this merge of these very files is left as it is. `progress` takes the number of tensors and
    gives what is called after each. Raises ConfigError and DataError, naming the first difference.
    """
    folders, target = [Path(d) for d in dirs], Path(out)
    shares = check_weights(len(folders), weights)
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} has no config.json; give Hugging Face folders.")
    record = {
        "sources": [str(f.absolute()) for f in folders], "weights": shares, "fingerprints": [fingerprint(f) for f in folders],
    }  # fmt: skip
    if is_done(target, record):
        log.info("%s is this merge already; nothing was done", target)
        return target
    models = check_folders(folders, target)
    step = progress(len(models[0])) if progress is not None else lambda: None
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp = target.with_name(f".{target.name}.tmp")  # one name: what a killed merge has left goes
    with alone(target.with_name(f".{target.name}.lock"), f"another `k15 merge` writes {target}; wait for its end"):
        if is_done(target, record):  # by another, meanwhile
            return target
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        try:
            for path in folders[0].iterdir():
                weights = path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf")
                if path.is_file() and not weights and path.name not in NOT_COPIED:
                    shutil.copyfile(path, tmp / path.name)
            for file in weight_files(folders[0]):
                _merge_file(file, tmp / file.name, models, shares, step)
            (tmp / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            tmp.rename(target)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
    return target


def _merge_file(
    source: Path, target: Path, models: Sequence[Mapping[str, Stored]], shares: Sequence[float], step: Callable[[], object]
) -> None:
    """One file of the first folder, with its header, its tensors averaged over all models."""
    header, tensors = read_header(source)
    with target.open("wb") as out:
        out.write(header)
        for name, first in tensors.items():
            out.seek(first.start)
            for start, count in first.pieces(PIECE):
                piece = _average(name, [m[name] for m in models], shares, start, count)
                out.write(memoryview(piece.view(torch.uint8).numpy()))
            step()
        out.flush()
        os.fsync(out.fileno())


def _average(name: str, stored: Sequence[Stored], shares: Sequence[float], start: int, count: int) -> torch.Tensor:
    kind = DTYPES[stored[0].dtype]
    first = stored[0].read(start, count)
    if not kind.is_floating_point:
        for other in stored[1:]:
            if not torch.equal(other.read(start, count), first):
                raise DataError(f"{name} holds whole numbers that differ between the folders; they have no average.")
        return first
    total = first.to(torch.float64 if kind == torch.float64 else torch.float32).mul_(shares[0])
    for other, share in zip(stored[1:], shares[1:], strict=True):
        total.add_(other.read(start, count).to(total.dtype), alpha=share)
    average = total.to(kind)
    if not torch.isfinite(average).all():
        bad = next((s.file for s in stored if not torch.isfinite(s.read(start, count)).all()), None)
        if bad is not None:
            raise DataError(f"{name} of {bad} holds NaN or infinities; such a model is broken, give another.")
        raise DataError(f"{name}: the average is beyond what {stored[0].dtype} holds; name a folder in BF16 or F32 first.")
    return average


def check_weights(count: int, weights: Sequence[float] | None) -> list[float]:
    """Each model's share; they sum to 1. Raises ConfigError."""
    if count < 2:
        raise ConfigError(f"merge takes at least two folders, not {count}.")
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ConfigError(f"there are {len(weights)} weights for {count} folders; give one each.")
    if any(not 0 <= w < math.inf for w in weights) or not 0 < sum(weights) < math.inf:
        raise ConfigError(
            f"weights are {', '.join(f'{w:g}' for w in weights)}; they must be at least 0, one above 0, and their sum finite."
        )
    return [w / sum(weights) for w in weights]


def is_done(out: Path, record: Mapping[str, object]) -> bool:
    """Is `out` the merge of `record`? Raises ConfigError where it is something else."""
    if not os.path.lexists(out):
        return False
    try:
        found = json.loads((out / RECORD).read_text())
    except (OSError, ValueError):
        found = None
    if found != record:
        raise ConfigError(
            f"{out} exists and is not this merge (or its models have changed since); give another --out, or remove it."
        )
    return True


def check_folders(folders: Sequence[Path], out: Path) -> list[dict[str, Stored]]:
    """The tensors of each folder, after all checks that need no weights to be read. Raises ConfigError and DataError."""
    configs = [_config(f) for f in folders]
    models = [read_folder(f) for f in folders]
    for config, model in zip(configs[1:], models[1:], strict=True):
        if configs[0].get("tie_word_embeddings") and config.get("tie_word_embeddings"):
            _one_output(models[0], model)
    for folder, config, model in zip(folders[1:], configs[1:], models[1:], strict=True):
        fault = (
            _config_difference(configs[0], config)
            or _tokenizer_difference(folders[0], folder)
            or _tensor_difference(models[0], model)
        )
        if fault is not None:
            raise DataError(f"{folders[0]} and {folder} cannot be merged: {fault}.")
        for key in sorted(KEPT_OF_FIRST):
            if configs[0].get(key) != config.get(key):
                log.warning(
                    "%s of config.json is %r in %s and %r in %s; the merge has the first", key, configs[0].get(key), folders[0],
                    config.get(key), folder,
                )  # fmt: skip
    needed = sum(t.nbytes for t in models[0].values())
    check_folder_can_be_made(out.parent, "--out")
    parent = next(p for p in [out.absolute().parent, *out.absolute().parents] if p.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise ConfigError(f"{out} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there; give another --out.")
    return models


def _one_output(first: dict[str, Stored], other: dict[str, Stored]) -> None:
    """Tied models may store the embedding a second time, as the output: where only one does, `other` gets it or loses it. One
    whose output is not its embedding stays as it is."""
    if (HEAD in first) == (HEAD in other):
        return
    has, lacks = (first, other) if HEAD in first else (other, first)
    if EMBEDDING not in has or EMBEDDING not in lacks or not _same(has[HEAD], has[EMBEDDING]):
        return
    if lacks is other:
        other[HEAD] = other[EMBEDDING]
    else:
        del other[HEAD]


def _same(a: Stored, b: Stored) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and all(torch.equal(a.read(*p), b.read(*p)) for p in a.pieces(PIECE))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:  # also what is not UTF-8
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is a {type(found).__name__}, but must be an object.")
    return found


def _config(folder: Path) -> dict[str, Any]:
    """config.json, whose values are of the kinds that they should be. Raises DataError."""
    found = _json(folder / "config.json")
    try:
        spelled_out(found)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{folder / 'config.json'} describes no model ({type(error).__name__}: {error}).") from error
    return found


def _config_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    a, b = spelled_out(a), spelled_out(b)
    for key in sorted((a.keys() | b.keys()) - MAY_DIFFER):
        if (a.get(key) or None) != (b.get(key) or None):  # absent, null and false say the same
            return f"`{key}` of config.json is {a.get(key)!r} in the one and {b.get(key)!r} in the other"
    return None


def _tokenizer_difference(a: Path, b: Path) -> str | None:
    """Ids must mean the same: vocabulary, merges and added tokens."""
    paths = [folder / "tokenizer.json" for folder in (a, b)]
    there = [p.is_file() for p in paths]
    if there[0] != there[1]:
        return f"only one of them has a {paths[0].name}"
    if not there[0] or paths[0].read_bytes() == paths[1].read_bytes():
        return None
    left, right = (_json(p) for p in paths)
    if left.get("added_tokens") != right.get("added_tokens"):
        return "`added_tokens` of tokenizer.json differ"
    old, new = left.get("model", {}), right.get("model", {})
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"`model.{key}` of tokenizer.json differs"
    return None


def _tensor_difference(a: Mapping[str, Stored], b: Mapping[str, Stored]) -> str | None:
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            return f"{name} is in the {'other' if name not in a else 'first'} only"
        if a[name].shape != b[name].shape:
            return f"{name} is of shape {list(a[name].shape)} in the one and {list(b[name].shape)} in the other"
        if DTYPES[a[name].dtype].is_floating_point != DTYPES[b[name].dtype].is_floating_point:
            return f"{name} is of type {a[name].dtype} in the one and {b[name].dtype} in the other"
    return None
