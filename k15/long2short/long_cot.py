"""Choice of long chains of thought for the warm-up before RL (report 2.2): right answers that show how they were found.

The report names four traits and no measure for them; these rules are ours. A trait is shown where one of its phrases stands in
the text, as whole words, whatever the case:

    planning     lays out steps before working; looked for in the first third of the text
    evaluation   checks a result or weighs a step
    reflection   notices that something is wrong, and reconsiders
    exploration  takes up another way

Phrases are cheap to write without meaning them, so correctness comes first: only right answers that ended by themselves count.
"""

import re
from collections import Counter

from k15.long2short.answers import Answer, Answered

TRAITS = {
    "planning": (
        "plan", "strategy", "step 1", "first(?:ly)?, (?:i|we|let)", "the (?:idea|approach) is",
        "(?:let me|let's|i will|we will|i'll|we'll) (?:start|begin|break)",
        "(?:i|we) need to (?:find|know|compute|show|determine)",
    ),
    "evaluation": (
        "(?:double-)?check(?:ing)?", "verify(?:ing)?", "verif(?:ies|ied)", "confirm", "makes sense", "sanity",
        "plug(?:ging)? (?:this |it )?back", "substitut(?:e|ing) back", "is (?:this|that|it) (?:right|correct|true|reasonable)",
    ),
    "reflection": (
        "wait", "hold on", "hmm", "mistake", "that(?:'s| is| was) (?:wrong|not right|incorrect)", "on second thought",
        "let me (?:reconsider|rethink|re-?examine|redo|correct)", "i was wrong",
    ),
    "exploration": (
        "alternatively", "(?:another|a different) (?:way|approach|method|idea|option)", "what if", "suppose instead",
        "instead,? (?:i|we|let)", "or (?:i|we) (?:could|can)", "try(?:ing)? (?:another|a different|something else)",
    ),
}  # fmt: skip
_PATTERNS = {name: re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE) for name, phrases in TRAITS.items()}


def traits(text: str) -> frozenset[str]:
    """The names of the traits that `text` shows."""
    early = text[: len(text) // 3]
    return frozenset(n for n, p in _PATTERNS.items() if p.search(early if n == "planning" else text))


def select(group: Answered, min_traits: int, per_prompt: int) -> list[tuple[Answer, frozenset[str]]]:
    """At most `per_prompt` right, whole answers with at least `min_traits` traits, each with them: most traits first, then in
    the order of sampling. A text that was sampled twice counts once."""
    right = {a.text: a for a in reversed(group.answers) if a.correct and a.whole}
    shown = [(a, traits(a.text)) for a in group.answers if right.get(a.text) is a]
    good = [(a, t) for a, t in shown if len(t) >= min_traits]
    return sorted(good, key=lambda item: -len(item[1]))[:per_prompt]


def frequencies(shown: Counter[frozenset[str]]) -> dict[str, float]:
    """The share of answers that show each trait; `shown`: how many answers show which traits."""
    return {name: sum(n for t, n in shown.items() if name in t) / max(1, shown.total()) for name in TRAITS}
