"""Versioned prompt stores: folder/v1, v2, ... each with prompts.jsonl and a manifest that says what made it.

`data.path=prompts/math` reads the newest version, `data.path=prompts/math/v1` that one. A version is never changed, and a run
stays with the one that it began with (`pinned`).
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from k15.data.jsonl import json_object
from k15.errors import DataError
from k15.log.files import sync_folder

PROMPTS, MANIFEST = "prompts.jsonl", "manifest.json"
_VERSION = re.compile(r"^v([1-9]\d*)$")


def versions(store: Path) -> dict[int, Path]:
    """Number -> folder of every version, ascending."""
    if not store.is_dir():
        return {}
    found = {int(m[1]): p for p in store.iterdir() if (m := _VERSION.match(p.name)) and (p / MANIFEST).is_file()}
    return dict(sorted(found.items()))


def add_version(store: Path, files: Mapping[str, str], manifest: Mapping[str, object]) -> tuple[Path, bool]:
    """The folder of a version with these files, and whether it is new: an equal newest version is kept instead.

    `files` must hold prompts.jsonl. The manifest gets `version` and `sha256` (of prompts.jsonl). A number that anything in the
    store has, whole or not, is taken: by another process that writes there at the same time, too.
    """
    assert PROMPTS in files
    record = {"sha256": _digest(files[PROMPTS].encode()), **manifest}
    store.mkdir(parents=True, exist_ok=True)
    while True:
        newest = next(reversed(versions(store).values()), None)
        if newest is not None and _holds(newest, files, record):
            return newest, False
        number = 1 + max((int(m[1]) for p in store.iterdir() if (m := _VERSION.match(p.name))), default=0)
        folder, half = store / f"v{number}", store / f".v{number}.{os.uname().nodename}.{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        try:
            half.mkdir()
            for name, text in {**files, MANIFEST: json.dumps({"version": number, **record}, indent=1) + "\n"}.items():
                with (half / name).open("w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            half.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not os.path.lexists(folder):
                raise
            continue  # another process has just taken the number
        finally:
            shutil.rmtree(half, ignore_errors=True)
        sync_folder(store)
        return folder, True


def prompts_file(path: Path) -> Path:
    """`path` itself where it is a file; of a version, or of a store's newest one, its prompts.

    Raises DataError for a folder that is neither, and for prompts that differ from what their manifest says.
    """
    if not path.is_dir():
        return path
    folder = _version(path)
    if folder is None:
        raise DataError(f"{path} is a folder without a version of a prompt store; `k15 curate store={path} ...` makes one, "
                        "or name a JSONL file.")  # fmt: skip
    file = folder / PROMPTS
    wanted = _manifest(folder).get("sha256")
    if not file.is_file() or _digest(file.read_bytes()) != wanted:
        raise DataError(f"{file} is not what {folder / MANIFEST} says: it was changed by hand. Make a new version, or name the "
                        "file itself as data.path.")  # fmt: skip
    return file


def pinned(path: str, before: str | None = None) -> str:
    """What `path` names now, for good: a store's newest version, or the one named `before`; all else stays as it is."""
    if before is not None and is_version_of(before, path):
        return before
    folder = _version(Path(path))
    return path if folder is None or folder == Path(path) else str(folder)


def is_version_of(version: str, store: str) -> bool:
    """By their names; whether they are there is not looked at."""
    return Path(version).parent == Path(store) and _VERSION.match(Path(version).name) is not None


def _version(path: Path) -> Path | None:
    """`path` where it is a version, its newest one where it is a store."""
    return path if (path / MANIFEST).is_file() else next(reversed(versions(path).values()), None)


def _holds(folder: Path, files: Mapping[str, str], record: Mapping[str, object]) -> bool:
    """Is the version of these files? One that is broken is not."""
    try:
        found = _manifest(folder)
        return {**found, "version": None} == {**record, "version": None} and all(
            (folder / name).read_text() == text for name, text in files.items()
        )
    except (DataError, FileNotFoundError, UnicodeDecodeError):
        return False


def _manifest(folder: Path) -> dict[str, object]:
    """Raises DataError."""
    try:
        return json_object((folder / MANIFEST).read_bytes())
    except DataError as error:
        raise DataError(f"{folder / MANIFEST} is damaged: {error}. Name another version, or the file itself "
                        f"({folder / PROMPTS}) as data.path.") from error  # fmt: skip


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
