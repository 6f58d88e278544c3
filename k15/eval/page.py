"""What the pages of the report share: Jinja with autoescape, the style sheet, and text made visible."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from k15.eval.samples import shorten

_HERE = Path(__file__).parent
# Control characters, those that turn the direction of text, and lone surrogates: shown by number, not obeyed.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def environment() -> Environment:
    """Jinja with autoescape on, the style sheet, and the formatters that the pages use."""
    env = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.globals |= {
        "css": Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        "pc": lambda share: f"{100 * share:.1f}",
        "signed": lambda share: f"{100 * share:+.1f}".replace("-", "−"),
        "visible": visible,
    }
    return env


def visible(text: object) -> str:
    """Text as it can be shown: what cannot be printed as ‹U+001B›, and a very long text cut in the middle."""
    return _UNPRINTABLE.sub(lambda m: f"‹U+{ord(m[0]):04X}›", shorten(str(text)))
