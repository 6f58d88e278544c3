"""Worked solutions of arithmetic expressions, column by column, in a few characters a step.

A solution is a list of blocks; a block is one operation on whole numbers, worked as single-digit steps:

    47+85       ->  7+5=12,4+8+1=13#132
    (47+85)*3   ->  7+5=12,4+8+1=13;132*3:2*3=6,3*3=9,1*3=3#396

Everything is deterministic; the styles (guess, worked, slip) are put on top by `k15.data.arithmetic`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One single-digit operation: `expr` as written, `value` its result."""

    expr: str
    value: int


@dataclass(frozen=True, slots=True)
class Block:
    """One operation on whole numbers: `title` as it would be restated (`132*3`), its steps, its result."""

    title: str
    steps: tuple[Step, ...]
    value: int


def _digits(number: int) -> list[int]:
    """Decimal digits, lowest place first."""
    return [int(c) for c in reversed(str(number))]


def add(numbers: tuple[int, ...]) -> Block:
    """Column addition of all numbers at once, with carries."""
    columns = [_digits(n) for n in numbers]
    steps, carry = [], 0
    for place in range(max(map(len, columns))):
        terms = [c[place] for c in columns if place < len(c)] + ([carry] if carry else [])
        steps.append(Step("+".join(map(str, terms)), sum(terms)))
        carry = sum(terms) // 10
    return Block("+".join(map(str, numbers)), tuple(steps), sum(numbers))


def subtract(a: int, b: int) -> Block:
    """Column subtraction with borrows; a >= b. A column that borrows is written with the ten it received (`12-8=4`)."""
    assert a >= b >= 0, "column subtraction needs a >= b"
    upper, lower = _digits(a), _digits(b)
    steps, borrow = [], 0
    for place, top in enumerate(upper):
        taken = ([borrow] if borrow else []) + ([lower[place]] if place < len(lower) else [])
        received = 10 if top < sum(taken) else 0
        steps.append(Step("-".join(map(str, [top + received, *taken])), top + received - sum(taken)))
        borrow = 1 if received else 0
    return Block(f"{a}-{b}", tuple(steps), a - b)


def multiply(a: int, digit: int) -> Block:
    """Column multiplication by one digit; a carry is added as a step of its own (`4*6=24+4=28`)."""
    assert 0 <= digit <= 9, "multiplication is by one digit"
    steps, carry = [], 0
    for d in _digits(a):
        product = d * digit
        steps.append(Step(f"{d}*{digit}" + (f"={product}+{carry}" if carry else ""), product + carry))
        carry = (product + carry) // 10
    return Block(f"{a}*{digit}", tuple(steps), a * digit)


def remainder(a: int, digit: int) -> Block:
    """Long division from the highest place that keeps only remainders."""
    assert 1 <= digit <= 9, "the divisor is one digit"
    steps, rest = [], 0
    for d in reversed(_digits(a)):
        current = rest * 10 + d
        rest = current % digit
        steps.append(Step(f"{current}%{digit}", rest))
    return Block(f"{a}%{digit}", tuple(steps), rest)
