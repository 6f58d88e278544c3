"""Puzzles whose answer is hard at a glance and easy in steps: a search, a stack, and a chain of look-ups.

    13:11?5?3=      countdown: which of the numbers are taken away, the rest added, so that the total is 13?
                    11+5=16+3=19;3:11+5=16-3=13#3
    (<>(<=          brackets: what closes it, the next one first, with 1 for `)` and 2 for `>`?
                    (=1,<=21,>=1,(=11,<=211#211
    59,15,38,13:19= path: edges, then start and goal; which is the way? Backwards there is but one edge to take
                    9=59,5=159#159

A puzzle is a tuple of numbers, with four functions each: draw them, their text, one name for all that are the same problem,
and the worked blocks (`k15.data.families` has the table). An answer is a whole number that no other solution shares, so that
the rule check judges it. No worked solution repeats itself so often that it would be stopped as a repetition.
"""

import random
from collections.abc import Iterator
from itertools import pairwise, product

from k15.data.worked import Block, Step

Numbers = tuple[int, ...]
_SIGNS = {1: "(", 2: "<", -1: ")", -2: ">"}  # of brackets; the closing one is the opening one's negative


def draw_countdown(level: int, rng: random.Random) -> Numbers:
    """(target, first, the others): `level` + 1 one-digit numbers after a first one that keeps all totals from going below 0."""
    while True:
        others = [rng.randint(1, 9) for _ in range(level + 1)]
        first = rng.randint(sum(others), sum(others) + 9)
        totals = [total for total, _, _ in _trials((0, first, *others))]
        target = rng.choice(totals[1:])  # something is taken away
        if totals.count(target) == 1:
            return (target, first, *others)


def _trials(numbers: Numbers) -> Iterator[tuple[int, str, str]]:
    """(total, the trial as written up to it, the numbers taken away or 0), the last sign changing first."""
    _, first, *others = numbers
    for signs in product((1, -1), repeat=len(others)):
        total, written = first, str(first)
        for position, (sign, number) in enumerate(zip(signs, others, strict=True)):
            written += (f"={total}" if position else "") + f"{sign * number:+d}"
            total += sign * number
        yield total, written, "".join(str(n) for s, n in zip(signs, others, strict=True) if s < 0) or "0"


def text_countdown(numbers: Numbers) -> str:
    return f"{numbers[0]}:" + "?".join(map(str, numbers[1:]))


def name_countdown(numbers: Numbers) -> str:
    target, first, *others = numbers
    return text_countdown((target, first, *sorted(others)))


def work_countdown(numbers: Numbers) -> list[Block]:
    """A trial is a block, titled by what it takes away; the last one reaches the target."""
    blocks = []
    for total, written, taken in _trials(numbers):
        blocks.append(Block(taken, (Step(written, total),), int(taken)))
        if total == numbers[0]:
            return blocks
    raise AssertionError("a countdown problem has a solution by construction")


def draw_brackets(level: int, rng: random.Random) -> Numbers:
    """Up to 4 + 2 `level` brackets, all of which fit; 2 to 4 are left open."""
    while True:
        found: list[int] = []
        open_: list[int] = []
        for _ in range(rng.choice((3, 4)) + 2 * level):
            if open_ and rng.random() < 0.5:
                found.append(-open_.pop())
            else:
                kind = rng.choice((1, 2))
                open_.append(3 - kind if open_[-3:] == [kind] * 3 else kind)  # four alike would be a repetition
                found.append(open_[-1])
        text = text_brackets(tuple(found))
        if 2 <= len(open_) <= 4 and "()" * 4 not in text and "<>" * 4 not in text:  # the work would repeat itself
            return tuple(found)


def text_brackets(numbers: Numbers) -> str:
    return "".join(_SIGNS[n] for n in numbers)


def work_brackets(numbers: Numbers) -> list[Block]:
    """After each bracket, what is to be closed: the next one first."""
    open_, steps = "", []
    for n in numbers:
        open_ = f"{n}{open_}" if n > 0 else open_[1:]
        steps.append(Step(_SIGNS[n], int(open_ or "0")))
    return [Block(text_brackets(numbers), tuple(steps), int(open_))]


def draw_path(level: int, rng: random.Random) -> Numbers:
    """(10 start + goal, edges 10 from + to): `level` + 2 edges on the way and three beside it; one edge leads into a node."""
    hops = level + 2
    nodes = rng.sample(range(1, 10), hops + 4)
    way, beside = nodes[: hops + 1], nodes[hops + 1 :]
    edges = [10 * a + b for a, b in pairwise(way)]
    for count, node in enumerate(beside):
        edges.append(10 * rng.choice(way[:-1] + beside[:count]) + node)
    rng.shuffle(edges)
    return (10 * way[0] + way[-1], *edges)


def text_path(numbers: Numbers) -> str:
    return ",".join(map(str, numbers[1:])) + f":{numbers[0]}"


def name_path(numbers: Numbers) -> str:
    return text_path((numbers[0], *sorted(numbers[1:])))


def work_path(numbers: Numbers) -> list[Block]:
    """From the goal backwards: a step finds the node before, and writes the way from there."""
    start, goal = divmod(numbers[0], 10)
    before = {edge % 10: edge // 10 for edge in numbers[1:]}
    node, way, steps = goal, str(goal), []
    while node != start:
        way = f"{before[node]}{way}"
        steps.append(Step(str(node), int(way)))
        node = before[node]
    return [Block(text_path(numbers), tuple(steps), int(way))]
