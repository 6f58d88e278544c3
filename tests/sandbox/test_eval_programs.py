"""Programs of a contest through `k15 eval`'s second half: judged in the sandbox, voted on by what they print, rated."""

import json
from pathlib import Path

import pytest
from judging import need

from k15.config.compose import to_yaml
from k15.config.eval import EvaluationConfig
from k15.eval.endpoint import Answer
from k15.eval.responses import Responses
from k15.eval.tasks import file_name
from k15.runs.eval import evaluate
from k15.runs.eval_plan import plans

pytestmark = pytest.mark.timeout(600)
RIGHT = "print(sum(map(int, input().split())))"
ALSO_RIGHT = "a, b = input().split()\nprint( int(a) + int(b) )"
LUCKY = "print(3)"  # passes the first of the hidden tests only
CRASHES = "print(1 // 0)"
# By problem: four programs. The vote finds the right ones where they are most; one lucky program has no company.
SUBMITTED = {
    "easy": (LUCKY, RIGHT, ALSO_RIGHT, CRASHES),
    "hard": (LUCKY, RIGHT, LUCKY, None),
    "hopeless": (CRASHES, None, CRASHES, None),
}


def test_votes_and_rating_of_programs(tmp_path: Path) -> None:
    need("base")
    rows = [
        {"id": name, "prompt": "Add two numbers.", "tests": [["1 2", "3"], ["5 6", "11"]], "inputs": ["1 2", "7 9"],
         "rating": rating}
        for name, rating in (("easy", 1000), ("hard", 1600), ("hopeless", 2400))
    ]  # fmt: skip
    path, run = tmp_path / "contest.jsonl", tmp_path / "run"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    ratings = tmp_path / "ratings.jsonl"
    ratings.write_text("".join(json.dumps({"rating": r}) + "\n" for r in (800, 1000, 1200, 3000)))
    cfg = EvaluationConfig(run_dir=str(run), tasks=[f"codeforces:{path}"], score_only=True, ratings=str(ratings))
    cfg.sampling.samples = 4
    (plan,) = plans(cfg)
    with Responses(run / "responses", file_name(plan.spec), plan.asked) as store:
        store.check({"temperature": 0.8, "top_p": 1.0, "max_tokens": 99, "seed": 0, "prompt": "program", "model": "m"})
        for name, programs in SUBMITTED.items():
            for i, program in enumerate(programs):
                store.add((name, i), Answer("" if program is None else f"```python\n{program}\n```", 9, "stop"))
    (run / "config.yaml").write_text(to_yaml(cfg))
    found = {r["metric"]: r for r in evaluate(cfg, run, [plan])}
    assert found["pass@1"]["values"] == {"easy": 0.5, "hard": 0.25, "hopeless": 0.0}
    assert found["pass@4"]["values"] == {"easy": 1.0, "hard": 1.0, "hopeless": 0.0}
    assert found["vote@4"]["values"] == {"easy": 1.0, "hard": 0.0, "hopeless": 0.0}
    rating = found["rating"]
    assert 900 < rating["value"] < 1600 and rating["low"] < rating["value"] < rating["high"]
    assert rating["percentile"] == 100 * sum(r < rating["value"] for r in (800, 1000, 1200, 3000)) / 4
    assert "percentile" in (run / "results.md").read_text()
