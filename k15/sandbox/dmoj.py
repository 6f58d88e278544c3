"""The DMOJ judge as a separate program, for problems in its own format: a folder with `init.yml` and its data.

    POST /judge {"kind": "dmoj", "language": "cpp", "source": "...", "problem": {"init.yml": "...", "data.zip": {"base64": ""}}}

DMOJ (AGPL-3.0, PyPI) is no part of k15 and is never imported by it: `k15 sandbox build dmoj` puts it into a root filesystem of
the user's, and its own command line runs there, in bubblewrap, as any job. What differs is the system-call filter, which lets
it trace its children, as its own sandbox does. Problems may bring checkers and graders in Python: they run inside as well.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as resources
from io import BytesIO
from pathlib import Path
from typing import Any

from k15.errors import ConfigError, DataError, SandboxError, unknown_name
from k15.sandbox.backends.wire import WORKDIR
from k15.sandbox.job import Backend, Job, Limits, Outcome
from k15.sandbox.languages import language
from k15.sandbox.wire import MAX_MEMORY_MB, CaseResult, CompileResult, JudgeResult, Verdict, record, sent_bytes

IMAGE = "dmoj"
VERSION = "4.1.0"
EXECUTORS = {"cpp": ("CPP17", "g++17: /usr/bin/g++", "main.cpp"), "python": ("PY3", "python3: /usr/bin/python3", "main.py")}
MAX_GRADING_S = 600.0
_VERDICTS: dict[str, Verdict] = {"AC": "AC", "WA": "WA", "RTE": "RE", "IR": "RE", "TLE": "TLE", "MLE": "MLE", "OLE": "OLE"}
_CASE = re.compile(r" *Test case +(\d+) ([A-Z]+|--) +(?:\[([\d.]+)s \(([\d.]+)s wall\) \| (\d+)kb \|[^\]]*\] ?(.*))?")
_FAILED, _DONE, _SHOWN = "Failed compiling submission!", "Done grading ", 2000
_CONFIG = "id: k15\nkey: none\nproblem_storage_globs: [{0}/problems/*]\ntempdir: {0}/dirs\nruntime: {{{1}}}\n"
_COMMAND = (
    "mkdir dirs && printf 'submit problem %s %s -tl %s -ml %d\\nquit\\n' | PYTHONPATH=site python3 -c "
    "'import sys; sys.argv[0] = \"dmoj-cli\"; from dmoj.cli import main; main()' -c config.yml --no-ansi -e %s --skip-self-test"
)
_BUILD = (
    "mkdir site && python3 -m tarfile -e dmoj.tar.gz && cd dmoj-*/ && DMOJ_REDIST=1 python3 setup.py -q build -b ../out >&2 "
    "&& cd .. && cp -r out/lib*/dmoj site && python3 -m tarfile -c site.tar site"
)


@dataclass(frozen=True, slots=True)
class DmojSubmission:
    """`problem`: name -> content of the files of a DMOJ problem, `init.yml` among them. Time and memory are of each case.

    Raises ConfigError for a language without an executor here and for anything out of bounds.
    """

    language: str
    source: str
    problem: Mapping[str, bytes] = field(default_factory=dict)
    time_s: float = 2.0
    memory_mb: int = 256

    def __post_init__(self) -> None:
        if language(self.language).name not in EXECUTORS:
            raise unknown_name("a language of the DMOJ judge", self.language, EXECUTORS)
        if "init.yml" not in self.problem:
            raise ConfigError(f"A DMOJ problem needs its init.yml; it has {', '.join(sorted(self.problem)) or 'no files'}.")
        for name in self.problem:
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name.split("/"):
                raise ConfigError(
                    f"{name!r} cannot be a file of a problem: letters, digits and ._- in relative paths without '..'."
                )
        for name, value, least, most in (("time_s", self.time_s, 0.01, 60.0), ("memory_mb", self.memory_mb, 16, MAX_MEMORY_MB)):
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}; allowed are {least} to {most}.")


def dmoj_from(body: Mapping[str, Any]) -> DmojSubmission:
    """From JSON, without its `kind`. Raises ConfigError."""
    values = dict(body)
    problem = values.get("problem", {})
    if not isinstance(problem, dict):
        raise ConfigError("`problem` must be an object: file name -> content.")
    values["problem"] = {name: sent_bytes(f"problem[{name}]", content) for name, content in problem.items()}
    return record(DmojSubmission, "the DMOJ submission", values)


def dmoj_json(submission: DmojSubmission) -> dict[str, Any]:
    """The body of a `/judge` request."""
    problem = {name: {"base64": b64encode(content).decode()} for name, content in submission.problem.items()}
    return {
        "kind": "dmoj", "language": submission.language, "source": submission.source, "problem": problem,
        "time_s": submission.time_s, "memory_mb": submission.memory_mb,
    }  # fmt: skip


def judge_dmoj(backend: Backend, submission: DmojSubmission) -> JudgeResult:
    """The verdict. `backend`: one that allows tracing (`Bubblewrap(tracing=True)`).

    Raises DataError where DMOJ cannot use the problem or grading takes longer than `MAX_GRADING_S`, SandboxError where it failed.
    """
    executor, runtime, name = EXECUTORS[language(submission.language).name]
    memory_kb = submission.memory_mb << 10
    job = Job(
        ("sh", "-c", _COMMAND % (executor, name, submission.time_s, memory_kb, executor)), IMAGE,
        files={
            name: submission.source.encode(), "config.yml": _CONFIG.format(WORKDIR, runtime).encode(),
            "site/sitecustomize.py": _shim(),
            **{f"problems/problem/{path}": content for path, content in submission.problem.items()},
        },
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"},
        limits=Limits(
            wall_s=MAX_GRADING_S, cpu_s=MAX_GRADING_S, memory_mb=submission.memory_mb + 1024, processes=128,
            output_bytes=4 << 20, disk_mb=256 + 4 * sum(map(len, submission.problem.values())) // (1 << 20),
        ),
    )  # fmt: skip
    return parsed(backend.run(job))


def parsed(outcome: Outcome) -> JudgeResult:
    """DMOJ's report of one submission as ours. Raises DataError or SandboxError."""
    if outcome.error is not None:
        raise SandboxError(f"the sandbox of the DMOJ judge failed: {outcome.error}")
    if outcome.limit is not None:
        raise DataError(f"Grading went over its limit of {outcome.limit}; send fewer or smaller cases.")
    text, said = outcome.stdout.decode(errors="replace"), outcome.stderr.decode(errors="replace")[-_SHOWN:]
    report = text.partition("Start grading ")[2]
    if not report:
        raise DataError(f"DMOJ does not take the problem: {text[-_SHOWN:]}{said}")
    lines = report.splitlines()[1:]
    if lines and lines[0].endswith(_FAILED):  # before any case: what follows is the compiler's, that is the program's, text
        log = "\n".join(line for line in lines[1:] if not line.startswith(_DONE))[:_SHOWN]
        return JudgeResult("CE", 0, 0, (), CompileResult(False, 0.0, 0.0, log))
    tests: list[CaseResult] = []
    total = 0
    for match in filter(None, map(_CASE.fullmatch, lines)):
        total += 1
        number, code, cpu, wall, kb, detail = match.groups()
        if int(number) != total or (code not in _VERDICTS and code != "--"):
            raise SandboxError(f"the DMOJ judge failed in case {number}: {code} {said}")
        if code != "--":  # one that an earlier failure of its batch made needless
            tests.append(CaseResult(_VERDICTS[code], float(cpu), float(wall), int(kb) / 1024, detail.strip()))
    if not tests or not any(line.startswith(_DONE) for line in lines):
        raise DataError(f"DMOJ graded nothing; is init.yml right? {said}")
    worst = next((t.verdict for t in tests if t.verdict != "AC"), "AC")
    return JudgeResult(worst, sum(t.verdict == "AC" for t in tests), total, tuple(tests))


