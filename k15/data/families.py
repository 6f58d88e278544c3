"""The families of generated problems: one table of how each is drawn, written, named and worked.

Five are arithmetic, and the default; `countdown`, `brackets` and `path` are puzzles (`k15.data.puzzles`). A problem is a family
and a tuple of numbers, which carry their signs. All answers are whole numbers of at least 0.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from k15.data import puzzles
from k15.data.worked import Block, add, multiply, remainder, subtract

Numbers = puzzles.Numbers


def _number(rng: random.Random, digits: int) -> int:
    """A whole number with exactly `digits` digits; one-digit numbers start at 1."""
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _draw_sum(level: int, rng: random.Random) -> Numbers:
    """Two or three numbers of up to `level` digits; three-digit numbers come in pairs only."""
    terms = 2 if level == 3 else rng.choice((2, 3))
    return tuple(_number(rng, rng.randint(max(1, level - 1), level)) for _ in range(terms))


def _draw_chain(level: int, rng: random.Random) -> Numbers:
    """a+b-c, or a-b+c when the last number is given negative: (a, b, c) with signs, running totals never negative."""
    a, b, c = (_number(rng, rng.randint(1, level)) for _ in range(3))
    if rng.random() < 0.5:
        return (a, b, -min(c, a + b))
    return (max(a, b), -min(a, b), c)


def _draw_times(level: int, rng: random.Random) -> Numbers:
    return (_number(rng, level), rng.randint(2, 9))


def _draw_bracket(level: int, rng: random.Random) -> Numbers:
    """(a+b)*c or (a-b)*c, the latter with b negative."""
    a, b = (_number(rng, rng.randint(1, level)) for _ in range(2))
    factor = rng.randint(2, 9)
    return (a, b, factor) if rng.random() < 0.5 else (max(a, b), -min(a, b), factor)


def _draw_remainder(level: int, rng: random.Random) -> Numbers:
    return (_number(rng, level + 1), rng.randint(2, 5))


def _signed(numbers: Numbers) -> str:
    return "".join(f"{n:+d}" for n in numbers).removeprefix("+")


def _text_bracket(numbers: Numbers) -> str:
    return f"({_signed(numbers[:2])})*{numbers[2]}"


def _text_times(numbers: Numbers) -> str:
    return f"{numbers[0]}*{numbers[1]}"


def _text_remainder(numbers: Numbers) -> str:
    return f"{numbers[0]}%{numbers[1]}"


def _work_chain(numbers: Numbers) -> list[Block]:
    blocks, total = [], numbers[0]
    for n in numbers[1:]:
        blocks.append(add((total, n)) if n >= 0 else subtract(total, -n))
        total += n
    return blocks


def _work_bracket(numbers: Numbers) -> list[Block]:
    inner = _work_chain(numbers[:2])
    return [*inner, multiply(inner[-1].value, numbers[2])]


def _name_sum(numbers: Numbers) -> str:
    return _signed(tuple(sorted(numbers)))


def _name_bracket(numbers: Numbers) -> str:
    return _text_bracket((*sorted(numbers[:2]), numbers[2]))


@dataclass(frozen=True, slots=True)
class Family:
    """`draw(level, rng)`: numbers of a problem, level from 1 to `levels`. `text`: the problem without the final `=`.

    `work`: the worked blocks; the value of the last is the answer. `name`: one name for all that are the same problem.
    """

    levels: int
    draw: Callable[[int, random.Random], Numbers]
    text: Callable[[Numbers], str]
    work: Callable[[Numbers], list[Block]]
    name: Callable[[Numbers], str]


TABLE: dict[str, Family] = {
    "sum": Family(3, _draw_sum, _signed, _work_chain, _name_sum),
    "chain": Family(2, _draw_chain, _signed, _work_chain, _name_sum),
    "times": Family(2, _draw_times, _text_times, lambda n: [multiply(*n)], lambda n: _text_times(tuple(sorted(n)))),
    "bracket": Family(2, _draw_bracket, _text_bracket, _work_bracket, _name_bracket),
    "remainder": Family(2, _draw_remainder, _text_remainder, lambda n: [remainder(*n)], _text_remainder),
}
ARITHMETIC = tuple(TABLE)
TABLE |= {
    "countdown": Family(2, puzzles.draw_countdown, puzzles.text_countdown, puzzles.work_countdown, puzzles.name_countdown),
    "brackets": Family(3, puzzles.draw_brackets, puzzles.text_brackets, puzzles.work_brackets, puzzles.text_brackets),
    "path": Family(3, puzzles.draw_path, puzzles.text_path, puzzles.work_path, puzzles.name_path),
}
FAMILIES = tuple(TABLE)
