"""The code reward end to end: response text, fenced block, service process, sandbox, score."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import TOKEN, need, served

from k15.config.schema import RewardConfig
from k15.errors import ConfigError, DataError, SandboxError
from k15.reward import code
from k15.reward.code import Fence, last_block, submission
from k15.reward.router import Rewards, check_domains
from k15.sandbox.client import Access
from k15.types import Group, Prompt, Rollout, Segment

ADD = json.dumps({"tests": [["1 2", "3"], {"stdin": "5 6", "expected": "11"}], "time_s": 1})
RIGHT = "First try:\n```python\nprint(0)\n```\nBetter:\n```python\na, b = map(int, input().split())\nprint(a + b)\n```\nDone."


def group(answer: str, texts: list[str]) -> Group:
    rollouts = tuple(Rollout("p", i, i, (1,), (Segment((5,) * 4, (-0.1,) * 4, 0, "stop"),)) for i in range(len(texts)))
    return Group(Prompt("p", "Add two numbers.", answer, "code"), rollouts)


def test_scores_of_a_group(tmp_path):
    need("base")
    texts = {
        RIGHT: "AC 2/2",
        RIGHT.replace("a + b", "a - b"): "WA 0/2: token 1 is '-1', expected '3'",
        "```bash\nread a b; echo $((a + b))\n```": "AC 2/2",
        "```python\nraise KeyError('x')\n```": "RE 0/2: status 1 KeyError: 'x'",
        "```python\ndef (\n```": "CE 0/2: status 1 SyntaxError: invalid syntax",
        "```brainfuck\n+\n```": "CE: language is 'brainfuck'",
        "no code at all": "no code",
        "```python\nprint(3)": "no code",
        "```python\nprint('\udc80')\n```": "WA 0/2: token 1 is '?', expected '3'",
    }
    with served(tmp_path) as service, Rewards(RewardConfig(correct=2.0)) as rewards:
        code.connect(service.access)
        scores = rewards.score_group(group(ADD, list(texts)), list(texts), 0)
        harness = json.dumps({"language": "python", "prefix": "import math", "harness": "assert area(1) == math.pi"})
        functions = ["```\ndef area(r): return math.pi * r\n```", "```python\nimport sys\ndef area(r): sys.exit(0)\n```"]
        judged = rewards.score_group(group(harness, functions), functions, 0)
    for score, (text, reason) in zip(scores, texts.items(), strict=True):
        assert score.reason.startswith(reason), text
        assert score.correct == reason.startswith("AC") and score.parts["correct"] == 2.0 * score.correct
    assert [s.correct for s in judged] == [True, False] and "before the tests" in judged[1].reason


def test_fences_that_never_close_cost_no_time():
    start = time.process_time()
    assert last_block("```a\n" * 20_000) is None
    assert last_block("```a\n" * 20_000 + "```\nx\n") is not None
    assert time.process_time() - start < 2.0


def test_a_sandbox_that_is_gone_is_an_error_of_the_run_and_no_score():
    code.connect(Access("http://127.0.0.1:9", TOKEN, patience_s=0.5))
    start = time.monotonic()
    with Rewards(RewardConfig()) as rewards, pytest.raises(SandboxError, match="cannot be reached"):
        rewards.score_group(group(ADD, [RIGHT] * 4), [RIGHT] * 4, 0)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("42", "JSON object"),
        ("{", "not JSON"),
        ('{"tests": []}', "either `tests` or a `harness`"),
        ('{"tests": [["1"]]}', "must be an object"),
        ('{"tests": [["1", 2]]}', "expected of tests[] is 2"),
        ('{"harness": "", "source": ""}', "without `source`"),
        ('{"harness": "", "language": "pyton"}', "Did you mean 'python'"),
        ('{"harness": "", "prefix": 1}', "must be a text"),
    ],
)
def test_wrong_answers_are_found_before_anything_is_sampled(answer, message):
    with pytest.raises(DataError) as error:
        check_domains([Prompt("p7", "text", answer, "code")])
    assert "'p7'" in str(error.value) and message in str(error.value)


def test_who_is_to_blame_for_an_unknown_language():
    with pytest.raises(ConfigError, match="brainfuck") as error:
        submission(ADD, Fence("brainfuck", "+"))
    assert not isinstance(error.value, DataError)
    assert submission(ADD, Fence("", "x")).language == "python" and submission(ADD, Fence("cpp", "x")).language == "cpp"


@given(
    st.lists(st.text(st.characters(exclude_characters="`", codec="utf-8"), max_size=30), max_size=4),
    st.text("` \nab", max_size=40),
)
def test_the_last_complete_block_counts(sources, noise):
    text = "".join(f"say\n```py\n{s}\n```\n" for s in sources)
    assert last_block(text) == (Fence("py", sources[-1] + "\n") if sources else None)
    last_block(text + noise)  # never raises, never hangs
    start = time.monotonic()
    last_block("```\n" * 30_000 + noise)
    assert time.monotonic() - start < 2.0
