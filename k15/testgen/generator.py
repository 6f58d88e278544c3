"""Makes a problem's inputs: its generator runs in the sandbox and nowhere else, since it is a program that a model wrote.

The generator is a Python text that defines `generate(case, cases, io)`: it writes the input of case 0 <= case < cases with
`io.input_writeln(...)`, `io` a `cyaron.IO`, and draws from `random` or CYaRon. Case i's seed is derived from the run's
seed, the problem's id and i, so the same generator always makes the same inputs.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from importlib.util import find_spec
from pathlib import Path

from k15.errors import ConfigError, SandboxError
from k15.sandbox.client import SandboxClient
from k15.sandbox.job import Job, Limits
from k15.testgen.settings import TestgenSettings

SHIPPED = ("cyaron", "xeger")  # pure Python; what else CYaRon imports it does without
_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MadeCase:
    """An input, or why there is none."""

    index: int
    text: str | None
    error: str = ""


def case_seed(seed: int, problem_id: str, case: int) -> int:
    """63 bits; independent of how many cases there are."""
    name = f"{seed}/{problem_id}/{case}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1


def make_cases(client: SandboxClient, problem_id: str, generator: str, settings: TestgenSettings, request: str) -> list[MadeCase]:
    """The inputs of all cases, in order, in one sandbox. `request`: the id of the request. Raises SandboxError."""
    count = settings.cases
    names = [(f"{i:03d}.in", f"{i:03d}.err") for i in range(count)]
    outcome = client.run(
        Job(
            ("python3", "driver.py"), files=_files(problem_id, generator, settings), env=_ENV,
            keep=tuple(n for pair in names for n in pair), limits=_limits(settings),
        ),
        request,
    )  # fmt: skip
    if outcome.error is not None:
        raise SandboxError(f"The sandbox failed while the generator of {problem_id} ran: {outcome.error}")
    stopped = f"limit of {outcome.limit}" if outcome.limit is not None else outcome.stderr.decode(errors="replace")[-300:]
    cases = []
    for i, (made, failed) in enumerate(names):
        if made in outcome.kept:
            cases.append(_checked(i, outcome.kept[made], settings))
        else:
            said = outcome.kept[failed].decode(errors="replace") if failed in outcome.kept else f"not reached: {stopped}"
            cases.append(MadeCase(i, None, said.strip()))
    return cases


def _checked(index: int, content: bytes, settings: TestgenSettings) -> MadeCase:
    if len(content) > settings.max_input_kb << 10:
        return MadeCase(index, None, f"the input is longer than {settings.max_input_kb} KB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return MadeCase(index, None, "the input is not UTF-8")
    return MadeCase(index, text) if text.strip() else MadeCase(index, None, "the input is empty")


def _files(problem_id: str, generator: str, settings: TestgenSettings) -> dict[str, bytes]:
    plan = {
        "seeds": [case_seed(settings.seed, problem_id, i) for i in range(settings.cases)],
        "cpu_s": max(1, round(settings.case_time_s)), "memory_mb": settings.case_memory_mb,
        "max_bytes": settings.max_input_kb << 10,
    }  # fmt: skip
    driver = (resources("k15.testgen") / "driver.py").read_bytes()
    return {
        "driver.py": driver, "generator.py": generator.encode(), "plan.json": json.dumps(plan).encode(),
        "cyaron.zip": cyaron_zip(),
    }  # fmt: skip


def _limits(settings: TestgenSettings) -> Limits:
    cpu_s = min(600.0, settings.case_time_s * settings.cases)
    disk_mb = min(1024, 32 + (settings.max_input_kb * settings.cases >> 10))
    return Limits(
        wall_s=min(600.0, 4 * cpu_s + 20), cpu_s=cpu_s, memory_mb=settings.case_memory_mb + 128, processes=16,
        output_bytes=1 << 16, disk_mb=disk_mb, files=4 * settings.cases + 64,
    )  # fmt: skip


@cache
def cyaron_zip() -> bytes:
    """The installed CYaRon as an importable archive, the same bytes every time. Raises ConfigError where it is not installed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in SHIPPED:
            spec = find_spec(package)
            if spec is None or spec.origin is None:
                raise ConfigError(f"The Python package {package} is not installed. Install it with: pip install cyaron==0.7.0")
            root = Path(spec.origin).parent
            for path in sorted(root.rglob("*.py")):
                inside = path.relative_to(root)
                if "tests" not in inside.parts:
                    archive.writestr(zipfile.ZipInfo(f"{package}/{inside.as_posix()}"), path.read_bytes())
    return content.getvalue()
