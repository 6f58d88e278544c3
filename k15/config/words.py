"""The words of a command line before Hydra reads them, and what a value of a wrong type should have been. Torch-free."""

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


def quoted(words: Sequence[str]) -> list[str]:
    """The words, those of FREE_TEXT in the quotes that Hydra wants around braces, backslashes and the like."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        plain = not equals or key.lstrip("+") not in FREE_TEXT or re.fullmatch(r"'.*'|\".*\"|[\w.-]*", value, re.DOTALL)
        escaped = value.replace("'", "\\'")
        found.append(word if plain else f"{key}='{escaped}'")
    return found


def wrong_type(root: type, error: str, overrides: Sequence[str]) -> str | None:
    """The message for a value of a wrong type: the value, what is wanted, the default. None where the error is another."""
    key = re.search(r"Error merging override \+*([\w.]+)=", error)
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
