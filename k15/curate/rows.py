"""Rows of JSONL, Parquet and Hugging Face datasets, whatever their columns are called, as prompts with an address.

A prompt is the first of PROMPT that a row has, an answer the first of ANSWER. An answer that is a worked solution is reduced
to what its last `####` or \\boxed{} marks, so GSM8K and MATH can be read as they are published; without a marker a text of
several lines has no final answer, nor one of several words where most answers of the source are worked solutions. A JSON object
of tests (`k15.reward.code`) makes a row `code`, and a row of that domain needs one. A domain without a reward of its own
(`physics`) is the discipline of a row whose answer is judged as mathematics. NaN is a value that is missing.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from k15.config.curate import FieldsConfig
from k15.curate.proofs import asks_for_proof
from k15.curate.sources import BadRow, records
from k15.data.jsonl import TOO_DEEP, check_characters, not_a_value
from k15.data.store import content_id
from k15.errors import DataError
from k15.reward.answer import MAX_ANSWER_CHARS, marked
from k15.reward.code import check_answer
from k15.reward.router import DOMAINS

PROMPT = ("prompt", "question", "problem", "text")
ANSWER = ("answer", "solution", "reference_answer", "final_answer")
CHOICES = ("choices", "options")
DISCIPLINE = ("discipline", "subject", "type", "category")
LETTERS = "ABCDEFGH"  # columns of options, where they are not in one of CHOICES
MATHEMATICS = ("mathematics", "maths")  # which others call the domain `math`
LABELS = ("difficulty", "pass_rate")
KEPT_CHARS = 200  # of a text in a column that is kept: a level or a source, not a worked solution
_DISPLAY = re.compile(r"\$\$|\\\[|\\\]")  # what TeX puts around a formula, on lines of their own
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One problem on its way through the funnel. `where`: source and line, for messages. `answer` is "" where the text asks for
    a proof and there is none. `meta`: the source's other columns, as the store keeps them."""

    where: str
    id: str
    text: str
    answer: str
    domain: str
    discipline: str | None = None  # the row's own label
    choices: tuple[str, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)
    worked: bool = False  # `answer` was marked in a longer text

    @property
    def prose(self) -> str:
        """The text without the programs of its drawings, whose letters mean nothing."""
        return _DRAWING.sub(" ", self.text)


def read(source: str, fields: FieldsConfig) -> Iterator[Row | BadRow]:
    """All rows of a file (.jsonl, .jsonl.gz, .parquet), of a folder of `Dataset.save_to_disk`, or of `hf:NAME[:CONFIG]:SPLIT`.

    Raises DataError for a source that is not there, damaged or of no known kind, ConfigError where a package is missing.
    """
    rows = list(_read(source, lambda where, raw: _row(where, raw, fields)))
    good = [row for row in rows if isinstance(row, Row) and row.domain == "math" and row.answer]
    worked = 2 * sum(row.worked for row in good) > len(good)
    for row in rows:
        if worked and isinstance(row, Row) and row.domain == "math" and not row.worked and len(row.answer.split()) > 1:
            yield BadRow(row.where, f"no final answer: most answers of {source} are worked solutions that mark theirs with #### "
                                    f"or \\boxed{{}}, but this one marks none ({row.answer[:60]!r})")  # fmt: skip
        else:
            yield row


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
    for where, raw in records(source):
        try:
            yield raw if isinstance(raw, BadRow) else parse(where, {name: _plain(value) for name, value in raw.items()})
        except (DataError, RecursionError) as error:
            yield BadRow(where, str(error).removesuffix(".") if isinstance(error, DataError) else TOO_DEEP)


