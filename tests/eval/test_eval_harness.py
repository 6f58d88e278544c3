"""`k15 eval` without an engine: reference answers through the whole of it, its files, its errors, and runs compared.

The MATH-500 and HumanEval data are the user's (K15_DATA_DIR).
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from knowing import write_data

from k15.cli import main as k15
from k15.config.compose import listed
from k15.config.eval import EvaluationConfig
from k15.errors import ConfigError, DataError
from k15.eval.endpoint import Answer
from k15.eval.responses import Responses
from k15.eval.results import write_results
from k15.eval.sources import Source
from k15.eval.standings import compare, evaluations
from k15.eval.tasks import file_name, load
from k15.runs.eval import evaluate
from k15.runs.eval_engine import Subject
from k15.runs.eval_plan import check_lm_eval, plans
from k15.runs.eval_watch import append
from k15.types import Prompt

DATA = os.environ.get("K15_DATA_DIR")
needs_data = pytest.mark.skipif(DATA is None, reason="K15_DATA_DIR is not set: no benchmark data here")
MODEL = {"model": "reference", "weights": "", "temperature": 0.0, "top_p": 1.0, "max_tokens": 1, "seed": 0, "stop": [],
         "prompt": "p", "template": "t", "chat": False}  # fmt: skip


def answered(
    run_dir: Path, spec: str, say: Callable[[Prompt, int], str], *, data: Path, samples: int = 1, limit: int | None = None
):
    """A run folder with these answers as if an engine had given them; the results of scoring it."""
    cfg = EvaluationConfig(run_dir=str(run_dir), tasks=[spec], data_dir=str(data), limit=limit)
    cfg.sampling.samples = samples
    (plan,) = plans(cfg)
    with Responses(run_dir / "responses", file_name(spec), plan.asked) as store:
        store.check(MODEL)
        for p in plan.prompts:
            for i in range(samples):
                store.add((p.id, i), Answer(say(p, i), 5, "stop"))
    from k15.config.compose import to_yaml

    (run_dir / "config.yaml").write_text(to_yaml(cfg))
    return evaluate(replace(cfg, score_only=True), run_dir, [plan])


@needs_data
def test_reference_solutions_of_math500_score_100_percent(tmp_path: Path) -> None:
    """The solution's own text, boxed answer and all, through responses, scoring and results."""
    rows = {r["unique_id"]: r for r in map(json.loads, (Path(DATA) / "math500" / "test.jsonl").read_text().splitlines())}
    results = answered(tmp_path, "math500", lambda p, i: rows[p.id]["solution"], data=Path(DATA))
    wrong = [i for i, v in results[0]["values"].items() if v != 1.0]
    assert wrong == [] and results[0]["problems"] == 500 and results[0]["value"] == 1.0


@needs_data
def test_reference_solutions_of_other_tasks_score_100_percent(tmp_path: Path) -> None:
    from k15.eval.tasks import load as problems

    for spec in ("aime24", "gsm8k"):
        _, prompts = problems(spec, Source(DATA))
        assert len(prompts) == (30 if spec == "aime24" else 1319)
        results = answered(
            tmp_path / spec, spec, lambda p, i: f"Some reasoning.\n\\boxed{{{p.answer}}}", data=Path(DATA), limit=200
        )  # fmt: skip
        assert results[0]["value"] == 1.0
        nothing = answered(tmp_path / f"{spec}-none", spec, lambda p, i: "I do not know.", data=Path(DATA), limit=200)
        assert nothing[0]["value"] == 0.0
    gold = {r["answer"] for r in map(json.loads, (Path(DATA) / "gsm8k" / "test.jsonl").read_text().splitlines())}
    results = answered(tmp_path / "lm", "gsm8k_cot_zeroshot", lambda p, i: p.answer, data=Path(DATA))
    assert results[0]["value"] == 1.0 and len(gold) > 1000
    _, letters = problems("mmlu_stem", Source(DATA))
    assert {p.answer for p in letters} <= set("ABCD") and "\nA. " in letters[0].text


