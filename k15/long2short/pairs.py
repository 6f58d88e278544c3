"""Pairs for direct preference optimisation (report 2.4): a short right answer over wrong or much longer right ones."""

from k15.errors import ConfigError
from k15.long2short.answers import Answer, Answered
from k15.long2short.shortest import shortest_correct


def preference_pairs(group: Answered, ratio: float = 1.5) -> list[tuple[Answer, Answer]]:
    """(chosen, rejected): chosen is the shortest correct answer; rejected are the longer wrong ones, and the correct ones of at
    least `ratio` times its length, in the order of sampling; a text that was sampled twice gives one pair, and one of white space
    only none (`k15 dpo` takes none).

    Empty where nothing is correct. Raises ConfigError for a ratio that is not above 1.
    """
    if not ratio > 1:
        raise ConfigError(f"ratio is {ratio}; it must be above 1, or an answer would be rejected for its own length.")
    chosen = shortest_correct(group)
    if chosen is None:
        return []
    rejected: dict[str, Answer] = {}
    for answer in group.answers:
        too_long = answer.length >= ratio * chosen.length if answer.correct else answer.length > chosen.length
        if too_long and answer.text.strip() and answer.text != chosen.text:
            rejected.setdefault(answer.text, answer)
    return [(chosen, answer) for answer in rejected.values()]
