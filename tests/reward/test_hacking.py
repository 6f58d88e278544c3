"""Anti-hacking filters: guesses without reasoning, and prompts that state their answers."""

import json
import os
from pathlib import Path

import pytest

from k15.reward.hacking import easy_to_hack, leaks_answer
from k15.types import Prompt


def test_right_within_eight_guesses() -> None:
    assert easy_to_hack([False] * 7 + [True]) and not easy_to_hack([False] * 8 + [True])
    assert easy_to_hack([False, True], guesses=2)
    with pytest.raises(ValueError, match=r"7 guesses, but the rule needs 8"):
        easy_to_hack([True] * 7)


LEAKS = [
    ("What is 17*3? The answer is 51.", "51"), ("What is 17*3? (Answer: 51)", "51"),
    ("17*3 = ? #### 51", "51"),
    ("Compute x. The final answer is $\\frac{1}{2}$ because of symmetry.", "0.5"), ("Find it. \\boxed{x+1}", "x+1"),
    ("Show that the sum equals\n(n+1)^2/4 = $(n+1)^{2}/4$.", "(n+1)^{2}/4"),
    ("Which city? Solution: Paris, of course", "Paris,"),
    ("Q: What is the third prime number of all?\nA: Answer: 5\n\nQ: What is the third prime number of all?\nA:", "5"),
]  # fmt: skip
CLEAN = [
    ("What is 17*3?", "51"), ("Tom has 51 apples and gives away none. How many are left?", "51"),
    ("Is 7 prime? Answer yes or no.", "yes"),
    ("Give the answer as a fraction. What is 2/4?", "1/2"), ("If the answer is 5 to the first riddle, what is 5+2?", "7"),
    ("Q: 2+2?\nA: The answer is 4.\n\nQ: What is the square of two, as a number?\nA:", "4"),
    ("The result is 3 less than x. Find x for 9.", "12"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), LEAKS)
def test_prompts_that_state_their_answers(text: str, answer: str) -> None:
    assert leaks_answer(Prompt("p", text, answer)) is not None


@pytest.mark.parametrize(("text", "answer"), CLEAN)
def test_prompts_that_only_mention_values(text: str, answer: str) -> None:
    assert leaks_answer(Prompt("p", text, answer)) is None


def test_gsm8k_states_no_answers() -> None:
    """False positives on real problems, none of which states its answer: at most 1 in 1,000. Planted leaks: all found."""
    folder = os.environ.get("K15_DATA_DIR")
    if folder is None:
        pytest.skip("K15_DATA_DIR is not set; it must name a folder with gsm8k/train.jsonl")
    rows = [json.loads(line) for line in (Path(folder) / "gsm8k" / "train.jsonl").read_text().splitlines()]
    prompts = [Prompt(str(i), r["question"], r["answer"].rsplit("####", 1)[1].strip()) for i, r in enumerate(rows)]
    said = [(p.text[-200:], p.answer, why) for p in prompts if (why := leaks_answer(p)) is not None]
    print(f"leaks reported among {len(prompts)} GSM8K problems: {len(said)}")
    assert len(said) <= len(prompts) / 1000, said
    planted = [Prompt(p.id, f"{p.text} {form.format(p.answer)}", p.answer)
               for i, p in enumerate(prompts) for form in (("The answer is {}.", "(Answer: {})", "#### {}")[i % 3],)]  # fmt: skip
    assert all(leaks_answer(p) is not None for p in planted)
