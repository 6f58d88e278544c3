"""Rows of JSONL, Parquet and Hugging Face datasets, whatever their columns are called, as prompts with an address.

A prompt is the first of PROMPT that a row has, an answer the first of ANSWER. An answer that is a worked solution is reduced
to what its last `####` or \\boxed{} marks, so GSM8K and MATH can be read as they are published.
"""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k15.config.curate import FieldsConfig
from k15.data.store import content_id
from k15.errors import ConfigError, DataError
from k15.reward.answer import BOXED, extract

PROMPT = ("prompt", "question", "problem", "text")
ANSWER = ("answer", "solution", "reference_answer", "final_answer")
CHOICES = ("choices", "options")
DISCIPLINE = ("discipline", "subject", "type", "category")
HUB = "hf:"
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One problem on its way through the funnel. `where`: source and line, for messages."""

    where: str
    id: str
    text: str
    answer: str
    domain: str
    discipline: str | None = None  # the row's own label
    choices: tuple[str, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)

    @property
    def prose(self) -> str:
        """The text without the programs of its drawings, whose letters mean nothing."""
        return _DRAWING.sub(" ", self.text)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: `where` and why."""

    where: str
    reason: str


def read(source: str, fields: FieldsConfig) -> Iterator[Row | BadRow]:
    """All rows of a file (.jsonl, .jsonl.gz, .parquet), of a folder of `Dataset.save_to_disk`, or of `hf:NAME[:CONFIG]:SPLIT`.

    Raises DataError for a source that is not there or of no known kind, ConfigError where a package is missing.
    """
    for where, raw in _records(source):
        yield raw if isinstance(raw, BadRow) else _row(where, raw, fields)


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
                raw = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raw = BadRow(where, f"not JSON in UTF-8 ({error})")
            yield where, raw if isinstance(raw, dict | BadRow) else BadRow(where, f"a {type(raw).__name__}, not an object")


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


def _row(where: str, raw: Mapping, fields: FieldsConfig) -> Row | BadRow:
    """A bad row says which field is missing or wrong."""
    prompt_field, text = _pick(raw, fields.prompt, PROMPT)
    if not isinstance(text, str) or not text.strip():
        return BadRow(where, _missing("prompt", fields.prompt, prompt_field, PROMPT, raw))
    answer_field, answer = _pick(raw, fields.answer, ANSWER)
    choices = tuple(map(str, next((raw[n] for n in CHOICES if isinstance(raw.get(n), list | tuple)), ())))
    answer = _final(answer, worked=answer_field == "solution")
    if answer is None:
        return BadRow(where, _missing("answer", fields.answer, answer_field, ANSWER, raw))
    domain = raw.get(fields.domain)
    domain = domain if isinstance(domain, str) and domain else "code" if answer.startswith("{") else "math"
    identity = raw.get(fields.id)
    if isinstance(identity, bool) or not isinstance(identity, str | int | None):
        return BadRow(where, f"field `{fields.id}` is {identity!r}; an id is a text or a whole number")
    _, discipline = _pick(raw, fields.discipline, DISCIPLINE)
    used = {prompt_field, answer_field, fields.domain, fields.id, *CHOICES}
    return Row(
        where, str(identity) if identity not in (None, "") else content_id(text, answer, domain), text.strip(), answer, domain,
        discipline if isinstance(discipline, str) and discipline else None, choices,
        {k: v for k, v in raw.items() if k not in used and isinstance(v, str | int | float | bool)},
    )  # fmt: skip


def _pick(raw: Mapping, given: str | None, names: Sequence[str]) -> tuple[str | None, object]:
    name = given if given is not None else next((n for n in names if raw.get(n) not in (None, "")), None)
    return name, raw.get(name) if name is not None else None


def _final(answer: object, worked: bool) -> str | None:
    """The final answer; of a text with a marker what the marker names. None where there is none."""
    if isinstance(answer, dict):
        return json.dumps(answer)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return None
    text = str(answer).strip()
    marked = next((m for m in (extract(text, BOXED), extract(text, "####ANSWER")) if m), None)
    return marked if marked is not None else None if worked or not text else text


def _missing(what: str, given: str | None, found: str | None, names: Sequence[str], raw: Mapping) -> str:
    if found is not None and raw.get(found) not in (None, ""):
        return f"field `{found}` holds no {what} (a text; of a worked solution the last #### or \\boxed{{}} counts)"
    wanted = f"`{given}`" if given is not None else " or ".join(f"`{n}`" for n in names)
    return f"no {what}: field {wanted} is missing or empty; the row has {', '.join(sorted(map(str, raw)))[:200]}"
