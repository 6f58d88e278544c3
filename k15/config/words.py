"""The words of a command line before Hydra reads them, and what a value of a wrong type should have been. Torch-free."""

import os
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass

FREE_TEXT = (
    "reward.template",
    "template",
    "prompt",
)  # settings whose usual values are no words of Hydra's grammar: \\boxed{ANSWER}, #ANSWER
_WANTED = {
    "Integer": "a whole number", "Float": "a number", "bool": "true or false", "ListConfig": "a list, such as [a,b]",
}  # fmt: skip
_TYPE_ERRORS = (
    re.compile(r"could not be converted to (?P<type>Integer|Float)"),
    re.compile(r"is not a valid (?P<type>bool)"),
    re.compile(r"is not a (?P<type>ListConfig)"),
)
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_PART = re.compile(rf"\s*(?:{_QUOTED.pattern})\s*(?=,|$)|[^,]+")


def quoted(words: Sequence[str]) -> list[str]:
    """The words, with values in the quotes that Hydra wants: those of FREE_TEXT around braces, backslashes and the like, others
    where its grammar does not take them (`path=/home/josé`, `paths=[train (1).jsonl]`)."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if key.lstrip("+") not in FREE_TEXT:
            found.append(word if not equals or word.startswith("-") or parses(word) else f"{key}={_quoted_parts(value)}")
            continue
        plain = not equals or re.fullmatch(r"'.*'|\".*\"|[\w.-]*", value, re.DOTALL)
        found.append(word if plain else f"{key}={_in_quotes(value)}")
    return found


def parses(word: str) -> bool:
    """Is it an override to Hydra?"""
    from hydra.core.override_parser.overrides_parser import OverridesParser  # here: words that only ask need no Hydra
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _quoted_parts(value: str) -> str:
    """`value` with each part between its commas in quotes, in the brackets that it has. One with braces is left: those are
    interpolations and dictionaries, or places for a folder (`k15 launch pipeline`)."""
    listed = value.startswith("[") and value.endswith("]")
    parts = [part.strip() for part in _PART.findall(value[1:-1] if listed else value)]
    if "{" in value or any(part.count(a) != part.count(b) for part in parts for a, b in ("[]", "()")):
        return value
    parts = [os.path.expanduser(p) if p.startswith("~/") else p for p in parts]  # the shell does so for whole words only
    said = ",".join(p if _QUOTED.fullmatch(p) else _in_quotes(p) for p in parts)
    return f"[{said}]" if listed else said


def _in_quotes(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def wrong_type(root: type, error: str, overrides: Sequence[str]) -> str | None:
    """The message for a value of a wrong type: the value, what is wanted, the default. None where the error is another."""
    key = re.search(r"Error merging override \+*([\w.]+)=", error)
    if key is not None and "is not Optional" in error:
        default = _default(root, key[1])
        remedy = f"Its default is {key[1]}={default}." if default is not None else f"Leave {key[1]} out for its default."
        return f"{key[1]} is null, but it must have a value. {remedy}"
    found = next((m for p in _TYPE_ERRORS if (m := p.search(error)) is not None), None)
    if key is None or found is None:
        return None
    value = next((o.partition("=")[2] for o in reversed(overrides) if o.lstrip("+").startswith(f"{key[1]}=")), "")
    default = _default(root, key[1])
    example = f" Its default is {key[1]}={default}." if default is not None else ""
    return f"{key[1]} is {value!r}, but it must be {_WANTED[found['type']]}.{example}"


def _default(root: type, key: str) -> str | None:
    """The default at a dotted key as one would type it; None where there is none to show."""
    here: object = root
    for part in key.split("."):
        table = {f.name: f for f in fields(here)} if is_dataclass(here) else {}  # type: ignore[arg-type]
        if part not in table:
            return None
        field = table[part]
        here = field.type if is_dataclass(field.type) else field.default
        here = field.default_factory() if here is MISSING and field.default_factory is not MISSING else here
    if here is None or here is MISSING or is_dataclass(here):
        return None
    return str(here).lower() if isinstance(here, bool) else str(here).replace(" ", "").replace("'", "")
