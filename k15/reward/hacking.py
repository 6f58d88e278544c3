"""What a prompt must not allow (report 2.1): guessing its answer without reasoning, and reading it off the prompt.

    easy_to_hack(verdicts)   right within N = 8 guesses made without reasoning -> the prompt is left out
    leaks_answer(prompt)     the prompt itself states its answer                -> the prompt is left out

Both are pure; `k15.curate.ask` has the guesses made.
"""

import re
from collections.abc import Sequence

from k15.reward.answer import reference
from k15.reward.compare import compare, parts
from k15.reward.literal import literal
from k15.reward.notation import canonical
from k15.types import Prompt

GUESSES = 8  # N of the report
GUESS_SUFFIX = "\n\nAnswer at once, without any reasoning. Write only the final answer, as \\boxed{answer}."


def easy_to_hack(verdicts: Sequence[bool], guesses: int = GUESSES) -> bool:
    """Whether one of the first `guesses` guesses is right (report 2.1). Raises ValueError for fewer guesses than that."""
    if len(verdicts) < guesses:
        raise ValueError(f"there are {len(verdicts)} guesses, but the rule needs {guesses}; sample more, or lower `guesses`")
    return any(verdicts[:guesses])


# "the answer is 5", "Answer: 5", "#### 5", "\\boxed{5}", "Ans. 5": what states an answer rather than mentions a value.
_STATED = re.compile(
    r"(?:####|\\boxed\s*\{|\b(?:the\s+)?(?:final\s+|correct\s+|right\s+)?(?:answer|solution|result|ans)\b\.?"
    r"(?:\s+(?:to\s+this\s+(?:problem|question)\s+)?(?:is|are|was|must\s+be|should\s+be|equals)\b|\s*[:=]))\s*:?\s*(?=(?P<value>[^\n]{1,200}))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|;|\s[(\[]|\s(?:because|since|as|so|but|and|when|if|for)\s", re.IGNORECASE)
_LONG_ANSWER = 6  # characters of an answer that no prompt contains by chance, if it is not a plain number or a word


def leaks_answer(prompt: Prompt) -> str | None:
    """How the prompt gives its answer away, or None.

    Rule: (1) words that announce an answer (`the answer is`, `Answer:`, `####`, \\boxed{}) are followed by a value that
    equals the reference; few-shot examples leak only where an example's answer is this one AND its question is this
    prompt's own (its last paragraph is found twice); (2) the reference is an expression of 6 characters or more with an
    operator, and stands in the prompt after an equals sign at the end of a sentence. Numbers that a prompt merely
    mentions are no leak: many answers occur among the given quantities.
    """
    answer = canonical(reference(prompt.answer))
    if not answer:
        return None
    for match in _STATED.finditer(prompt.text):
        if _example_of_another(prompt.text, match.start()):
            continue
        for value in _readings(match["value"]):
            verdict = compare(canonical(value), answer)
            if verdict is not None and verdict[0]:
                return f"states its answer: {(match[0] + match['value']).strip()[:80]!r}"
    if (
        len(answer) >= _LONG_ANSWER
        and literal(answer) is None
        and parts(answer).kind == "one"
        and re.search(r"[-+^*/\\]", answer)
    ):
        stated = re.search(r"=\s*\$?" + re.escape(answer) + r"\$?\s*(?:[.!?]|$)", re.sub(r"\s+", " ", prompt.text))
        if stated is not None:
            return f"contains its answer after an equals sign: {stated[0][:80]!r}"
    return None


def _readings(text: str) -> list[str]:
    """The value that an announcement may mean: up to a closing brace, to the end of the sentence, or the first word."""
    text = text.strip().strip("*_\"'")
    brace = text.split("}", 1)[0]
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0]
    found = (brace, sentence, text.split(" ", 1)[0])
    closed = [r.strip() if r.count("(") >= r.count(")") else r[: r.rindex(")")].strip() for r in found]  # (Answer: 51)
    return list(dict.fromkeys(r for r in closed if r))


def _example_of_another(text: str, position: int) -> bool:
    """Whether what stands at `position` closes a few-shot example: another question follows it, and is not asked before."""
    rest = [p.strip() for p in text[position:].split("\n\n")[1:] if p.strip()]
    if not rest:
        return False
    question = re.sub(r"^(?:question|problem|q)\s*\d*\s*[:.]\s*", "", rest[-1], flags=re.IGNORECASE)
    question = re.sub(r"\n?\s*(?:answer|solution|a)\s*:?\s*$", "", question, flags=re.IGNORECASE).strip()
    return len(question) < 12 or question not in text[:position]
