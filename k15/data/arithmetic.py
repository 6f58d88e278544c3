"""Generated problems of several families and levels, and solutions in a mixture of styles: arithmetic, and puzzles on request.

    make_problems(n, seed, split)   -> prompts such as `(47+85)*3=` with answer `396`
    solution(prompt, style, rng)    -> `#396` | `7+5=12,4+8+1=13;132*3:...#396` | that with a slip and its repair | or checked
    warmup_examples(n, seed, ...)   -> (prompt text, response text), the supervised mixture before RL (report 2.2)

`#` marks the final answer. The families are in `k15.data.families`. The split is a function of the problem alone: a hash of
its name, in which commuted problems are the same problem, puts it in the `eval` or the `train` half of the world for ever,
so that no held-out problem can be trained on, whatever the seeds and sizes.
"""

import hashlib
import random
import re
from collections.abc import Sequence

from k15.data.families import ARITHMETIC, FAMILIES, TABLE, Numbers
from k15.data.worked import Step
from k15.errors import ConfigError, unknown_name
from k15.types import Prompt

MARK = "#"
CHECK = "!"  # what follows is the last operation worked once more
PRACTICE = 0.6  # of the warm-up comes first, with few guesses: skill in single steps is what takes long to learn
STYLES = ("guess", "worked", "slip", "checked")
_FOUR_ALIKE = re.compile(r"(.)\1{3}")
EVAL_SHARE = 0.25  # of all problems there are; small families (one-digit sums) need a large share to be seen at all
ALPHABET = (
    "0123456789+-*%()=,;:?" + MARK + " \n/.<>!"
)  # 29 characters and 3 special tokens: 32 divides by any tensor-parallel size


def split_of(canonical_text: str) -> str:
    """`eval` or `train`, from the problem alone."""
    digest = hashlib.sha256(f"k15 arithmetic {canonical_text}".encode()).digest()
    return "eval" if int.from_bytes(digest[:8], "big") < EVAL_SHARE * 2**64 else "train"


def _draw(families: Sequence[str], split: str, rng: random.Random) -> tuple[str, Numbers]:
    """A problem of the given split: family uniform, then level uniform, then numbers (again until the split fits)."""
    while True:
        family = rng.choice(families)
        kind = TABLE[family]
        numbers = kind.draw(rng.randint(1, kind.levels), rng)
        if split_of(kind.name(numbers)) == split:
            return family, numbers


def _prompt(family: str, numbers: Numbers) -> Prompt:
    blocks, body = TABLE[family].work(numbers), TABLE[family].text(numbers)
    return Prompt(
        id=f"{family}:{body}",
        text=f"{body}=",
        answer=str(blocks[-1].value),
        difficulty=float(sum(len(b.steps) for b in blocks)),
        meta={"family": family, "numbers": list(numbers)},
    )


def _checked(n: int, split: str, families: Sequence[str] | None) -> tuple[str, ...]:
    if n < 1:
        raise ConfigError(f"The number of arithmetic problems is {n}; it must be at least 1.")
    if split not in ("train", "eval"):
        raise unknown_name("split", split, ("train", "eval"))
    return check_families(families)


def check_families(families: Sequence[str] | None) -> tuple[str, ...]:
    """The families to draw from: those named, or the arithmetic ones. Raises ConfigError for an unknown one."""
    for family in families or ():
        if family not in TABLE:
            raise unknown_name("data.families", family, FAMILIES)
    return tuple(families) if families else ARITHMETIC


def check_mixture(guess_fraction: float, slip_fraction: float, checked_fraction: float) -> None:
    """Raises ConfigError where the warm-up's shares are negative or more than the whole."""
    if min(guess_fraction, slip_fraction, checked_fraction) < 0 or guess_fraction + slip_fraction + checked_fraction > 1:
        raise ConfigError(
            f"warmup.guess_fraction {guess_fraction}, warmup.slip_fraction {slip_fraction} and warmup.checked_fraction "
            f"{checked_fraction} must be at least 0 and sum to at most 1; the rest is worked in steps."
        )


def make_problems(n: int, seed: int, split: str = "train", families: Sequence[str] | None = None) -> list[Prompt]:
    """`n` different problems of a split (`train` or `eval`), deterministic in `seed`; no families given: arithmetic.

    `difficulty` is the number of steps of the worked solution. Raises ConfigError where the families hold fewer than `n`
    different problems.
    """
    chosen = _checked(n, split, families)
    rng = random.Random(f"k15 arithmetic {split} {seed}")
    found: dict[str, Prompt] = {}
    misses = 0
    while len(found) < n:
        family, numbers = _draw(chosen, split, rng)
        name = TABLE[family].name(numbers)
        misses = misses + 1 if name in found else 0
        if misses > 10_000:
            raise ConfigError(
                f"{n} different {split} problems were asked of the families {', '.join(chosen)}, which hold about "
                f"{len(found)}; ask for fewer (data.train_size, data.eval_size) or add families: {', '.join(FAMILIES)}."
            )
        found.setdefault(name, _prompt(family, numbers))
    return list(found.values())


def _slipped(step: Step, rng: random.Random) -> str:
    """The step with a wrong value, noticed (`?`) and done again."""
    near = (step.value - 2, step.value - 1, step.value + 1, step.value + 2)
    wrong = rng.choice([v for v in near if v >= 0 and not _FOUR_ALIKE.search(str(v))])  # they would be taken for a repetition
    return f"{step.expr}={wrong}?{step.expr}={step.value}"


def solution(prompt: Prompt, style: str, rng: random.Random) -> str:
    """A correct response to a prompt of `make_problems` in one of STYLES; `rng` places the slip."""
    if style not in STYLES:
        raise unknown_name("solution style", style, STYLES)
    if style == "guess":
        return f"{MARK}{prompt.answer}"
    family, numbers = str(prompt.meta["family"]), tuple(prompt.meta["numbers"])  # type: ignore[arg-type]
    blocks = TABLE[family].work(numbers)
    slip = rng.randrange(sum(len(b.steps) for b in blocks)) if style == "slip" else -1
    parts, index = [], 0
    for position, block in enumerate(blocks):
        lines = []
        for step in block.steps:
            lines.append(_slipped(step, rng) if index == slip else f"{step.expr}={step.value}")
            index += 1
        parts.append((f";{block.title}:" if position else "") + ",".join(lines))
    if style == "checked":
        parts.append(CHECK + ",".join(f"{step.expr}={step.value}" for step in blocks[-1].steps))
    return "".join(parts) + f"{MARK}{prompt.answer}"


def warmup_examples(
    n: int,
    seed: int,
    guess_fraction: float,
    slip_fraction: float,
    checked_fraction: float,
    families: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """`n` (prompt text, response text) pairs of the train split: guesses, slips, checked work, and the rest worked in steps.

    Problems may repeat (small families are small); held-out ones never appear.
    """
    check_mixture(guess_fraction, slip_fraction, checked_fraction)
    chosen = _checked(n, "train", families)
    rng = random.Random(f"k15 arithmetic warm-up {seed}")
    examples = []
    for index in range(n):
        prompt = _prompt(*_draw(chosen, "train", rng))
        guesses = guess_fraction / 3 if index < PRACTICE * n else guess_fraction
        shares = {"guess": guesses, "slip": slip_fraction, "checked": checked_fraction}
        shares["worked"] = max(0.0, 1.0 - sum(shares.values()))
        style = rng.choices(list(shares), list(shares.values()))[0]
        examples.append((prompt.text, solution(prompt, style, rng)))
    return examples
