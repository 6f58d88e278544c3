"""Compiles the native part (process 1 of every sandbox) once, into the cache. Its source is `native/`."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from k15.errors import SandboxError
from k15.sandbox.images.store import cache_root

_SOURCE = Path(__file__).parent / "native"
_FLAGS = ("-O2", "-Wall")
_INIT = ("init.c", "disk.c", "survey.c")
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "init": ((*_INIT, "main.c"), ("-static",)),
    "wait": ((*_INIT, "enter.c", "wait.c"), ("-static",)),
    "launch": (("launch.c",), ("-static",)),
    "warm.so": ((*_INIT, "enter.c", "warm.c"), ("-shared", "-fPIC")),
}


def binary(name: str) -> Path:
    """The path of a compiled part: "init", "wait" (inside, static: they run in every image), "launch" (outside), "warm.so".

    `K15_SANDBOX_BIN` names a directory of ready-made ones, for machines without a C compiler. Raises SandboxError.
    """
    ready = os.environ.get("K15_SANDBOX_BIN")
    if ready is not None:
        path = Path(ready) / name
        if not os.access(path, os.X_OK):
            raise SandboxError(f"K15_SANDBOX_BIN is {ready!r}, where there is no program {name!r}; unset it to compile one")
        return path
    sources, flags = PARTS[name]
    parts = sorted([*_SOURCE.glob("*.h"), *(_SOURCE / s for s in sources)])
    digest = hashlib.sha256(repr((flags, os.uname().machine)).encode() + b"".join(p.read_bytes() for p in parts))
    folder = cache_root() / "bin" / digest.hexdigest()[:16]
    path = folder / name
    if not path.exists():
        _compile([_SOURCE / s for s in sources], flags, path)
    return path


def _compile(sources: list[Path], flags: tuple[str, ...], path: Path) -> None:
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        raise SandboxError(
            "the sandbox's init must be compiled once and there is no C compiler; install gcc and libc6-dev (static libc), "
            "or set K15_SANDBOX_BIN to a folder that holds ones built on another machine"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        done = subprocess.run([compiler, *_FLAGS, *flags, "-o", built, *sources], capture_output=True, text=True)
        if done.returncode:
            raise SandboxError(
                f"compiling the sandbox's {path.name} failed (static libc: libc6-dev or glibc-static):\n{done.stderr}"
            )
        built.chmod(0o755)
        built.replace(path)