def install(backend: Backend, rootfs: Path) -> bool:
    """Put DMOJ into the image at `rootfs`: fetched by pip, compiled inside the sandbox. False where it is there already.

    Raises SandboxError with what pip or the compiler said.
    """
    place = rootfs / "usr/lib/python3/dist-packages"
    if (place / "dmoj").is_dir():
        return False
    with tempfile.TemporaryDirectory(dir=rootfs.parent) as folder:
        for package in (f"dmoj=={VERSION}", "pylru"):
            fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, package]
            done = subprocess.run(fetch, capture_output=True, text=True)
            if done.returncode:
                raise SandboxError(f"pip cannot fetch {package}: {done.stderr.strip()[-_SHOWN:]}")
        source, pylru = next(Path(folder).glob("dmoj-*.tar.gz")), next(Path(folder).glob("pylru-*.whl"))
        job = Job(
            ("sh", "-c", _BUILD), IMAGE, files={"dmoj.tar.gz": source.read_bytes()}, keep=("site.tar",),
            env={"PATH": "/usr/bin:/bin", "HOME": "/tmp"},
            limits=Limits(wall_s=600.0, cpu_s=400.0, memory_mb=2048, disk_mb=256, processes=128),
        )  # fmt: skip
        done = backend.run(job)
        if done.error is not None or done.exit_code != 0 or "site.tar" not in done.kept:
            raise SandboxError(f"DMOJ cannot be compiled: {done.error or done.limit or done.stderr.decode()[-_SHOWN:]}")
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(pylru), folder], check=True)
        (Path(folder) / "pylru.py").replace(place / "pylru.py")
        with tarfile.open(fileobj=BytesIO(done.kept["site.tar"])) as built:
            built.extractall(folder, filter="data")
        (Path(folder) / "site/dmoj").replace(place / "dmoj")
    return True


@cache
def _shim() -> bytes:
    return (resources("k15.sandbox") / "support" / "dmoj" / "sitecustomize.py").read_bytes()
