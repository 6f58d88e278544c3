"""Contest problems: a statement, ground-truth submissions, perhaps a generator. Read from folders or JSONL.

    <folder>/<name>/statement.md, right_*.py|cpp|..., generator.py (optional), wrong_*.* (optional, for audits), problem.json
    {"id": ..., "statement": ..., "submissions": [{"language": "cpp", "source": "..."}], "generator": ..., "tolerance": ...}

`problem.json` may hold `tolerance` (floats are compared so), `time_s` and `memory_mb`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from k15.errors import DataError

LANGUAGE_OF = {".py": "python", ".cpp": "cpp", ".java": "java", ".cs": "csharp", ".js": "javascript", ".ts": "typescript",
               ".php": "php", ".sh": "bash"}  # fmt: skip
_OPTIONS = {"tolerance": (float, int), "time_s": (float, int), "memory_mb": (int,)}


@dataclass(frozen=True, slots=True)
class Source:
    """A program."""

    name: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """`generator`: the text of a CYaRon generator (see `generator`), None where the model shall write one.

    `submissions`: right, all but a few. `wrong`: known wrong ones, never used for making tests. `tolerance`: None compares
    tokens, else numbers may differ by it. `time_s`, `memory_mb`: None takes the settings' limits.
    """

    id: str
    statement: str
    submissions: tuple[Source, ...]
    generator: str | None = None
    wrong: tuple[Source, ...] = ()
    tolerance: float | None = None
    time_s: float | None = None
    memory_mb: int | None = None

    def digest(self) -> str:
        """Changes with anything that its tests depend on."""
        parts = {**asdict(self), "wrong": None}
        return digest(parts)


def digest(value: object) -> str:
    """A short name of JSON-like content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def load_problems(path: str | Path) -> list[Problem]:
    """All problems of a folder of folders, or of a JSONL file, in order of id. Raises DataError."""
    path = Path(path)
    if path.is_dir():
        found = [_from_folder(f) for f in sorted(path.iterdir()) if (f / "statement.md").is_file()]
    elif path.is_file():
        lines = enumerate(path.read_text().splitlines(), 1)
        found = [_from_row(line, f"{path}:{number}") for number, line in lines if line.strip()]
    else:
        raise DataError(f"{path} does not exist; give a folder with a folder for each problem, or a JSONL file.")
    if not found:
        raise DataError(
            f"{path} holds no problem: a folder of one has a statement.md, a line of JSONL a statement and submissions."
        )
    seen: set[str] = set()
    for problem in found:
        if problem.id in seen:
            raise DataError(f"{path}: the id {problem.id!r} is used twice.")
        seen.add(problem.id)
    return sorted(found, key=lambda p: p.id)


def _from_folder(folder: Path) -> Problem:
    generator = folder / "generator.py"
    options = folder / "problem.json"
    try:
        more = json.loads(options.read_text()) if options.is_file() else {}
    except ValueError as error:
        raise DataError(f"{options} is not JSON: {error}") from error
    return Problem(
        folder.name, (folder / "statement.md").read_text(), _sources(folder, "right_"),
        generator.read_text() if generator.is_file() else None, _sources(folder, "wrong_"), **_options(more, str(options)),
    )  # fmt: skip


def _sources(folder: Path, prefix: str) -> tuple[Source, ...]:
    files = sorted(f for f in folder.iterdir() if f.name.startswith(prefix))
    unknown = [f.name for f in files if f.suffix not in LANGUAGE_OF]
    if unknown:
        raise DataError(f"{folder / unknown[0]}: no language has this ending; known: {', '.join(LANGUAGE_OF)}")
    return tuple(Source(f.name, LANGUAGE_OF[f.suffix], f.read_text()) for f in files)


def _from_row(line: str, where: str) -> Problem:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(n), str) and row[n] for n in ("id", "statement")):
        raise DataError(f"{where}: an object with the texts `id` and `statement`, and `submissions`, is needed.")
    if not isinstance(row.get("generator"), str | None):
        raise DataError(f"{where}: `generator` must be a text or be left out.")
    rows = {name: _listed(row.get(name, []), f"{where}: `{name}`") for name in ("submissions", "wrong")}
    return Problem(row["id"], row["statement"], rows["submissions"], row.get("generator"), rows["wrong"], **_options(row, where))


def _listed(rows: object, where: str) -> tuple[Source, ...]:
    if not isinstance(rows, Sequence) or not all(
        isinstance(r, dict) and isinstance(r.get("language"), str) and isinstance(r.get("source"), str) for r in rows
    ):
        raise DataError(f"{where} must be a list of {{language, source}}.")
    unknown = [r["language"] for r in rows if r["language"] not in LANGUAGE_OF.values()]
    if unknown:
        raise DataError(f"{where}: the language {unknown[0]!r} is not known. Allowed: {', '.join(LANGUAGE_OF.values())}.")
    return tuple(Source(str(r.get("name", i)), r["language"], r["source"]) for i, r in enumerate(rows))


def _options(row: Mapping[str, object], where: str) -> dict[str, object]:
    given = {name: row[name] for name in _OPTIONS if row.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, _OPTIONS[name]) or value <= 0:
            raise DataError(f"{where}: {name} is {value!r}; it must be a positive number.")
    return given
