"""HumanEval-Mul as `k15 eval` asks it: right bodies pass, bare or as a whole program in a fence; empty ones fail."""

import pytest
from judging import backend, need_language  # noqa: F401
from test_humaneval import DATA, EMPTY, own, verdicts

from k15.eval.humaneval import FILES, language_prompts, response_and_answer
from k15.eval.sources import Source, read_rows
from k15.reward.code import last_block, submission

CLOSING = {"java": "    }\n}\n", "csharp": "    }\n}\n", "cpp": "}\n", "bash": "}\n"}  # the body's function, and its class

pytestmark = [
    pytest.mark.skipif(DATA is None, reason="K15_DATA_DIR is not set: no HumanEval here"),
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize("language", FILES)
def test_bodies_are_judged_in_both_forms(backend, language):  # noqa: F811
    need_language(language)
    prompts = {p.id.split("/")[-1].removeprefix("HumanEval_").split("_")[0]: p for p in language_prompts(Source(DATA), language)}
    assert len(prompts) >= 158
    if language == "python":
        rows = read_rows(f"{DATA}/humaneval/reference_python.jsonl")
        bodies = {str(row["task_id"]).split("/")[1]: str(row["canonical_solution"]) for row in rows[:8]}
    else:
        bodies = dict(list(own(language).items())[:2])
    empty = {n: EMPTY.get(language, "    pass\n") for n in bodies}
    asked, right = {}, {}
    for kind, texts, good in (("right", bodies, True), ("empty", empty, False)):
        for number, body in texts.items():
            code = str(prompts[number].meta["code"])
            whole = f"Here it is.\n```{language}\n{code}{body}{CLOSING.get(language, '')}```\nThat is all."
            for form, response in (("bare", body), ("whole", whole), ("body in a fence", f"```\n{body}```")):
                if not good and form != "whole":
                    continue
                text, answer = response_and_answer(prompts[number], response)
                asked[f"{kind} {number} {form}"] = submission(answer, last_block(text))
                right[f"{kind} {number} {form}"] = good
    found = verdicts(backend, asked)
    assert {n: v for n, v in found.items() if (v == "AC") != right[n] or v == "CE"} == {}
    cut = response_and_answer(prompts["0"], f"```{language}\nint")
    assert last_block(cut[0]) is None
