"""Where the rows of a benchmark come from: a file below the user's data folder, or the Hugging Face hub where it is allowed."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k15.errors import DataError

DATA_ENV = "K15_DATA_DIR"
Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Hub:
    """A split of a dataset on the Hugging Face hub. `config` None: its only one."""

    dataset: str
    split: str
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What a task's loader may ask. `argument`: what stands after the colon of `jsonl:FILE`, "" for other tasks.

    `data_dir` None: the folder that K15_DATA_DIR names. `hub`: a file that is missing is looked for on the hub.
    """

    data_dir: str | None = None
    argument: str = ""
    hub: bool = False

    @property
    def folder(self) -> Path | None:
        name = self.data_dir if self.data_dir is not None else os.environ.get(DATA_ENV)
        return None if not name else Path(name)

    def rows(self, file: str, hub: Hub | None = None) -> list[Row]:
        """The rows of `file` (relative to the data folder). Raises DataError that says how to get what is missing."""
        folder = self.folder
        if folder is not None and (folder / file).is_file():
            return read_rows(folder / file)
        if self.hub and hub is not None:
            return _from_hub(hub)
        where = f"{folder / file} does not exist" if folder is not None else f"no data folder is given for {file}"
        remedy = f"Set {DATA_ENV} or data_dir=<folder> to a folder that holds {file} (JSONL)"
        raise DataError(
            f"{where}. {remedy}" + (f", or hub=true to load {hub.dataset} from the Hugging Face hub." if hub else ".")
        )


def read_rows(path: str | Path) -> list[Row]:
    """The objects of a JSONL file. Raises DataError with the line's number."""
    path, rows = Path(path), []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); one object a line is needed.") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a {type(row).__name__}, but each line must be an object.")
        rows.append(row)
    if not rows:
        raise DataError(f"{path} has no row.")
    return rows


def field(row: Row, name: str, where: str) -> str:
    """A text field (numbers are written out). Raises DataError where it is missing or empty."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field `{name}` is {value!r}; it must be a text. Fields there: {', '.join(map(str, row))}.")
    return value


def _from_hub(hub: Hub) -> list[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(f"hub=true needs the package `datasets` ({error}): pip install datasets.") from error
    try:
        return [dict(row) for row in load_dataset(hub.dataset, hub.config, split=hub.split)]
    except Exception as error:  # whatever the network and the library raise: the user needs one sentence and the remedy
        said = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise DataError(
            f"{hub.dataset} could not be loaded from the Hugging Face hub ({said}). "
            f"Download it where there is a network, and set {DATA_ENV} to the folder."
        ) from error
