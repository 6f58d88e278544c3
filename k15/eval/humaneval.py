"""HumanEval in eight languages (HumanEval-Mul): how it is asked, and the program that a response stands for.

A response is a fenced block (chat) or the bare continuation of the prompt (base models). The tests of MultiPL-E begin with
what closes the function, so a block that is whole loses its own closing: `}` of the class in Java and C#, and the tests lose
theirs in C++ and Bash.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from k15.errors import unknown_name
from k15.eval.sources import Row, Source, field
from k15.reward.code import Fence, last_block
from k15.types import Prompt

FILES = {
    "python": "reference_python", "java": "java", "cpp": "cpp", "csharp": "cs", "javascript": "js", "typescript": "ts",
    "php": "php", "bash": "sh",
}  # fmt: skip
_LIMITS = {"time_s": 4.0, "memory_mb": 512}
_IN_CLASS = ("java", "csharp")
_IMPORT = re.compile(r"\s*(?:#\s*include\b|import\s|from\s+\S+\s+import\s|using\s)")
PROMPT = (
    "Complete this {language} program. Answer with the whole program, what is given included, in one fenced block, "
    "without tests and without a main function.\n\n```{language}\n{code}\n```"
)


def load_bare(source: Source) -> list[Prompt]:
    """As `load`, asked by the bare beginning of the program: for base models, which go on with it."""
    return [replace(p, text=str(p.meta["code"])) for p in load(source)]


def load(source: Source) -> list[Prompt]:
    """All languages, or the one that `source.argument` names."""
    if source.argument and source.argument not in FILES:
        raise unknown_name("the language of humaneval_mul", source.argument, FILES)
    return [p for name in ([source.argument] if source.argument else FILES) for p in language_prompts(source, name)]


def language_prompts(source: Source, language: str) -> list[Prompt]:
    """The problems of one language. `answer`: the submission without its source; `meta`: what `response_and_answer` needs."""
    file = f"humaneval/{FILES[language]}.jsonl"
    return [_prompt(row, language, f"{file}:{n}") for n, row in enumerate(source.rows(file), 1)]


def _prompt(row: Row, language: str, where: str) -> Prompt:
    code = field(row, "prompt", where)
    if language == "python":
        name, stop = field(row, "entry_point", where), ["\ndef ", "\nclass ", "\nif ", "\nprint", "\n#"]
        tests = f"{field(row, 'test', where)}\ncheck({name})"
    else:
        tests, stop, name = field(row, "tests", where), list(row["stop_tokens"]), _function(code)  # type: ignore[call-overload]
    return Prompt(
        id=f"{language}/{field(row, 'task_id', where)}",
        text=PROMPT.format(language=language, code=code.rstrip("\n")),
        answer=json.dumps({"language": language, "harness": tests, **_LIMITS}),
        domain="code",
        meta={"code": code, "function": name, "stop": stop, "language": language},
    )


def _function(code: str) -> str:
    """The name that the last line of a prompt declares."""
    found = re.findall(r"([A-Za-z_]\w*)\s*\(", code.rstrip().rsplit("\n", 1)[-1])
    return found[0] if found else ""


def response_and_answer(prompt: Prompt, response: str) -> tuple[str, str]:
    """(response with the program alone in a fence, the answer it is judged by), for `k15.reward.code.verdicts`."""
    code, language = str(prompt.meta["code"]), str(prompt.meta["language"])
    answer = json.loads(prompt.answer)
    block = last_block(response)
    if block is None and "```" in response:
        return response, prompt.answer  # an open fence: cut off, no program
    if block is not None and _declares(block.source, str(prompt.meta["function"])):
        source, answer["harness"] = _whole(block, code, language, str(answer["harness"]))
    else:
        source = code + _cut(block.source if block is not None else response, prompt.meta["stop"])  # type: ignore[arg-type]
    return f"```{language}\n{source}\n```", json.dumps(answer)


def _declares(source: str, name: str) -> bool:
    """Whether a line declares the function: a word before its name, `name = (`, or Bash's `name()`. A call does not."""
    typed = rf"^\s*(?!return\b|else\b|throw\b|yield\b|await\b|new\b)[\w<>\[\]:,&*? .]*[\w>\]&*]\s+[&*]*{name}\s*\("
    return (
        re.search(rf"{typed}|\b{name}\s*=\s*(?:async\s*)?(?:\(|function\b)|^\s*{name}\s*\(\)", source, re.MULTILINE) is not None
    )


def _whole(block: Fence, code: str, language: str, tests: str) -> tuple[str, str]:
    """(source, tests) of a block that has the function itself, closed."""
    source = block.source.rstrip()
    if language in _IN_CLASS and source.endswith("}"):
        source = source[:-1]  # of the class: the tests close it
    lines = [line for line in code.split("\n") if _IMPORT.match(line) and line.strip() not in source]
    if language == "php" and "<?php" not in source:
        lines = ["<?php", *lines]
    return "\n".join([*lines, source]), re.sub(r"\A\s*\}\n", "", tests)


def _cut(text: str, stop: Sequence[str]) -> str:
    """A continuation up to the first stop text."""
    ends = [i for s in stop if (i := text.find(s)) >= 0]
    return text[: min(ends)] + "\n" if ends else text
