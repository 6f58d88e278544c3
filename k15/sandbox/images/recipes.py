"""What is in each root filesystem: Debian packages and the links that their installers would have made."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property

_SYSTEM = ("base-files", "base-passwd", "bash", "coreutils", "dash", "diffutils", "findutils", "grep", "libc-bin", "sed", "gawk")
_PYTHON = ("python3",)
_LINKS = {"usr/bin/awk": "gawk", "usr/bin/sh": "dash"}


@dataclass(frozen=True)
class Recipe:
    """An image: packages (with what they depend on) and links (path -> target). `about`: one line for users."""

    about: str
    packages: tuple[str, ...]
    links: dict[str, str] = field(default_factory=dict)
    version: int = 1  # raise to have everybody build it again

    @cached_property
    def digest(self) -> str:
        """Names the image's directory: a changed recipe is another image."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def _recipe(about: str, *packages: str, links: dict[str, str] | None = None) -> Recipe:
    return Recipe(about, tuple(sorted({*_SYSTEM, *packages})), {**_LINKS, **(links or {})})


_CPP = ("g++", "make")
_JAVA = ("openjdk-17-jdk-headless",)
_JAVA_LINKS = {f"usr/bin/{tool}": f"../lib/jvm/java-17-openjdk-amd64/bin/{tool}" for tool in ("java", "javac", "jar")}
_JS = ("nodejs",)
_TS = ("nodejs", "node-typescript", "node-undici-types")
_PHP = ("php-cli",)
_PHP_LINKS = {"usr/bin/php": "php8.2"}
_DMOJ = ("python3-dev", "libseccomp-dev", "python3-setuptools", "python3-pkg-resources", "python3-yaml", "python3-pygments",
         "python3-termcolor", "python3-setproctitle", "python3-watchdog")  # fmt: skip
_CSHARP = ("mono-mcs", "mono-runtime", "libmono-system-core4.0-cil", "libmono-system-numerics4.0-cil")

RECIPES: dict[str, Recipe] = {
    "base": _recipe("Python 3 and a shell", *_PYTHON),
    "cpp": _recipe("C and C++ (g++)", *_CPP),
    "java": _recipe("Java 17", *_JAVA, links=_JAVA_LINKS),
    "js": _recipe("JavaScript (Node.js)", *_JS),
    "ts": _recipe("TypeScript (Node.js and tsc)", *_TS),
    "php": _recipe("PHP", *_PHP, links=_PHP_LINKS),
    "csharp": _recipe("C# (Mono)", *_CSHARP),
    "jupyter": _recipe("a Jupyter kernel for Python", *_PYTHON, "python3-ipykernel", "python3-jupyter-client"),
    "dmoj": _recipe("the DMOJ judge (AGPL-3.0; added after the packages)", *_PYTHON, *_CPP, *_DMOJ),
    "all": _recipe(
        "every language above in one", *_PYTHON, *_CPP, *_JAVA, *_JS, *_TS, *_PHP, *_CSHARP, links={**_JAVA_LINKS, **_PHP_LINKS}
    ),
}
ALIASES = {"python": "base", "bash": "base"}