def test_samples_votes_and_intervals_stand_beside_every_number(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    gold = {str(n + 1): n for n in range(16)}

    def say(p: Prompt, i: int) -> str:
        return f"\\boxed{{{p.answer if i != 1 else i}}}" if gold[p.id] % 2 else "no answer"

    results = answered(tmp_path / "run", "gsm8k", say, data=tmp_path / "data", samples=3)
    found = {r["metric"]: r for r in results}
    assert {m: r["value"] for m, r in found.items()} == {"pass@1": pytest.approx(1 / 3), "pass@3": 0.5, "maj@3": 0.5}
    for r in results:
        assert r["low"] < r["value"] < r["high"]
        shown = {"method", "problems", "samples", "temperature", "top_p", "max_tokens", "mean_tokens", "truncated", "seed"}
        assert shown | {"template", "model"} <= set(r)
    text = (tmp_path / "run" / "results.md").read_text()
    assert "| gsm8k | maj@3 | 50.00 % |" in text and "reference" in text
    verdicts = [json.loads(line) for line in (tmp_path / "run" / "verdicts" / "gsm8k.jsonl").read_text().splitlines()]
    assert len(verdicts) == 48 and [v["class"] for v in verdicts[3:6]] == [0, 1, 0]


def cells(line: str) -> list[str]:
    """Of a line of a Markdown table: a backslash takes what follows it as it is."""
    return [c.strip() for c in re.findall(r"((?:\\.|[^|\\])*)\|", line)[1:]]


def test_a_prompt_of_several_lines_leaves_every_table_whole(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prompt = "Give |x|.\n{question}\r\nWrite $\\|x\\|$ \\"
    result = {"task": "gsm8k", "metric": "pass@1", "value": 0.5, "low": 0.1, "high": 0.9, "prompt": prompt, "values": {"1": 0.5}}
    folders = [tmp_path / "watch" / f"iteration-{n}" for n in (5, 10)]
    for folder in folders:
        folder.mkdir(parents=True)
        shown = write_results(folder, [result, result], {"model": "m"})
        assert len(shown.splitlines()) == 4, "header, two numbers, and what is the same in both"
    assert len(append(tmp_path / "watch").splitlines()) == 6
    assert evaluations(folders, tmp_path) == 0
    for page in (folders[0] / "results.md", tmp_path / "watch" / "by_iteration.md", tmp_path / "compare.md"):
        header, rule, *rows = (cells(line) for line in page.read_text().splitlines() if line.startswith("|"))
        assert set(rule) == {"---"} and len(rows) >= 2
        for row in (rule, *rows):
            assert len(row) == len(header)
        said = rows[0][header.index("prompt")]
        assert re.sub(r"\\([\\|])", r"\1", said) == "Give |x|. {question} Write $\\|x\\|$ \\", said


def test_runs_are_compared_on_the_problems_they_share(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_data(tmp_path / "data")
    for name, good in (("weak", 4), ("strong", 12)):
        answered(
            tmp_path / name, "gsm8k", lambda p, i, good=good: f"\\boxed{{{p.answer if int(p.id) <= good else -1}}}",
            data=tmp_path / "data", limit=16 if name == "weak" else 14,
        )  # fmt: skip
    rows, notes = compare([tmp_path / "weak", tmp_path / "strong"])
    assert rows[0]["difference"] is None and rows[1]["difference"] == pytest.approx(8 / 14) and rows[1]["paired"] == 14
    assert 0.2 < rows[1]["difference_low"] < 8 / 14 < rows[1]["difference_high"] <= 1 and notes == []
    capsys.readouterr()
    assert k15(["eval", "compare", str(tmp_path / "weak"), str(tmp_path / "strong"), "--out", str(tmp_path / "c")]) == 0
    assert "+57.14" in capsys.readouterr().out and "+57.14" in (tmp_path / "c" / "compare.md").read_text()
    problems = tmp_path / "data" / "gsm8k" / "test.jsonl"  # whose ids are numbers of rows
    for change, paired in (("bee see", 13), ("see", None)):
        problems.write_text(problems.read_text().replace(change, change + " today"))
        answered(tmp_path / f"of {paired}", "gsm8k", lambda p, i: "\\boxed{-1}", data=tmp_path / "data", limit=14)
        rows, (note,) = compare([tmp_path / "strong", tmp_path / f"of {paired}"])
        assert rows[1].get("paired") == paired and f"{14 - (paired or 0)} problems of of {paired} have the ids of others" in note
    older = json.loads((tmp_path / "weak" / "results.json").read_text())
    for result in older["results"]:
        del result["digests"]
    (tmp_path / "weak" / "results.json").write_text(json.dumps(older))
    rows, notes = compare([tmp_path / "weak", tmp_path / "strong"])
    assert rows[1]["paired"] == 14 and notes == [
        "gsm8k: paired by ids alone; results of an earlier k15 do not tell what the problems are"
    ]
    capsys.readouterr()
    assert k15(["eval", "compare", str(tmp_path / "weak"), str(tmp_path)]) == 2
    assert "has no results" in capsys.readouterr().err
    strong = json.loads((tmp_path / "strong" / "results.json").read_text())
    whole = strong["results"][0]
    for damaged in ([{"task": "x"}], {}, None, [whole | {"value": "1"}], [whole | {"values": [1]}], ["x"]):
        (tmp_path / "strong" / "results.json").write_text(json.dumps({**strong, "results": damaged}))
        assert k15(["eval", "compare", str(tmp_path / "weak"), str(tmp_path / "strong")]) == 2
        assert "strong/results.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tasks=math50"], "Did you mean 'math500'"),
        (["tasks=jsonl"], "needs a JSONL file"),
        (["tasks=gsm8k:x"], "takes nothing after a colon"),
        (["tasks=math500,math500"], "twice"),
        (["tasks=jsonl:a/b.jsonl,jsonl:a_b.jsonl"], "share the file jsonl-a_b.jsonl"),
        (["tasks=gsm8k"], "no model is given"),
        (["tasks=gsm8k", "engine.url=http://127.0.0.1:1/v1"], "engine.model"),
        (["tasks=gsm8k", "engine.url=ftp://x", "engine.model=m"], "must look like http"),
        (["tasks=gsm8k", "model.path=MODEL", "engine.key_env=NO_SUCH"], "engine.url"),
        (["tasks=gsm8k", "engine.url=http://h/v1", "engine.model=m", "engine.key_env=NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["tasks=gsm8k", "model.path=MODEL", "data_dir=/nonexistent"], "hub=true"),
        (["tasks=arithmetic", "model.path=/nonexistent"], "does not exist"),
        (["tasks=arithmetic", "model.path=MODEL", "sampling.samples=4"], "all the same"),
        (["tasks=arithmetic", "model.path=MODEL", "sampling.max_tokens=4000"], "leaves"),
        (["tasks=arithmetic", "model.path=MODEL", "model.max_context_tokens=4000"], "max_position_embeddings 192"),
        (["tasks=arithmetic", "model.path=MODEL", "pass_at=[4]"], "sampling.samples=4"),
        (["tasks=arithmetic", "model.path=MODEL", "prompt=boxd"], "Did you mean 'boxed'"),
        (["tasks=arithmetic", "model.path=MODEL", "sampling.temprature=1"], "Did you mean 'temperature'"),
        (["tasks=arithmetic", "model.path=MODEL", "cluster.nodes=2"], "cluster.nodes=1"),
        (["tasks=lm_eval:mmlu", "model.path=MODEL", "lm_eval.python=/nonexistent/python"], "lm_eval.python"),
        (["watch=/nonexistent", "tasks=arithmetic"], "no folder"),
        (["score_only=true", "tasks=arithmetic"], "needs run_dir"),
        (["tasks=jsonl:/nonexistent.jsonl", "model.path=MODEL"], "does not exist"),
        (["tasks=lm_eval:mmlu,lm_eval:ifeval", "model.path=MODEL", "sampling.samples=4"], "nothing for lm_eval:mmlu, lm_eval:if"),
        (["tasks=lm_eval:mmlu", "model.path=MODEL", "pass_at=[1]", "prompt=boxed"], "prompt, pass_at: lm-eval asks"),
    ],
)  # fmt: skip
def test_what_is_typed_wrong_is_said_before_anything_starts(words, said, model: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("K15_DATA_DIR", raising=False)
    command = ["launch", "eval"] if "cluster.nodes=2" in words else ["eval"]
    assert k15([*command, *(w.replace("MODEL", str(model)) for w in words)]) == 2
    assert said in capsys.readouterr().err


def test_scoring_again_refuses_settings_of_the_sampling(tmp_path: Path, capsys) -> None:
    write_data(tmp_path / "data")
    run = tmp_path / "run"
    answered(run, "gsm8k", lambda p, i: "\\boxed{1}", data=tmp_path / "data", limit=3)
    score = ["eval", f"run_dir={run}", "score_only=true"]
    for words, said in (
        (["limit=2"], "limit cannot differ"),
        (["sampling.samples=2", "prompt=boxed"], "prompt, sampling.samples cannot differ"),
        (["watch=/somewhere"], "watch cannot differ"),
    ):
        assert k15([*score, *words]) == 2
        assert said in capsys.readouterr().err, words
    assert k15([*score, "limit=3", "template=#ANSWER", "workers=2"]) == 0
    (run / "config.yaml").write_text("a: [")
    assert k15(score) == 2
    assert "config.yaml" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from k15.config.schema import TinyModelConfig
    from k15.data.tiny import write_tiny_model

    folder = write_tiny_model(tmp_path_factory.mktemp("model"), TinyModelConfig(), 192)
    (folder / "model.safetensors").touch()
    return folder


def test_a_limit_changes_no_answer_and_long_names_stay_names(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "prompt": "1+" * n + "1=", "answer": "3"}) + "\n" for n in (1, 20)))
    settings = []
    for limit in (1, None):
        cfg = EvaluationConfig(tasks=[f"jsonl:{path}"], limit=limit)
        cfg.model.path = str(model)
        (plan,) = plans(cfg)
        assert len(plan.prompts) == (limit or 2)
        settings.append(plan.settings(cfg, Subject.of(cfg)))
    assert settings[0] == settings[1]
    names = {file_name(f"jsonl:{'deep/' * 60}{n}.jsonl") for n in range(3)}
    assert len(names) == 3 and max(map(len, names)) < 200


