"""What must be known of a Java source before it is compiled: its file's name and the class that holds `main`."""

import re

_NOISE = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*[\s\S]*?\*/')
_PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)
_TOKEN = re.compile(r"(?P<open>\{)|(?P<close>\})|\b(?:class|interface|enum|record)\s+(?P<name>\w+)|\bvoid\s+(?P<main>main)\s*\(")
_PUBLIC = re.compile(r"\bpublic\s+(?:(?:final|abstract|sealed|strictfp)\s+)*(?:class|interface|enum|record)\s+(\w+)")
DEFAULT = "Main"


def package(source: str) -> str:
    """The package's name, "" for none."""
    found = _PACKAGE.search(_NOISE.sub(" ", source))
    return found[1] if found else ""


def main_class(source: str, *, last: bool = False) -> str:
    """Full name of the first (or last) top-level class with a `main`; where there is none the first class (its run says so)."""
    plain = _NOISE.sub(" ", source)
    depth, outer, first, found = 0, None, None, None
    for token in _TOKEN.finditer(plain):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["main"] and outer is not None:
            found = outer
            if not last:
                break
        elif token["name"] and depth == 0:
            outer = token["name"]
            first = first if first is not None else outer
    name = next((n for n in (found, first) if n is not None), DEFAULT)
    return f"{package(source)}.{name}" if package(source) else name


def file_name(source: str) -> str:
    """The name that javac demands: that of the public top-level class, else Main.java."""
    plain = _NOISE.sub(" ", source)
    depth = 0
    for part in re.finditer(rf"[{{}}]|{_PUBLIC.pattern}", plain):
        if part.group() in "{}":
            depth += 1 if part.group() == "{" else -1
        elif depth == 0:
            return f"{part[1]}.java"
    return f"{DEFAULT}.java"
