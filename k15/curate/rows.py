"""Rows of JSONL, Parquet and Hugging Face datasets, whatever their columns are called, as prompts with an address.

A prompt is the first of PROMPT that a row has, an answer the first of ANSWER. An answer that is a worked solution is reduced
to what its last `####` or \\boxed{} marks, so GSM8K and MATH can be read as they are published. A JSON object of tests
(`k15.reward.code`) makes a row `code`, and a row of that domain needs one. NaN is a value that is missing.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k15.config.curate import FieldsConfig
from k15.data.jsonl import TOO_DEEP, check_characters, json_object, not_a_value
from k15.data.store import content_id
from k15.errors import ConfigError, DataError, K15Error
from k15.reward.answer import BOXED, extract
from k15.reward.code import check_answer

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

    Raises DataError for a source that is not there, damaged or of no known kind, ConfigError where a package is missing.
    """
    return _read(source, lambda where, raw: _row(where, raw, fields))


def read_held_out(source: str, prompt: str | None) -> Iterator[Row | BadRow]:
    """The problems of an evaluation set, of which only the text is used: its rows need no answer. `prompt`: their column,
    None for the first of PROMPT. Raises as `read`."""

    def problem(where: str, raw: Mapping) -> Row | BadRow:
        name, text = _pick(raw, prompt, PROMPT)
        if not isinstance(text, str) or not text.strip():
            return BadRow(where, _missing("prompt", prompt, name, PROMPT, raw))
        return Row(where, where, text.strip(), "", "evaluation")

    return _read(source, problem)


def _read(source: str, parse: Callable[[str, Mapping], Row | BadRow]) -> Iterator[Row | BadRow]:
    for where, raw in _whole(source):
        try:
            yield raw if isinstance(raw, BadRow) else parse(where, raw)
        except (DataError, RecursionError) as error:
            yield BadRow(where, str(error).removesuffix(".") if isinstance(error, DataError) else TOO_DEEP)


def _whole(source: str) -> Iterator[tuple[str, Mapping | BadRow]]:
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


def _row(where: str, raw: Mapping, fields: FieldsConfig) -> Row | BadRow:
    """A bad row says which field is missing or wrong. Raises DataError and RecursionError for some of them."""
    prompt_field, text = _pick(raw, fields.prompt, PROMPT)
    if not isinstance(text, str) or not text.strip():
        return BadRow(where, _missing("prompt", fields.prompt, prompt_field, PROMPT, raw))
    answer_field, given = _pick(raw, fields.answer, ANSWER)
    choices = tuple(map(str, next((raw[n] for n in CHOICES if isinstance(raw.get(n), list | tuple)), ())))
    domain, answer = _answer(given, raw.get(fields.domain), worked=answer_field == "solution")
    if answer is None:
        return BadRow(where, _missing("answer", fields.answer, answer_field, ANSWER, raw))
    identity = raw.get(fields.id) if _there(raw.get(fields.id)) else None
    if isinstance(identity, bool) or not isinstance(identity, str | int | None):
        return BadRow(where, f"field `{fields.id}` is {identity!r}; an id is a text or a whole number")
    discipline_field, discipline = _pick(raw, fields.discipline, DISCIPLINE)
    tests = json.loads(answer) if domain == "code" else answer  # with what its escapes mean
    for name, value in ((prompt_field, text), (answer_field, tests), (fields.domain, domain), (fields.id, identity),
                        (discipline_field, discipline)):  # fmt: skip
        check_characters(str(name), value)
    used = {prompt_field, answer_field, fields.domain, fields.id, *CHOICES}
    return Row(
        where, str(identity) if identity is not None else content_id(text, answer, domain), text.strip(), answer, domain,
        discipline if isinstance(discipline, str) else None, choices,
        {k: v for k, v in raw.items() if k not in used and isinstance(v, str | int | float | bool)},
    )  # fmt: skip


def _there(value: object) -> bool:
    return value not in (None, "") and not not_a_value(value)


def _pick(raw: Mapping, given: str | None, names: Sequence[str]) -> tuple[str | None, object]:
    name = given if given is not None else next((n for n in names if _there(raw.get(n))), None)
    return name, raw[name] if name is not None and _there(raw.get(name)) else None


def _answer(given: object, domain: object, worked: bool) -> tuple[str, str | None]:
    """(domain, answer). Raises DataError for an object, or a row of the domain `code`, without tests that can be run."""
    named = domain if isinstance(domain, str) and domain else None
    text = _json(given) if isinstance(given, dict) else str(given).strip()
    if given is not None and (named == "code" or (named is None and _holds_tests(text))):
        check_answer(text)
        return "code", text
    if named is None and isinstance(given, dict):
        raise DataError("the answer is an object without `tests` or `harness`, which is neither code nor mathematics")
    return named if named is not None else "math", text if isinstance(given, dict) else _final(given, worked)


def _holds_tests(text: str) -> bool:
    """Is the text a JSON object of tests? `{1, 2}` and `{3\\over 4}` are answers of mathematics."""
    try:
        found = json.loads(text) if text.startswith("{") else None
    except ValueError:
        return False
    return isinstance(found, dict) and not found.keys().isdisjoint(("tests", "harness"))


def _json(answer: Mapping) -> str:
    try:
        return json.dumps(answer)
    except TypeError as error:  # Parquet has dates and bytes
        raise DataError(f"the answer is an object that is no JSON ({error})") from error


def _final(answer: object, worked: bool) -> str | None:
    """The final answer; of a text with a marker what the marker names. None where there is none."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return None
    text = str(answer).strip()
    marked = next((m for m in (extract(text, BOXED), extract(text, "####ANSWER")) if m), None)
    return marked if marked is not None else None if worked or not text else text


def _missing(what: str, given: str | None, found: str | None, names: Sequence[str], raw: Mapping) -> str:
    if found is not None and _there(raw.get(found)):
        return f"field `{found}` holds no {what} (a text; of a worked solution the last #### or \\boxed{{}} counts)"
    wanted = f"`{given}`" if given is not None else " or ".join(f"`{n}`" for n in names)
    has = ", ".join(sorted(map(str, raw)))[:200].encode(errors="backslashreplace").decode()
    return f"no {what}: field {wanted} is missing, empty or NaN; the row has {has}"