def _plain(value: object) -> object:
    """As JSON would have it: Parquet gives every object the keys of all, None where it has none, and has decimals."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else None  # as it is written: 24.00
    return value


def _row(where: str, raw: Mapping, fields: FieldsConfig) -> Row | BadRow:
    """A bad row says which field is missing or wrong. Raises DataError and RecursionError for some of them."""
    prompt_field, text = _pick(raw, fields.prompt, PROMPT)
    if not isinstance(text, str) or not text.strip():
        return BadRow(where, _missing("prompt", fields.prompt, prompt_field, PROMPT, raw))
    answer_field, given = _pick(raw, fields.answer, ANSWER)
    named = _domain(raw.get(fields.domain))
    domain, answer = _answer(given, named if named in DOMAINS else None, worked=answer_field == "solution")
    if answer is None and not asks_for_proof(_DRAWING.sub(" ", text.strip())):
        return BadRow(where, _missing("answer", fields.answer, answer_field, ANSWER, raw))
    answer = answer if answer is not None else ""
    identity = raw.get(fields.id) if fields.id is not None and _there(raw.get(fields.id)) else None
    if isinstance(identity, bool) or not isinstance(identity, str | int | None):
        return BadRow(where, f"field `{fields.id}` is {identity!r}; an id is a text or a whole number")
    discipline_field, discipline = _pick(raw, fields.discipline, DISCIPLINE)
    if not isinstance(discipline, str):
        discipline = named if named not in DOMAINS else None
    meta = _kept(raw, {prompt_field, answer_field, fields.domain, fields.id, discipline_field, *CHOICES})
    tests = json.loads(answer) if domain == "code" else answer  # with what its escapes mean
    for name, value in ((prompt_field, text), (answer_field, tests), (fields.domain, named), (fields.id, identity),
                        (discipline_field, discipline), *((name, {name: value}) for name, value in meta.items())):  # fmt: skip
        check_characters(_printable(str(name)), value)
    return Row(
        where, str(identity) if identity is not None else content_id(text, answer, domain), text.strip(), answer, domain,
        discipline, _choices(raw, answer), meta, worked=domain == "math" and isinstance(given, str) and given.strip() != answer,
    )  # fmt: skip


def _domain(given: object) -> str | None:
    name = given.strip().lower() if isinstance(given, str) else ""
    return "math" if name in MATHEMATICS else name or None


def _choices(raw: Mapping, answer: str) -> tuple[str, ...]:
    """The options that stand in columns of their own: a list, {"A": ...}, {"text": [...], "label": [...]}, or columns A, B, C."""
    for given in (raw[name] for name in CHOICES if raw.get(name)):
        listed = given.get("text", given) if isinstance(given, Mapping) else given
        found = listed.values() if isinstance(listed, Mapping) else listed if isinstance(listed, list | tuple) else ()
        if options := tuple(str(option) for option in found if _there(option)):
            return options
    columns = {name: str(raw[name]).strip() for name in LETTERS if _there(raw.get(name))}
    lettered = {"A", "B", "C"} <= columns.keys() and answer.strip("()., ").upper() in columns
    return tuple(columns.values()) if lettered else ()


def _kept(raw: Mapping, used: set[str | None]) -> dict[str, object]:
    """The columns that live on in the store. A difficulty that is no number, and a pass rate that is none of 0..1, would not be
    read as such: they are kept under `source_difficulty` and `source_pass_rate`."""
    found: dict[str, object] = {}
    for name, value in raw.items():
        if name in used or not _there(value) or not isinstance(value, str | int | float | bool):
            continue
        if name in LABELS:
            number = _number(value)
            usable = number is not None and (name == "difficulty" or 0 <= number <= 1)
            name, value = (name, number) if usable else (f"source_{name}", value)
        if not isinstance(value, str) or len(value) <= KEPT_CHARS:
            found[name] = value
    return found


def _number(value: str | int | float | bool) -> float | None:
    """Of a number, or a text that is one. A whole number stays one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if not isinstance(value, bool) and abs(value) <= sys.float_info.max else None


def _there(value: object) -> bool:
    return value not in (None, "") and not not_a_value(value)


def _pick(raw: Mapping, given: str | None, names: Sequence[str]) -> tuple[str | None, object]:
    name = given if given is not None else next((n for n in names if _there(raw.get(n))), None)
    return name, raw[name] if name is not None and _there(raw.get(name)) else None


def _answer(given: object, named: str | None, worked: bool) -> tuple[str, str | None]:
    """(domain, answer); `named`: the domain that the row names. Raises DataError for an object, or a row of the domain `code`,
    without tests that can be run."""
    text = _json(given) if isinstance(given, dict) else str(given).strip()
    if given is not None and (named == "code" or (named is None and _holds_tests(text))):
        check_answer(text)
        return "code", text
    if named is None and isinstance(given, dict):
        raise DataError("the answer is an object without `tests` or `harness`, which is neither code nor mathematics")
    return "math", text if isinstance(given, dict) else _final(given, worked)


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
    final = marked(text)
    if final is not None:
        return final
    lines = 1 if "\\begin{" in text else len(_DISPLAY.sub("", text).strip().splitlines())  # a matrix has several
    return None if worked or not text or lines > 1 or len(text) > MAX_ANSWER_CHARS else text


def _missing(what: str, given: str | None, found: str | None, names: Sequence[str], raw: Mapping) -> str:
    if found is not None and _there(raw.get(found)):
        rules = {"prompt": "a text that is not empty; of a conversation, the question alone in a column of its own",
                 "answer": f"a text of one line, {MAX_ANSWER_CHARS} characters at most; of a worked solution the last #### or "
                           "\\boxed{} counts"}  # fmt: skip
        is_a = "" if isinstance(raw[found], str) else f", but a {type(raw[found]).__name__}"
        return f"field `{found}` holds no {what}{is_a} ({rules[what]})"
    wanted = f"`{given}`" if given is not None else " or ".join(f"`{n}`" for n in names)
    has = _printable(", ".join(sorted(map(str, raw)))[:200])
    return f"no {what}: field {wanted} is missing, empty or NaN; the row has {has}"


def _printable(text: str) -> str:
    """What half a character is not."""
    return text.encode(errors="backslashreplace").decode()
