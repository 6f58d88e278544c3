"""The benchmarks that `k15 eval` knows: one table. A task is its problems, how they are asked, and how they are judged.

`NAME`, or `NAME:ARGUMENT` where a task reads a file of the user (`jsonl:my.jsonl`). What lm-eval has is `lm_eval:TASK`
(`k15.eval.lm_harness`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from k15.data.arithmetic import make_problems
from k15.data.store import load_prompts
from k15.data.versions import prompts_file
from k15.errors import ConfigError, DataError, unknown_name
from k15.eval import humaneval
from k15.eval.sources import Hub, Row, Source, field, read_rows
from k15.reward.code import check_answer
from k15.reward.router import check_domains
from k15.sandbox.client import Case, Submission
from k15.types import Prompt

PROMPTS = {
    "plain": "{question}",
    "boxed": "{question}\n\nReason step by step, and put the final answer within \\boxed{}.",
    "cot_zeroshot": "Q: {question}\nA: Let's think step by step.",  # lm-eval's gsm8k_cot_zeroshot, letter for letter
    "program": (
        "{question}\n\nWrite a program that reads standard input and writes standard output. End with the whole program in "
        "one fenced block that names its language."
    ),
}
LM_EVAL = "lm_eval"  # lm_eval:TASK is run by lm-eval itself
LONGEST_NAME = 200  # bytes; a file system takes 255, and .meta.json.part comes behind
MULTIPLE = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")


@dataclass(frozen=True, slots=True)
class Task:
    """`prompt`: a name in PROMPTS. `score`: a name in `k15.eval.score.SCORERS`. `votes`: maj@k means something.

    `temperature`, `samples`, `max_tokens`: defaults, None where the run decides. `needs_file`: it is written NAME:FILE.
    `own_stops`: what follows a problem's stop texts (`meta["stop"]`) is no part of the answer.
    """

    name: str
    about: str
    load: Callable[[Source], list[Prompt]]
    prompt: str = "boxed"
    score: str = "reward"
    temperature: float = 0.0
    samples: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    votes: bool = True
    needs_file: bool = False
    own_stops: bool = False


def _arithmetic(source: Source) -> list[Prompt]:
    """The same 512 held-out problems whatever the run's seed, so that runs can be compared."""
    del source
    return make_problems(512, 0, "eval")


def _questions(file: str, hub: Hub, question: str, answer: Callable[[Row, str], str], id: str | None = None):
    def load(source: Source) -> list[Prompt]:
        found = []
        for n, row in enumerate(source.rows(file, hub), 1):
            where = f"{file}:{n}"
            name = field(row, id, where) if id is not None and id in row else str(n)
            found.append(Prompt(name, field(row, question, where), answer(row, where)))
        return found

    return load


def _answer(row: Row, where: str) -> str:
    return field(row, "answer", where)


def _after_hashes(row: Row, where: str) -> str:
    """GSM8K's final answer stands after ####."""
    _, mark, answer = field(row, "answer", where).rpartition("####")
    if not mark:
        raise DataError(f"{where}: field `answer` has no ####, after which the final answer stands.")
    return answer.strip().replace(",", "")


def _mmlu(source: Source) -> list[Prompt]:
    file, found = "mmlu_stem/test.jsonl", []
    for n, row in enumerate(source.rows(file), 1):
        choices, right = row.get("choices"), row.get("answer")
        if not isinstance(choices, list) or not isinstance(right, int) or not 0 <= right < len(choices) <= len(MULTIPLE):
            raise DataError(f"{file}:{n}: `choices` must be a list, and `answer` an index into it.")
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(MULTIPLE, choices, strict=False))
        text = f"{field(row, 'question', f'{file}:{n}')}\n{listed}\n\nAnswer with the letter."
        found.append(Prompt(str(n), text, MULTIPLE[right]))
    return found


def _jsonl(source: Source) -> list[Prompt]:
    if not prompts_file(Path(source.argument)).is_file():
        raise DataError(f"{source.argument} does not exist or is not a file; tasks=jsonl:FILE reads a JSONL file.")
    try:
        return load_prompts(source.argument, check=lambda prompt: check_domains([prompt]))
    except DataError as error:  # the reader's remedy for training, which an evaluation has no setting for
        raise DataError(str(error).removesuffix(" Or leave such rows out with data.on_bad_row=skip.")) from error


def _programs(source: Source) -> list[Prompt]:
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


def _codeforces(source: Source) -> list[Prompt]:
    """As `stdio`, with `inputs`: generated standard inputs, without outputs, that the vote is on; and `rating`."""
    found = _programs(source)
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