def test_lists_may_be_written_without_brackets() -> None:
    words = [
        "tasks=a,lm_eval:b",
        "pass_at=1,4",
        "tasks=[a]",
        "engine.url=x,y",
        "cluster.setup=a",
        "model.path=null",
        "tasks=null",
    ]
    assert listed(EvaluationConfig, words) == [
        "tasks=[a,lm_eval:b]", "pass_at=[1,4]", "tasks=[a]", "engine.url=x,y", "cluster.setup=[a]", "model.path=null",
        "tasks=null",
    ]  # fmt: skip


def test_what_a_pronoun_stands_for(tmp_path: Path) -> None:
    row = {"target": {"span1_text": "床", "span2_text": "它"}, "label": "false", "text": "床上的手机响了，现在它突然响了。"}
    (tmp_path / "cluewsc").mkdir()
    file = tmp_path / "cluewsc" / "dev.json"
    file.write_text("".join(json.dumps(r) + "\n" for r in (row, row | {"label": "true"})))
    results = answered(tmp_path / "run", "cluewsc", lambda p, i: "“它”是手机。\n\\boxed{B}", data=tmp_path)
    assert list(results[0]["values"].values()) == [1.0, 0.0]
    _, (prompt, _) = load("cluewsc", Source(str(tmp_path)))
    assert "“它”" in prompt.text and "“床”" in prompt.text
    file.write_text(json.dumps(row | {"target": "床"}) + "\n")
    with pytest.raises(DataError, match="dev.json:1: `target`"):
        load("cluewsc", Source(str(tmp_path)))


