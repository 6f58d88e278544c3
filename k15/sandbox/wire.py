"""What clients ask of the service and what it answers: records, their JSON, and the bounds that every request must keep.

{"language": "cpp", "source": "...", "tests": [{"stdin": "1 2", "expected": "3"}], "time_s": 2, "memory_mb": 256}
{"language": "python", "source": "def f(): ...", "harness": "assert f() == 1"}
-> {"verdict": "WA", "passed": 0, "total": 1, "compile": {...} | null, "tests": [{"verdict": "WA", ...}]}
"""

import dataclasses
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from k15.errors import ConfigError, unknown_name
from k15.sandbox.checker import Checker
from k15.sandbox.job import Job, Limits, Outcome
from k15.sandbox.languages import Program, joined

Verdict = Literal["AC", "CE", "MLE", "TLE", "OLE", "RE", "WA"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
MAX_TIME_S, MAX_MEMORY_MB, MAX_TESTS, MAX_OUTPUT_BYTES = 60.0, 4096, 1000, 64 << 20
MAX_SHOWN_CHARS = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """Standard input and what must come out."""

    stdin: str
    expected: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A program and its tests: either `tests`, or `harness`, code put after the source that ends with an error where it is wrong.

    `time_s` (processor time) and `memory_mb` are for a C++ program; see `languages.Language` for the others. `shown_chars`: how
    much of each test's standard output comes back (what is longer ends with "...").
    Raises ConfigError for anything out of bounds.
    """

    language: str
    source: str
    tests: Sequence[Case] = ()
    harness: str | None = None
    checker: Checker = field(default_factory=Checker)
    time_s: float = 2.0
    memory_mb: int = 256
    output_bytes: int = 1 << 20
    run_all: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    shown_chars: int = 2000

    def __post_init__(self) -> None:
        try:
            self.program()
            "".join(t.stdin + t.expected for t in self.tests).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"A text of the submission is not Unicode: {error}") from error
        if (self.harness is None) == (not self.tests):
            raise ConfigError("A submission needs either `tests` or a `harness`, and not both.")
        if len(self.tests) > MAX_TESTS:
            raise ConfigError(f"A submission has {len(self.tests)} tests; at most {MAX_TESTS} are allowed. Send it in parts.")
        for name, value, least, most in (
            ("time_s", self.time_s, 0.01, MAX_TIME_S),
            ("memory_mb", self.memory_mb, 16, MAX_MEMORY_MB),
            ("output_bytes", self.output_bytes, 1, MAX_OUTPUT_BYTES),
            ("shown_chars", self.shown_chars, 0, MAX_SHOWN_CHARS),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}; allowed are {least} to {most}.")

    def program(self, token: str = "") -> Program:
        """What is compiled and run. With a harness its token (see `languages`) must be given to be printed."""
        source = self.source if self.harness is None else joined(self.language, self.source, self.harness)
        source.encode()
        return Program(self.language, source, {n: t.encode() for n, t in self.files.items()}, token, self.image)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test. `detail`: why it is not AC. `stdout`, `stderr`: their first characters, of stdout `Submission.shown_chars`."""

    verdict: Verdict
    cpu_s: float
    wall_s: float
    memory_mb: float | None
    detail: str = ""
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class CompileResult:
    """`log`: the compiler's messages, shortened."""

    ok: bool
    wall_s: float
    cpu_s: float
    log: str = ""


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """`verdict`: CE, else that of the first test in order that is not AC, else AC. `tests`: those that were run."""

    verdict: Verdict
    passed: int
    total: int
    tests: Sequence[CaseResult]
    compile: CompileResult | None = None

    @property
    def accepted(self) -> bool:
        return self.verdict == "AC"


def submission_from(body: Mapping[str, Any]) -> Submission:
    """From JSON. Raises ConfigError for unknown names and wrong types or values."""
    values = dict(body)
    if "checker" in values:
        values["checker"] = record(Checker, "checker", values["checker"])
    if "tests" in values:
        if not isinstance(values["tests"], list | tuple):
            raise ConfigError("`tests` must be a list of {stdin, expected}.")
        values["tests"] = tuple(record(Case, "tests[]", t) for t in values["tests"])
    return record(Submission, "the submission", values)


def job_from(body: Mapping[str, Any]) -> Job:
    """A `/run` request: the fields of `Job`; bytes are text, or {"base64": "..."}. Raises ConfigError."""
    values = dict(body)
    if not (isinstance(values.get("command"), list) and all(isinstance(w, str) for w in values["command"])):
        raise ConfigError('`command` must be a list of texts, for example ["python3", "main.py"].')
    values["limits"] = record(Limits, "limits", values.get("limits", {}))
    _check_limits(values["limits"])
    values["stdin"] = sent_bytes("stdin", values.get("stdin", ""))
    files, env, keep = values.get("files", {}), values.get("env", {}), values.get("keep", [])
    if not (isinstance(files, dict) and isinstance(env, dict) and isinstance(keep, list)):
        raise ConfigError("`files` and `env` must be objects, `keep` a list.")
    for path in (*files, *keep):
        if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/") or path.strip("./") == "":
            raise ConfigError(f"The path {path!r} must be relative to the working directory, without '..'.")
    if "\0" in "".join([*values["command"], *env, *map(str, env.values()), *files, *keep]):
        raise ConfigError("A word, a path or the environment holds a zero byte.")
    values["files"] = {path: sent_bytes(f"files[{path}]", content) for path, content in files.items()}
    return record(Job, "the job", {**values, "command": tuple(values["command"]), "env": env, "keep": tuple(keep)})


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Bytes as text where they are UTF-8, else {"base64": "..."}."""
    plain = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome)}
    plain["kept"] = {path: _text(content) for path, content in outcome.kept.items()}
    return {**plain, "stdout": _text(outcome.stdout), "stderr": _text(outcome.stderr)}


def outcome_from(body: Mapping[str, Any]) -> Outcome:
    values = dict(body)
    for name in ("stdout", "stderr"):
        values[name] = sent_bytes(name, values[name])
    return Outcome(**{**values, "kept": {p: sent_bytes(p, c) for p, c in values["kept"].items()}})


def job_json(job: Job) -> dict[str, Any]:
    """The body of a `/run` request."""
    return {
        "command": list(job.command), "image": job.image, "stdin": _text(job.stdin), "env": dict(job.env), "keep": list(job.keep),
        "files": {p: _text(c) for p, c in job.files.items()}, "limits": _plain(job.limits),
    }  # fmt: skip


def judge_json(result: JudgeResult) -> dict[str, Any]:
    compiled = _plain(result.compile) if result.compile is not None else None
    return {**_plain(result), "tests": [_plain(test) for test in result.tests], "compile": compiled}


def judge_from(body: Mapping[str, Any]) -> JudgeResult:
    values = dict(body)
    values["tests"] = tuple(CaseResult(**t) for t in values["tests"])
    return JudgeResult(**{**values, "compile": CompileResult(**values["compile"]) if values["compile"] else None})


def submission_json(submission: Submission) -> dict[str, Any]:
    tests = [_plain(test) for test in submission.tests]
    return {**_plain(submission), "tests": tests, "checker": _plain(submission.checker), "files": dict(submission.files)}


def _plain(record: Any) -> dict[str, Any]:
    """The fields of a record with slots, as they are: `asdict` copies all that is in them and takes 20 times as long."""
    return {name: getattr(record, name) for name in record.__slots__}


def record(kind: type, what: str, body: object) -> Any:
    """`kind(**body)` for a flat dataclass: names and plain types checked, a whole number taken where a float is asked."""
    if not isinstance(body, Mapping):
        raise ConfigError(f"{what} must be an object, but is a {type(body).__name__}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name, value in body.items():
        if name not in fields:
            raise unknown_name(f"a field of {what}", name, fields)
        wanted = _PLAIN.get(str(getattr(fields[name].type, "__name__", fields[name].type)))
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            raise ConfigError(f"{name} of {what} is {value!r}; it must be {' or '.join(t.__name__ for t in wanted)}.")
        if isinstance(value, Mapping) and not all(isinstance(v, str | bytes) for v in value.values()):
            raise ConfigError(f"{name} of {what} must hold texts only.")
    missing = [
        n for n, f in fields.items()
        if n not in body and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise ConfigError(f"{what} lacks {', '.join(missing)}. Fields: {', '.join(fields)}.")
    return kind(**body)


_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "str | None": (str, type(None)),
    "Mapping": (dict,),
}  # fmt: skip


def _check_limits(limits: Limits) -> None:
    bounds = {"wall_s": 600, "cpu_s": 600, "memory_mb": MAX_MEMORY_MB, "processes": 512, "output_bytes": MAX_OUTPUT_BYTES,
              "disk_mb": 1024, "files": 1 << 18}  # fmt: skip
    for name, most in bounds.items():
        if not 0 < getattr(limits, name) <= most:
            raise ConfigError(f"limits.{name} is {getattr(limits, name)}; allowed are more than 0 and up to {most}.")


def sent_bytes(name: str, value: object) -> bytes:
    """A text, or {"base64": "..."}, as bytes. Raises ConfigError."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"base64"} and isinstance(value["base64"], str):
        try:
            return b64decode(value["base64"], validate=True)
        except ValueError as error:
            raise ConfigError(f"{name} is not base64: {error}") from error
    raise ConfigError(f'{name} must be a text or {{"base64": "..."}}.')


def _text(content: bytes) -> str | dict[str, str]:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(content).decode()}