_TABLE = (
    Task("arithmetic", "k15's own generated arithmetic, held-out", _arithmetic, prompt="plain"),
    Task(
        "math500", "MATH-500, exact match by k15's mathematics reward",
        _questions("math500/test.jsonl", Hub("HuggingFaceH4/MATH-500", "test"), "problem", _answer, "unique_id"),
    ),
    Task(
        "aime24", "AIME 2024, Pass@1 as the mean of 8",
        _questions("aime24/test.jsonl", Hub("HuggingFaceH4/aime_2024", "train"), "problem", _answer, "id"),
        temperature=0.6, samples=8,
    ),
    Task(
        "gsm8k", "GSM8K, exact match by k15's mathematics reward",
        _questions("gsm8k/test.jsonl", Hub("openai/gsm8k", "test", "main"), "question", _after_hashes),
    ),
    Task(
        "gsm8k_cot_zeroshot", "GSM8K as lm-eval's task of this name, its filter flexible-extract",
        _questions("gsm8k/test.jsonl", Hub("openai/gsm8k", "test", "main"), "question", _answer),
        prompt="cot_zeroshot", score="flexible_extract", max_tokens=256, stop=("Q:", "</s>", "<|im_end|>"),
    ),
    Task("mmlu_stem", "MMLU's STEM subjects, one letter, with reasoning", _mmlu),
    Task(
        "humaneval_mul", "HumanEval in 8 languages, judged in the sandbox (humaneval_mul:python for one of them)",
        humaneval.load, prompt="plain", score="humaneval", votes=False,
    ),
    Task(
        "humaneval_mul_base", "the same for base models: the program's beginning as it is, to be gone on with",
        humaneval.load_bare, prompt="plain", score="humaneval", votes=False, max_tokens=1024, own_stops=True,
    ),
    Task("jsonl", "your own file: prompt, answer, optionally domain (math, code), id", _jsonl, prompt="plain", needs_file=True),
    Task(
        "stdio", "your own file of programs (LiveCodeBench): prompt, tests", _programs, prompt="program", votes=False,
        needs_file=True,
    ),
    Task(
        "codeforces", "your own file: prompt, tests, inputs for the vote, rating", _codeforces, prompt="program",
        temperature=0.8, samples=8, votes=False, needs_file=True,
    ),
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task for task in _TABLE}
_TAKES_ARGUMENT = {t.name for t in _TABLE if t.needs_file} | {"humaneval_mul", "humaneval_mul_base", LM_EVAL}


def split_name(spec: str) -> tuple[str, str]:
    """(task, argument) of `NAME` or `NAME:ARGUMENT`. Raises ConfigError for a name that is not known, or an argument amiss."""
    name, colon, argument = spec.partition(":")
    if name not in TASKS and name != LM_EVAL:
        raise unknown_name("tasks", spec, [*(t + ":FILE" if TASKS[t].needs_file else t for t in TASKS), "lm_eval:TASK"])
    if name not in _TAKES_ARGUMENT and colon:
        raise ConfigError(f"tasks has {spec!r}, but {name} takes nothing after a colon; write tasks={name}.")
    if (name == LM_EVAL or TASKS[name].needs_file) and not argument:
        what = "the name of one of lm-eval's tasks" if name == LM_EVAL else "a JSONL file"
        raise ConfigError(f"tasks has {spec!r}, which needs {what}: {name}:{'mmlu' if name == LM_EVAL else 'my.jsonl'}.")
    return name, argument


def load(spec: str, source: Source) -> tuple[Task, list[Prompt]]:
    """The task and its problems. Raises ConfigError, DataError."""
    name, argument = split_name(spec)
    task = TASKS[name]
    prompts = task.load(Source(source.data_dir, argument, source.hub))
    ids = [p.id for p in prompts]
    if len(set(ids)) < len(ids):
        double = next(i for i in ids if ids.count(i) > 1)
        raise DataError(f"{spec}: the id {double!r} is used twice; ids of problems must be unique.")
    return task, prompts


def file_name(spec: str) -> str:
    """A task's spec as the name of its files: `jsonl:data/my.jsonl` is `jsonl-data_my.jsonl`; a long one ends in a digest."""
    name = re.sub(r"[^\w.-]+", "_", spec.replace(":", "-", 1))
    if len(name.encode()) <= LONGEST_NAME:
        return name
    return f"{spec.partition(':')[0]}-{hashlib.sha256(spec.encode()).hexdigest()[:16]}"


def ask(prompt: Prompt, template: str) -> str:
    """The text that a problem is asked as."""
    return template.replace("{question}", prompt.text)


def template_of(task: Task, chosen: str | None) -> str:
    """The prompt template of a task, or the user's: a name in PROMPTS or a text with {question}. Raises ConfigError."""
    name = chosen if chosen is not None else task.prompt
    if name in PROMPTS:
        return PROMPTS[name]
    if "{question}" not in name:
        raise unknown_name("prompt (a text of your own must hold {question})", name, PROMPTS)
    return name


def checked(specs: Sequence[str]) -> list[str]:
    """The specs themselves. Raises ConfigError where there is none, one twice, or one that is not known."""
    if not specs:
        raise ConfigError(f"tasks is empty; give tasks=math500,gsm8k or others of: {', '.join(TASKS)}, lm_eval:TASK.")
    for n, spec in enumerate(specs):
        split_name(spec)
        if spec in specs[:n]:
            raise ConfigError(f"tasks names {spec!r} twice.")
        if same := [s for s in specs[:n] if file_name(s) == file_name(spec)]:
            raise ConfigError(
                f"tasks has {same[0]!r} and {spec!r}, whose answers would share the file {file_name(spec)}.jsonl. Rename one "
                "of the files, or evaluate them in runs of their own."
            )
    return list(specs)
