"""Two problems of the bed end to end through the command, the real sandbox and the code reward; killed and continued."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from k15.data.store import load_prompts
from k15.errors import DataError, SandboxError
from k15.log.journal import Journal
from k15.reward import code
from k15.runs.testgen import main
from k15.sandbox.client import Access, SandboxClient
from k15.testgen.funnel import funnel
from k15.testgen.pipeline import Pipeline
from k15.testgen.problems import Problem, Source, load_problems
from k15.testgen.settings import TestgenSettings

BED = Path(__file__).parent / "problems"
SMALL = {"cases": 12, "submissions": 6, "agree": 5, "passing": 5, "min_valid": 8, "time_s": 0.5, "workers": 2}
WORDS = [w for name, value in SMALL.items() for w in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two problems with their Python submissions."""
    root = tmp_path_factory.mktemp("problems")
    for name in ("brackets", "josephus"):
        shutil.copytree(BED / name, root / name, ignore=shutil.ignore_patterns("*.cpp"))
    return root


@pytest.fixture(scope="module")
def words(folder, access, tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(access.token)
    return [str(folder), "--sandbox-url", access.url, "--sandbox-token-file", str(token), *WORDS]


@pytest.fixture(scope="module")
def made(words, tmp_path_factory):
    """The output folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("out")
    assert main([*words, "--out", str(out)]) == 0
    return out


def judged(access) -> float:
    """Requests that the service has answered with 200."""
    text = requests.get(f"{access.url}/metrics", headers=access.headers, timeout=20).text
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples if s.name == "k15_sandbox_seconds_count"]
    return sum(s.value for s in samples)


def test_the_reward_scores_against_the_generated_tests(made, folder, access):
    prompts = load_prompts(made / "problems.jsonl")
    assert [p.id for p in prompts] == ["brackets", "josephus"] and all(p.domain == "code" for p in prompts)
    code.connect(access)
    bed = {p.id: p for p in load_problems(folder)}
    for prompt in prompts:
        tests = json.loads(prompt.answer)["tests"]
        assert 8 <= len(tests) <= 12 and len({i for i, _ in tests}) == len(tests)
        programs = [*bed[prompt.id].submissions[-1:], *bed[prompt.id].wrong]
        pairs = [(f"Here it is:\n```python\n{s.text}```\n", prompt.answer) for s in programs]
        found = [v.correct for v in code.verdicts(pairs)]
        assert found[0] and found.count(False) >= 3, (prompt.id, found)
    rows = [json.loads(line) for line in (made / "results.jsonl").read_text().splitlines()]
    assert all(r["stage"] == "kept" and len(r["passed"]) == 6 for r in rows)


def test_killed_and_started_again_it_does_nothing_twice(made, words, access, tmp_path):
    # Other limits make other requests than those of the undisturbed run, which the service would remember.
    command = [sys.executable, "-P", "-m", "k15", "testgen", *words, "--out", str(tmp_path), "--memory-mb", "200"]
    command += ["--case-memory-mb", "500"]
    before, kills = judged(access), 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started, had = time.monotonic(), judged(access)
        while kills < 2 and process.poll() is None and judged(access) < had + 3 and time.monotonic() - started < 60:
            time.sleep(0.02)
        if kills < 2 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        said, _ = process.communicate(timeout=120)
        break
    assert process.returncode == 0 and kills == 2, said
    assert judged(access) - before == 2 * (1 + 6), "one job for the inputs and one for each submission"
    own = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    other = [json.loads(line) for line in (made / "problems.jsonl").read_text().splitlines()]
    assert [json.loads(r["answer"])["tests"] for r in own] == [json.loads(r["answer"])["tests"] for r in other]
    again = judged(access)
    assert main([*words, "--out", str(tmp_path), "--memory-mb", "200", "--case-memory-mb", "500"]) == 0
    assert judged(access) == again, "a finished run asks for nothing"


def python(problem: Problem, count: int = 6) -> Problem:
    return replace(problem, submissions=tuple(s for s in problem.submissions if s.language == "python")[:count])


def test_every_stage_drops_what_it_must(client, tmp_path):
    bed = {p.id: python(p) for p in load_problems(BED)}
    josephus, settings = bed["josephus"], TestgenSettings(**{**SMALL, "min_valid": 10})
    slip = next(s for s in josephus.wrong if s.name == "wrong_zero.py")
    one_wrong = replace(josephus, id="one_wrong", submissions=(*josephus.submissions[:5], slip))
    problems = [
        bed["pair_positions"], bed["seating"], bed["fair_split"], bed["rising"], python(replace(josephus, id="few"), 5),
        one_wrong, replace(one_wrong, id="no_generator", generator=None),
    ]  # fmt: skip
    journal = Journal(tmp_path / "journal.sqlite")
    found = {r.id: r for r in Pipeline(client, journal, settings).results(problems)}
    journal.close()
    stages = {name: r.stage for name, r in found.items()}
    assert stages == {
        "pair_positions": "special_judge", "seating": "special_judge", "fair_split": "generator", "rising": "generator",
        "few": "submissions", "one_wrong": "kept", "no_generator": "generator",
    }, found  # fmt: skip
    assert "print any" in found["pair_positions"].reason and "disagree" in found["seating"].reason
    assert found["rising"].counts["broken"] == 8 and found["fair_split"].counts["duplicate"] > 0
    assert found["one_wrong"].failed == ("wrong_zero.py",) and len(found["one_wrong"].passed) == 5
    assert [row["left"] for row in funnel(list(found.values()))] == [6, 4, 1, 1]


def test_nine_of_ten_must_pass_all_valid_cases(client, tmp_path):
    """Wrong in different cases: each case is valid, but too few submissions pass them all."""
    text = (
        "n, k = map(int, input().split())\nr = 0\nfor s in range(2, n + 1):\n    r = (r + k) % s\nprint(r + 1 + (n % 3 == {m}))\n"
    )
    sources = [Source(f"{m}.py", "python", text.format(m=m)) for m in (0, 1, 7, 7.5, 8, 9)]
    (bed,) = (p for p in load_problems(BED) if p.id == "josephus")
    problem = replace(bed, id="uneven", submissions=tuple(sources))
    journal = Journal(tmp_path / "journal.sqlite")
    (result,) = Pipeline(client, journal, TestgenSettings(**SMALL)).results([problem])
    journal.close()
    assert result.stage == "agreement" and result.failed == ("0.py", "1.py") and result.counts["valid"] == 12, result


class Shelf:
    """An author that has written already: one answer an attempt."""

    identity = "shelf"

    def __init__(self, *answers: tuple[str | None, str]) -> None:
        self.answers, self.asked = answers, []

    def write(self, problem: Problem, attempt: int) -> tuple[str | None, str]:
        self.asked.append(attempt)
        return self.answers[attempt]


def test_a_model_may_try_again_until_a_generator_is_good(client, tmp_path):
    (bed,) = (python(p) for p in load_problems(BED) if p.id == "josephus")
    problem, poor = replace(bed, generator=None), "def generate(case, cases, io):\n    io.input_writeln(3, 2)\n"
    author = Shelf((None, "no code"), (poor, ""), (bed.generator, ""), (poor, ""))
    journal, settings = Journal(tmp_path / "journal.sqlite"), TestgenSettings(**SMALL, attempts=4)
    (result,) = Pipeline(client, journal, settings, author).results([problem])
    assert result.kept and result.generator == bed.generator and author.asked == [0, 1, 2]
    (given_up,) = Pipeline(client, journal, replace(settings, attempts=2), author).results([problem])
    assert given_up.stage == "generator" and given_up.counts["duplicate"] == 11 and author.asked == [0, 1, 2, 0, 1]
    journal.close()


def test_a_sandbox_that_is_gone_is_no_verdict(client, tmp_path):
    bed = {p.id: python(p) for p in load_problems(BED)}
    problems, told = [bed["josephus"], bed["cooking_order"]], []
    journal, settings = Journal(tmp_path / "journal.sqlite"), TestgenSettings(**SMALL)
    with SandboxClient(Access("http://127.0.0.1:9", "nobody-is-there-now", patience_s=0.5)) as nobody:
        with pytest.raises(SandboxError, match="1 problems are not done, run the same command again"):
            Pipeline(nobody, journal, settings).results(problems, told.append)
    assert [r.id for r in told] == ["cooking_order"] and len(journal) == 1
    assert [r.stage for r in Pipeline(client, journal, settings).results(problems)] == ["kept", "special_judge"]
    journal.close()


def test_two_runs_on_one_folder_are_refused(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    with pytest.raises(DataError, match="another k15 process"):
        Journal(tmp_path / "journal.sqlite")
    journal.close()


def test_nothing_kept_is_said_and_is_no_success(words, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path), "--submissions", "40", "--agree", "30", "--passing", "30"]) == 3
    assert f"no problem was kept, so {tmp_path / 'problems.jsonl'} is empty" in capsys.readouterr().err
    assert {json.loads(line)["stage"] for line in (tmp_path / "results.jsonl").read_text().splitlines()} == {"submissions"}
