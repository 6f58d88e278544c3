"""How many rows are left after each stage, what took the others, and examples: as JSON, as a page, and on the terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from k15.curate.rows import Row
from k15.log.columns import markdown

EXAMPLES = 5


@dataclass
class Stage:
    """One filter. `dropped`: how many; `reasons` by kind; `examples` of (where, reason, beginning of the text)."""

    name: str
    rule: str
    left: int = 0
    dropped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)


class Funnel:
    """Filled stage by stage, in the order in which they run."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def add(self, name: str, rule: str, left: int, dropped: Sequence[tuple[str, str, str, str]]) -> None:
        """`dropped`: (kind of reason, where, reason, text) of each row that this stage took."""
        kinds = Counter(kind for kind, *_ in dropped)
        examples = [{"where": where, "reason": reason, "text": " ".join(text.split())[:160]}
                    for _, where, reason, text in _spread(dropped)]  # fmt: skip
        self.stages.append(Stage(name, rule, left, len(dropped), dict(sorted(kinds.items())), examples))

    def as_dict(self) -> list[dict[str, object]]:
        return [asdict(stage) for stage in self.stages]

    def table(self) -> str:
        """One line a stage, for the terminal."""
        return "\n".join(
            f"{s.name:14s} {s.left:8,d} left  {f'-{s.dropped:,d}' if s.dropped else '':>8s}  "
            + ", ".join(f"{n} {kind}" for kind, n in s.reasons.items())
            for s in self.stages
        )

    def markdown(self, tags: dict[str, int]) -> str:
        """The page `funnel.md`: table, tags of what is left, and examples of each stage."""
        stages = [(s.name, s.rule, f"{s.dropped:,d}", f"{s.left:,d}") for s in self.stages]
        counts = [(tag, f"{n:,d}") for tag, n in sorted(tags.items(), key=lambda pair: (-pair[1], pair[0]))]
        lines = ["# Funnel", "", markdown([("stage", "rule", "dropped", "left"), *stages])]
        lines += ["", "## Tags of what is left", "", markdown([("tag", "prompts"), *counts])]
        for s in self.stages:
            if s.examples:
                lines += ["", f"## {s.name}", "", *(f"- {e['where']}: {e['reason']}. `{_quoted(e['text'])}`" for e in s.examples)]
        return "\n".join(lines) + "\n"


def _spread(dropped: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Up to EXAMPLES of them, of as many kinds as there are."""
    by_kind: dict[str, list[tuple[str, str, str, str]]] = {}
    for item in dropped:
        by_kind.setdefault(item[0], []).append(item)
    found: list[tuple[str, str, str, str]] = []
    while len(found) < min(EXAMPLES, len(dropped)):
        for items in by_kind.values():
            if items and len(found) < EXAMPLES:
                found.append(items.pop(0))
    return found


def _quoted(text: str) -> str:
    """Of one line, as `add` makes it, for between two backticks."""
    return text.replace("`", "'")


def lost(kind: str, row: Row, reason: str) -> tuple[str, str, str, str]:
    """A row that left, as `Funnel.add` wants it."""
    return kind, row.where, reason, row.text
