"""What reads the problems of each benchmark: rows of the user's data folder, of the hub or of a file, as prompts with answers."""

import json
from collections.abc import Callable
from pathlib import Path

from k15.data.arithmetic import make_problems
from k15.data.store import load_prompts
from k15.data.versions import prompts_file
from k15.errors import ConfigError, DataError
from k15.eval.sources import Hub, Row, Source, field, read_rows
from k15.reward.code import check_answer
from k15.reward.router import check_domains
from k15.sandbox.client import Case, Submission
from k15.types import Prompt

MULTIPLE = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")


def arithmetic(source: Source) -> list[Prompt]:
    """The same 512 held-out problems whatever the run's seed, so that runs can be compared."""
    del source
    return make_problems(512, 0, "eval")


def questions(file: str, hub: Hub, question: str, answer: Callable[[Row, str], str], id: str | None = None):
    def load(source: Source) -> list[Prompt]:
        found = []
        for n, row in enumerate(source.rows(file, hub), 1):
            where = f"{file}:{n}"
            name = field(row, id, where) if id is not None and id in row else str(n)
            found.append(Prompt(name, field(row, question, where), answer(row, where)))
        return found

    return load


def plain_answer(row: Row, where: str) -> str:
    return field(row, "answer", where)


def after_hashes(row: Row, where: str) -> str:
    """GSM8K's final answer stands after ####."""
    _, mark, answer = field(row, "answer", where).rpartition("####")
    if not mark:
        raise DataError(f"{where}: field `answer` has no ####, after which the final answer stands.")
    return answer.strip().replace(",", "")


def mmlu(source: Source) -> list[Prompt]:
    file, found = "mmlu_stem/test.jsonl", []
    for n, row in enumerate(source.rows(file), 1):
        choices, right = row.get("choices"), row.get("answer")
        if not isinstance(choices, list) or not isinstance(right, int) or not 0 <= right < len(choices) <= len(MULTIPLE):
            raise DataError(f"{file}:{n}: `choices` must be a list, and `answer` an index into it.")
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(MULTIPLE, choices, strict=False))
        text = f"{field(row, 'question', f'{file}:{n}')}\n{listed}\n\nAnswer with the letter."
        found.append(Prompt(str(n), text, MULTIPLE[right]))
    return found


def cluewsc(source: Source) -> list[Prompt]:
    """CLUE's own file: does the pronoun (span 2) stand for the noun (span 1)?"""
    file, found = "cluewsc/dev.json", []
    for n, row in enumerate(source.rows(file), 1):
        target, label = row.get("target"), str(row.get("label")).lower()
        if not isinstance(target, dict) or label not in ("true", "false"):
            raise DataError(f"{file}:{n}: `target` must be an object with span1_text and span2_text, and `label` true or false.")
        noun, pronoun = (field(target, name, f"{file}:{n}") for name in ("span1_text", "span2_text"))
        text = f"{field(row, 'text', f'{file}:{n}')}\n\n句中的“{pronoun}”指的是“{noun}”吗？\nA. 是\nB. 否\n\n请回答选项字母。"
        found.append(Prompt(str(n), text, "A" if label == "true" else "B"))
    return found


def jsonl(source: Source) -> list[Prompt]:
    if not prompts_file(Path(source.argument)).is_file():
        raise DataError(f"{source.argument} does not exist or is not a file; tasks=jsonl:FILE reads a JSONL file.")
    try:
        return load_prompts(source.argument, check=lambda prompt: check_domains([prompt]))
    except DataError as error:  # the reader's remedy for training, which an evaluation has no setting for
        raise DataError(str(error).removesuffix(" Or leave such rows out with data.on_bad_row=skip.")) from error


def programs(source: Source) -> list[Prompt]:
    """`prompt`, `tests` ([[stdin, stdout], ...]); perhaps `id`, `language`, `time_s`, `memory_mb`, `checker` (k15.reward.code).

    Further fields are kept: `inputs` and `rating` of Codeforces problems.
    """
    found = []
    for n, row in enumerate(read_rows(source.argument), 1):
        where = f"{source.argument}:{n}"
        answer = json.dumps({k: row[k] for k in ("tests", "language", "time_s", "memory_mb", "checker") if k in row})
        try:
            check_answer(answer)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        name = field(row, "id", where) if "id" in row else str(n)
        found.append(Prompt(name, field(row, "prompt", where), answer, domain="code", meta=dict(row)))
    return found


def codeforces(source: Source) -> list[Prompt]:
    """As `stdio`, with `inputs`: generated standard inputs, without outputs, that the vote is on; and `rating`."""
    found = programs(source)
    for n, prompt in enumerate(found, 1):
        inputs, rating = prompt.meta.get("inputs"), prompt.meta.get("rating")
        if not isinstance(inputs, list) or not inputs or not all(isinstance(i, str) for i in inputs):
            raise DataError(f"{source.argument}:{n}: field `inputs` must be a list of texts, standard inputs for the vote.")
        try:
            Submission("python", "pass", tuple(Case(stdin, "") for stdin in inputs))
        except ConfigError as error:
            raise DataError(f"{source.argument}:{n}: field `inputs` is more than one run takes: {error}") from error
        if isinstance(rating, bool) or not isinstance(rating, int | float):
            raise DataError(f"{source.argument}:{n}: field `rating` is {rating!r}; it must be the problem's rating, a number.")
    return found
