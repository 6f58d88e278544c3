"""The records of a source, each with its address: files, folders of `datasets`, datasets of the hub."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from k15.data.jsonl import TOO_DEEP, json_object
from k15.errors import ConfigError, DataError, K15Error

HUB = "hf:"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: `where` and why."""

    where: str
    reason: str


def records(source: str) -> Iterator[tuple[str, Mapping | BadRow]]:
    """The records; what gzip, pyarrow and datasets raise for a damaged file is a DataError with its path."""
    try:
        yield from _records(source)
    except K15Error:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, LookupError, TypeError, zlib.error) as error:
        said = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise DataError(f"{source} cannot be read, it may be damaged ({said}); make or copy it again.") from error


def _records(source: str) -> Iterator[tuple[str, Mapping | BadRow]]:
    path = Path(source)
    if source.startswith(HUB):
        yield from _numbered(source, _hub(source))
    elif not path.exists():
        raise DataError(f"{source} does not exist. Sources are .jsonl, .jsonl.gz and .parquet files, folders of "
                        "datasets.save_to_disk, or hf:NAME:SPLIT (hf:NAME:CONFIG:SPLIT).")  # fmt: skip
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _lines(path)
    elif path.suffix == ".parquet":
        yield from _numbered(source, _parquet(path))
    elif path.is_dir() and any((path / name).is_file() for name in ("dataset_info.json", "state.json")):
        yield from _numbered(source, _package("datasets").load_from_disk(str(path)))
    else:
        raise DataError(f"{source} is of no known kind. Sources are .jsonl, .jsonl.gz and .parquet files, folders of "
                        "datasets.save_to_disk (one split), or hf:NAME:SPLIT.")  # fmt: skip


def _lines(path: Path) -> Iterator[tuple[str, Mapping | BadRow]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                raw = json_object(line)
            except DataError as error:
                raw = BadRow(where, str(error))
            except RecursionError:
                raw = BadRow(where, TOO_DEEP)
            yield where, raw


def _parquet(path: Path) -> Iterator[Mapping]:
    with _package("pyarrow.parquet").ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _hub(source: str) -> Iterator[Mapping]:
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) not in (1, 2):
        raise ConfigError(f"{source}: a dataset of the hub is named hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, for example "
                          "hf:openai/gsm8k:main:train.")  # fmt: skip
    try:
        return iter(_package("datasets").load_dataset(name, *rest[:-1], split=rest[-1]))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{source} could not be loaded: {error}") from error


def _numbered(source: str, records: Iterator[Mapping]) -> Iterator[tuple[str, Mapping]]:
    return ((f"{source}:{number}", record) for number, record in enumerate(records, 1))


def _package(name: str):
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"this source needs the package {name.split('.')[0]}: pip install 'k15[curate]'.") from error
