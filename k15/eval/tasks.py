"""The benchmarks that `k15 eval` knows: one table. A task is its problems, how they are asked, and how they are judged.

`NAME`, or `NAME:ARGUMENT` where a task reads a file of the user (`jsonl:my.jsonl`). What lm-eval has is `lm_eval:TASK`
(`k15.eval.lm_harness`).
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k15.errors import ConfigError, DataError, unknown_name
from k15.eval import humaneval, problems
from k15.eval.sources import Hub, Source
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


_TABLE = (
    Task("arithmetic", "k15's own generated arithmetic, held-out", problems.arithmetic, prompt="plain"),
    Task(
        "math500", "MATH-500, exact match by k15's mathematics reward",
        problems.questions(
            "math500/test.jsonl", Hub("HuggingFaceH4/MATH-500", "test"), "problem", problems.plain_answer, "unique_id"
        ),
    ),
    Task(
        "aime24", "AIME 2024, Pass@1 as the mean of 8",
        problems.questions("aime24/test.jsonl", Hub("HuggingFaceH4/aime_2024", "train"), "problem", problems.plain_answer, "id"),
        temperature=0.6, samples=8,
    ),
    Task(
        "gsm8k", "GSM8K, exact match by k15's mathematics reward",
        problems.questions("gsm8k/test.jsonl", Hub("openai/gsm8k", "test", "main"), "question", problems.after_hashes),
    ),
    Task(
        "gsm8k_cot_zeroshot", "GSM8K as lm-eval's task of this name, its filter flexible-extract",
        problems.questions("gsm8k/test.jsonl", Hub("openai/gsm8k", "test", "main"), "question", problems.plain_answer),
        prompt="cot_zeroshot", score="flexible_extract", max_tokens=256, stop=("Q:", "</s>", "<|im_end|>"),
    ),
    Task("mmlu_stem", "MMLU's STEM subjects, one letter, with reasoning", problems.mmlu),
    Task("cluewsc", "CLUEWSC 2020 (dev), what a pronoun stands for, in Chinese; lm-eval has no task for it", problems.cluewsc),
    Task(
        "humaneval_mul", "HumanEval in 8 languages, judged in the sandbox (humaneval_mul:python for one of them)",
        humaneval.load, prompt="plain", score="humaneval", votes=False,
    ),
    Task(
        "humaneval_mul_base", "the same for base models: the program's beginning as it is, to be gone on with",
        humaneval.load_bare, prompt="plain", score="humaneval", votes=False, max_tokens=1024, own_stops=True,
    ),
    Task(
        "jsonl", "your own file: prompt, answer, optionally domain (math, code), id", problems.jsonl, prompt="plain",
        needs_file=True,
    ),
    Task(
        "stdio", "your own file of programs (LiveCodeBench): prompt, tests", problems.programs, prompt="program", votes=False,
        needs_file=True,
    ),
    Task(
        "codeforces", "your own file: prompt, tests, inputs for the vote, rating", problems.codeforces, prompt="program",
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
