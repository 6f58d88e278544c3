"""Shortest rejection sampling (report 2.4): of n sampled answers the shortest correct one is what fine-tuning learns."""

from k15.long2short.answers import Answer, Answered


def shortest_correct(group: Answered) -> Answer | None:
    """The correct answer with the fewest tokens that ended by itself (the first of several); None where there is none."""
    return min((a for a in group.answers if a.correct and a.whole), key=lambda a: a.length, default=None)