def test_bad_rows_are_named_by_their_line(tmp_path: Path) -> None:
    good = {"prompt": "p", "tests": [["1", "2"]], "inputs": ["1"], "rating": 1200}
    for name, change, said in (
        ("stdio", {"tests": []}, "line|needs either"), ("codeforces", {"rating": None}, ":2: field `rating`"),
        ("codeforces", {"inputs": "1"}, ":2: field `inputs`"), ("stdio", {"prompt": " "}, ":2: field `prompt`"),
        ("codeforces", {"inputs": ["1"] * 1001}, ":2: field `inputs` .* 1001 tests; at most 1000"),
        ("stdio", {"id": "1"}, "used twice"),
    ):  # fmt: skip
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
        with pytest.raises(DataError, match=said):
            load(f"{name}:{path}", Source())


def test_what_has_no_reward_is_said_with_its_line_before_anything_is_sampled(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for row, said in (
        ({"domain": "chess", "answer": "e4"}, "rows.jsonl:2: .* domain 'chess', .* Known domains: code, math"),
        ({"domain": "code", "answer": {"language": "python"}}, "rows.jsonl:2: .* needs either `tests` or a `harness`"),
        ({"domain": "math"}, "rows.jsonl:2: field `answer` is missing"),
    ):
        path.write_text('{"prompt": "1+1=", "answer": "2"}\n' + json.dumps({"prompt": "p", **row}) + "\n")
        with pytest.raises(DataError, match=said) as error:
            load(f"jsonl:{path}", Source())
        assert "on_bad_row" not in str(error.value), "k15 eval has no such setting"


def test_settings_that_only_some_tasks_heed_are_named(caplog) -> None:
    cfg = EvaluationConfig(tasks=["arithmetic", "lm_eval:mmlu"], prompt="boxed")
    cfg.sampling.temperature = 0.5
    check_lm_eval(cfg)
    assert "sampling.temperature, prompt: lm-eval" in caplog.text and caplog.text.strip().endswith("nothing for lm_eval:mmlu")


def test_a_dtype_of_null_is_none(model: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    (tmp_path / "model.safetensors").touch()
    config = json.loads((model / "config.json").read_text())
    for change, dtype in (({"torch_dtype": None}, "bfloat16"), ({"torch_dtype": None, "dtype": "float16"}, "float16")):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        cfg = EvaluationConfig(tasks=["arithmetic"])
        cfg.model.path, cfg.cluster.device = str(tmp_path), "cuda"
        assert Subject.of(cfg).dtype == dtype


def test_half_a_line_and_answers_to_another_text_are_sampled_again(tmp_path: Path) -> None:
    asked = {"a": "one", "b": "two"}
    with Responses(tmp_path, "t", asked) as store:
        store.check(MODEL)
        store.add(("a", 0), Answer("x", 1, "stop"))
        store.add(("b", 0), Answer("y", 1, "length"))
    with (tmp_path / "t.jsonl").open("ab") as file:
        file.write(b'{"id": "a", "ind')
    with Responses(tmp_path, "t", {"a": "one", "b": "changed"}) as store:
        assert store.found == {("a", 0): Answer("x", 1, "stop")}
        store.add(("b", 0), Answer("z", 1, "stop"))
        with pytest.raises(ConfigError, match="temperature was 0.0, now 0.7"):
            store.check({**MODEL, "temperature": 0.7})
    with Responses(tmp_path, "t", {"a": "one", "b": "changed"}) as store:
        assert store.found["b", 0].text == "z" and store.path.read_text().count("\n") == 3


def test_a_file_of_answers_has_one_set_of_settings(tmp_path: Path) -> None:
    """The problems change and change back, with other settings between: the first answers came back under those."""
    for asked, found in (("one", 0), ("another", 0), ("one", 1)):
        with Responses(tmp_path, "t", {"1": asked}) as store:
            assert len(store.found) == found
            if asked == "another":
                with pytest.raises(ConfigError, match="1 answers sampled with other settings .temperature was 0.0, now 0.7"):
                    store.check({**MODEL, "temperature": 0.7})
            else:
                store.check(MODEL)
                store.add(("1", 0), Answer("x", 1, "stop"))
    for meta in (None, "{", "[]"):
        if meta is None:
            (tmp_path / "t.meta.json").unlink()
        else:
            (tmp_path / "t.meta.json").write_text(meta)
        with Responses(tmp_path, "t", {"1": "one"}) as store, pytest.raises(DataError, match="does not say what the 2 answers"):
            store.check(MODEL)
    with (tmp_path / "t.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(DataError, match="t.jsonl:3 is no answer.*remove that line"):
        Responses(tmp_path, "t", {"1": "one"})
