"""The funnel on rows made to fall at each stage, and on the published sets; the model's stages against a real HTTP endpoint."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracle import Oracle, served
from raw import row, settings, stages, write

from k15.cli import main
from k15.config.compose import compose_run
from k15.config.curate import FieldsConfig
from k15.curate.duplicates import contaminated, duplicates, grams, passages
from k15.curate.kinds import multiple_choice, proof, true_false
from k15.curate.rows import BadRow, read, read_held_out
from k15.curate.tags import balanced, discipline, named
from k15.data.store import load_datasets, load_prompts
from k15.data.versions import versions
from k15.errors import DataError, EngineError
from k15.reward.router import check_domains
from k15.runs.curate import run

DATA = os.environ.get("K15_DATA_DIR")


KINDS = {
    multiple_choice: {
        "What is 3+4? (A) 5 (B) 6 (C) 7": "C",
        "What is 3+4?\nA. 5\nB. 6\nC. 7\nD. 8": "C",
        "Which of the following is largest? $$A=1, B=2, C=3$$": "$C$",
        "Which of the following can be found? I: a, J: b. (enter letters) A, B or C": "A, C",
        "What is 3+4? A. 5 B. 6 C. 7 D. 8": "C",
        "What is 3+4? A) 5 B) 6 C) 7": "C)",
        "What is 3+4?\n(a) 5\n(b) 6\n(c) 7": "c",
        "3+4等于（　）\nA．5\nB．6\nC．7": "C",
        "3+4等于 A、5 B、6 C、7 D、8": "（C）",
    },
    true_false: {"Is 7 prime?": "Yes", "Every prime is odd.": "\\text{False}", "True or false: 2 < 3": "T"},
    proof: {
        "Let $f$ be even. Prove that $f'$ is odd.": "x",
        "Show that the sum of two even numbers is even.": "x",
        "Demonstrate that $\\sqrt 2$ is irrational.": "x",
        "Verify by induction that $n < 2^n$.": "x",
        "Let $n$ be odd. Prove the claim: $n^2$ is odd.": "x",
        "If $n$ is odd, prove that $n^2$ is odd.": "x",
        "Given $a > b$, show that $a + c > b + c$.": "x",
        "已知$a>b$，求证：$a+c>b+c$。": "x",
        "证明：素数有无穷多个。": "x",
        "The primes are infinite in number.": "\\text{Proof.}",
    },
}
FREE = {
    "In triangle $ABC$ let $A$, $B$ and $C$ be (A) point [asy] label(A); (B) (C) [/asy] 5. What is AB?": "5",
    "Show that $x=3$ solves it, then find the other root.": "4",
    "Prove the claim. How many primes are there below 10?": "4",
    "What letter is next: A, C, E?": "G",
    "The graph shows $f$. Show the value of $f(2)$.": "3",
    "A rectangle has area 12 and width 3, then show its perimeter.": "14",
    "Measure it and verify the length in cm.": "3",
    "Here are two sums. Show by how much the first is greater.": "3",
    "Is it cold? What is the answer to everything?": "42",
    "If $f$ is even, show that $x=3$ is a root, and hence find the other one.": "-3",
    "Given $x + 1 = 4$, solve it, show your work.": "3",
    "已知$a>b$，证明$a+c>b+c$，并求$c$的最大值。": "4",
    "已知点A、B、C在圆上，哪一点最高": "C",
    "With f(a) = 1, f(b) = 2 and f(c) = 3, where is f greatest?": "c",
    "(a) Find x. (b) Find y.": "3",
}


@pytest.mark.parametrize("rule", KINDS, ids=lambda r: r.__name__)
def test_a_kind_takes_its_own_and_nothing_else(rule):
    for text, answer in KINDS[rule].items():
        assert rule(row(text, answer)), text
        assert not any(other(row(text, answer)) for other in KINDS if other not in (rule, multiple_choice)), text
    for text, answer in FREE.items():
        assert rule(row(text, answer)) is None, text
    assert multiple_choice(row("Pick one.", "2", choices=("a", "b")))


def test_rows_of_every_kind_of_source_are_the_same_rows(tmp_path: Path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    rows = [{"question": f"What is {i}+1?", "answer": f"Well, {i}+1 it is.\n#### {i + 1}"} for i in range(3)]
    plain = write(tmp_path / "a.jsonl", rows)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(Path(plain).read_text())
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    first, *others = (
        [(r.id, r.text, r.answer) for r in read(str(tmp_path / name), FieldsConfig())]
        for name in ("a.jsonl", "a.jsonl.gz", "a.parquet", "saved")
    )
    assert [answer for _, _, answer in first] == ["1", "2", "3"] and all(other == first for other in others)
    own = FieldsConfig(prompt="q", answer="a", id="n")
    (found,) = read(write(tmp_path / "own.jsonl", [{"q": "1?", "a": 1, "n": 5, "question": "no"}]), own)
    assert (found.text, found.answer, found.id) == ("1?", "1", "5")
    for name in ("a.txt", "nothing.jsonl"):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(DataError, match=r"\.jsonl"):
            list(read(str(tmp_path / name), FieldsConfig()))


BAD = {
    "{broken": "not JSON",
    '"text"': "a str, but each line must be an object",
    '{"prompt": "1+1?"}': "no answer: field `answer` or `solution`",
    '{"prompt": " ", "answer": "2"}': "holds no prompt",
    '{"problem": "1?", "solution": "it is two"}': "of a worked solution the last",
    '{"prompt": "2+2?", "answer": "4", "id": true}': "an id is a text or a whole number",
    '{"prompt": "other", "answer": "4", "id": "one"}': "id 'one' was used by",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_named_by_its_line_and_fatal_or_skipped(line: str, tmp_path: Path):
    source = write(tmp_path / "s.jsonl", [{"prompt": "1+1?", "answer": "2", "id": "one"}, "", line])
    with pytest.raises(DataError) as error:
        run(settings(tmp_path, sources=f"[{source}]"))
    assert f"{source}:3: " in str(error.value) and BAD[line] in str(error.value) and "on_bad_row=skip" in str(error.value)
    assert not (tmp_path / "store").exists()
    assert run(settings(tmp_path, sources=f"[{source}]", on_bad_row="skip")) == 0
    found = stages(tmp_path / "store" / "v1")["read"]
    assert found["left"] == 1 and found["dropped"] == 1 and found["examples"][0]["where"] == f"{source}:3"


WORSE = {
    "\ufeff[1]": "a list, but each line must be an object",
    '{"prompt": "2+2?", "answer": NaN}': "field `answer` or `solution`",
    '{"prompt": "2+2?", "final_answer": 1e999}': "is missing, empty or NaN",
    '{"prompt": "2+2?", "answer": "a \\ud83d"}': "field `answer` holds half a character",
    '{"problem": "\\ud83d?", "answer": "4"}': "field `problem` holds half a character",
    '{"prompt": "2+2?", "answer": "4", "subject": "\\udc00"}': "field `subject` holds half a character",
    '{"prompt": "2+2?", "answer": {"tests": [["\\ud83d", "1"]]}}': "not Unicode",
    '{"prompt": "2+2?", "answer": {"harness": "x", "files": {"a": "\\ud83d"}}}': "not Unicode",
    '{"prompt": "2+2?", "\\ud83d": "4"}': "no answer: field `answer`",
    '{"prompt": "add", "answer": "{1, 2}", "domain": "code"}': "the answer of a code prompt is not JSON",
    '{"prompt": "add", "answer": {"a": 1}}': "an object without `tests` or `harness`",
    '{"prompt": "add", "answer": "{\\"tests\\": 3}"}': "`tests` must be a list",
    '{"prompt": "2+2?", "answer": ' + "9" * 5000 + "}": "not JSON (Exceeds the limit",
    '{"prompt": "2+2?", "answer": ' + "[" * 9000 + "]" * 9000 + "}": "nested too deeply",
    '{"prompt": "2+2?", "domain": "code", "answer": "' + "[" * 9000 + "]" * 9000 + '"}': "nested too deeply",
}


def test_what_cannot_be_written_or_judged_in_the_end_is_a_bad_row_in_the_beginning(tmp_path: Path):
    source = write(tmp_path / "s.jsonl", [*WORSE, {"prompt": "1+1?", "answer": "2"}])
    found = [row for row in read(source, FieldsConfig()) if isinstance(row, BadRow)]
    assert [row.where for row in found] == [f"{source}:{n}" for n in range(1, len(WORSE) + 1)]
    for bad, says in zip(found, WORSE.values()):
        assert says in bad.reason and len(bad.reason) < 400
    assert run(settings(tmp_path, sources=f"[{source}]", on_bad_row="skip")) == 0
    assert stages(tmp_path / "store" / "v1")["read"]["dropped"] == len(WORSE)
    assert [p.answer for p in load_prompts(tmp_path / "store")] == ["2"]


def test_braces_are_mathematics_and_an_object_of_tests_is_code(tmp_path: Path):
    tests = {"tests": [["1 2", "\\boxed{3}"]], "language": "python"}
    rows = [
        {"prompt": "The set?", "answer": "{1, 2}"},
        {"prompt": "Three quarters?", "answer": "{3\\over 4}"},
        {"prompt": "No tests?", "answer": '{"a": 1}'},
        {
            "question": float("nan"),
            "problem": "Nothing given?",
            "answer": float("nan"),
            "solution": "so \\boxed{5}",
            "id": float("nan"),
        },
        {"prompt": "Add two numbers.", "answer": tests},
        {"prompt": "Add some numbers.", "answer": json.dumps(tests), "domain": "code"},
    ]
    assert run(settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', rows)}]")) == 0
    made = load_prompts(tmp_path / "store", check=lambda p: check_domains([p]))
    assert [(p.answer, p.domain) for p in made[:4]] == [(a, "math") for a in ("{1, 2}", "{3\\over 4}", '{"a": 1}', "5")]
    assert [(json.loads(p.answer), p.domain) for p in made[4:]] == [(tests, "code")] * 2


@pytest.mark.parametrize("name", ["a.jsonl.gz", "cut.jsonl.gz", "a.parquet", "saved"])
def test_a_damaged_source_is_named(name: str, tmp_path: Path):
    if not name.endswith(".gz"):
        pytest.importorskip("datasets")
    path = tmp_path / name
    if name == "saved":
        path.mkdir()
        (path / "state.json").write_text("{}")
    else:
        path.write_bytes(gzip.compress(os.urandom(4096))[:100] if name.startswith("cut") else b"no such file")
    with pytest.raises(DataError, match=rf"{path} cannot be read"):
        list(read(str(path), FieldsConfig()))


@hypothesis_settings(deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=12), min_size=1, max_size=12), st.sampled_from([0.3, 0.5, 1.0]))
def test_what_stays_is_unlike_all_that_stays_and_what_goes_is_like_one(texts: list[str], threshold: float):
    rows = [row(t) for t in texts]
    gone = duplicates(rows, threshold, seed=3)
    for i, (j, similarity) in gone.items():
        a, b = grams(texts[i]), grams(texts[j])
        assert j < i and j not in gone and (similarity >= threshold)
        assert len(a & b) / len(a | b) >= threshold
    kept = [t for i, t in enumerate(texts) if i not in gone]
    assert len({tuple(t.split()) for t in kept}) == len(kept)


def test_numbers_and_answers_make_two_problems(tmp_path: Path):
    text = "Tom has {} apples and buys {} more at the market on a sunny day in the middle of May, how many has he now?"
    rows = [row(text.format(3, 4), "7"), row(text.format(3, 5), "8"), row(text.format(3, 4) + " Say it.", "7")]
    assert set(duplicates(rows, 0.8, 0)) == {2}
    sums = [row("Compute $17-5$.", "12"), row("Compute $17+5$.", "22"), row("$x^2+3x=4$?", "1"), row("$x^2-3x=4$?", "4")]
    assert not duplicates(sums, 0.8, 0)
    han = "小明有三个苹果又买了四个问他现在一共有多少个苹果"
    assert set(duplicates([row(han + "？"), row(han[:-1] + "梨？"), row("今天天气很好我们去公园散步吧？")], 0.8, 0)) == {1}
    assert set(duplicates([row("りんごは全部でいくつありますか"), row("りんごは全部でいくつありますか。")], 0.8, 0)) == {1}


DUCKS = "Say where the wild ducks go."
EVALUATION = {
    "exact": [
        {"task_id": "HumanEval/0", "prompt": DUCKS, "test": "def check(f): pass"},
        {"key": 1, "prompt": DUCKS, "instruction_id_list": ["x"], "kwargs": [{}]},
        {"prompt": DUCKS, "tests": [["1", "2"]]},
    ],
    "words in a row": [{"prompt": "甲乙两人从相距一百千米的两地同时出发，相向而行，甲每小时走十二千米，求何时相遇。"}],
}


STOCK = "如图所示，在平面直角坐标系中，"


def test_a_stock_phrase_of_chinese_is_no_copy_and_a_copied_sentence_is():
    """Thirteen characters are about seven words."""
    held = [row(STOCK + "抛物线y=x^2-4x+3与x轴交于A、B两点，求AB的长。")]
    rows = [
        row(STOCK + "直线l过点P(1,2)且斜率为3，求l的方程。"),
        row("已知" + held[0].text[:-6] + "，问顶点到这条轴的距离是多少？"),
    ]
    assert contaminated(rows, held, 0.99, 13, 0).keys() == {1} and not contaminated(rows, held, 0.99, 0, 0)


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["a", "bc", "7", "求", "の"]), max_size=20), st.integers(1, 8))
def test_passages_are_the_word_grams_of_english_and_each_long_run_of_mixed_texts_has_one(found: list[str], n: int):
    spaced = " ".join(found)
    plain = [w for w in found if w.isascii()]
    assert passages(" ".join(plain), n) == {" ".join(plain[i : i + n]) for i in range(len(plain) - n + 1)}
    for start in range(len(found)):
        for end in range(start + 1, len(found) + 1):
            run = found[start:end]
            long = sum(1.0 if w.isascii() else 0.5 for w in run) >= n
            assert bool(passages(" ".join(run), n)) == long and (not long or passages(" ".join(run), n) <= passages(spaced, n))


@pytest.mark.parametrize("kind", EVALUATION)
def test_evaluation_sets_need_no_answer_and_have_columns_of_their_own(kind: str, tmp_path: Path):
    alike = "已知甲乙两人从相距一百千米的两地同时出发，相向而行，甲每小时走若干，"
    alike += "丙带着一条狗从中点出发来回奔跑，直到三者都碰面，问狗总共跑了多远。"
    rows = [{"q": DUCKS.upper(), "a": "1"}, {"q": alike, "a": "2"}]
    asked = {"sources": f"[{write(tmp_path / 's.jsonl', rows)}]", "fields__prompt": "q", "fields__answer": "a"}
    files = [write(tmp_path / f"e{n}.jsonl", [row]) for n, row in enumerate(EVALUATION[kind])]
    assert run(settings(tmp_path, evaluation=f"[{','.join(files)}]", **asked)) == 0
    assert stages(tmp_path / "store" / "v1")["contamination"]["reasons"] == {kind: 1}
    own = write(tmp_path / "own.jsonl", [{"question_content": DUCKS, "text": "Else."}])
    assert [r.text for column in (None, "question_content") for r in read_held_out(own, column)] == ["Else.", DUCKS]
    with pytest.raises(DataError, match=r"own.jsonl:1: no prompt: field `x` is missing.*fields.evaluation_prompt=NAME"):
        run(settings(tmp_path, evaluation=f"[{own}]", fields__evaluation_prompt="x", **asked))


@hypothesis_settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 9))
def test_a_balanced_sample_is_as_even_as_can_be(tags: list[str], size: int, seed: int):
    chosen = balanced(tags, size, seed)
    assert chosen == sorted(set(chosen)) == balanced(tags, size, seed) and len(chosen) == min(size, len(tags))
    have, took = Counter(tags), Counter(tags[i] for i in chosen)
    most = max(took.values())
    assert all(took[t] == have[t] or took[t] >= most - 1 for t in have)


def test_tags_by_label_and_words():
    assert discipline(row("?", discipline="Counting & Probability")) == "counting and probability"
    assert discipline(row("Find the area of the triangle with perimeter 3.")) == "geometry"
    assert discipline(row("xyzzy")) == "other"


NAMED = {
    "It could be algebra, but I say: Number Theory.": "number theory",
    "none": None,
    "Precalculus": "precalculus",
    "Not precalculus but **Calculus**.": "calculus",
    "Counting & Probability": "counting and probability",
    "Algebra; no other fits": "algebra",
    "Not algebra, so: other.": "other",
    "I would say it is other": "other",
    "Another one, prealgebra": None,
}


@pytest.mark.parametrize("said", NAMED)
def test_a_models_name_is_the_last_whole_one(said: str):
    assert named(said) == NAMED[said]


def test_versions_are_kept_and_never_changed(tmp_path: Path):
    rows = [{"prompt": f"What is {i} + {i * i}?", "answer": str(i + i * i)} for i in range(40)]
    source = write(tmp_path / "s.jsonl", rows)
    for _ in range(2):  # the second time nothing has changed
        assert run(settings(tmp_path, sources=f"[{source}]")) == 0
    assert list(versions(tmp_path / "store")) == [1]
    assert run(settings(tmp_path, sources=f"[{source}]", balance__size=20)) == 0
    assert list(versions(tmp_path / "store")) == [1, 2]

    def prompts(where: Path) -> int:
        return sum(map(len, load_datasets(compose_run(["data=jsonl", f"data.path={where}"]).data, 0)))

    assert prompts(tmp_path / "store") == 20 and prompts(tmp_path / "store" / "v1") == 40
    with (tmp_path / "store" / "v2" / "prompts.jsonl").open("a") as file:
        file.write('{"prompt": "x", "answer": "1"}\n')
    with pytest.raises(DataError, match="changed by hand"):
        prompts(tmp_path / "store")
    with pytest.raises(DataError, match="k15 curate store="):
        prompts(tmp_path)


@pytest.fixture
def oracle():
    found = Oracle()
    with served(found.answer) as found.url:
        yield found


def test_guessed_and_easy_prompts_leave_and_a_restart_asks_for_the_rest_only(oracle: Oracle, tmp_path: Path, capsys):
    rows = [{"prompt": f"What is {i} + {j}?", "answer": str(i + j)} for i in range(1, 5) for j in range(5, 8)]
    rows += [{"prompt": "What is 1 + 1?", "answer": "2"}, {"prompt": "What is 1 + 2?", "answer": "3"}]
    cfg = settings(tmp_path, sources=f"[{write(tmp_path / 's.jsonl', rows)}]", engine__url=oracle.url, engine__model="m",
                   engine__concurrency=4, hack__enabled="true",
                   difficulty__enabled="true", difficulty__max_pass_rate=0.95)  # fmt: skip
    oracle.fail_after = 14 * 8 + 30
    with pytest.raises(EngineError, match="out of memory"):
        run(cfg)
    kept = len(oracle.asked)
    oracle.fail_after = None
    assert run(cfg) == 0
    assert "guess: prompts  14/14" in (shown := capsys.readouterr().err) and "solve: prompts  12/12" in shown
    again = len(oracle.asked) - kept
    assert again <= 12 * 10 and all("step by step" in text for text in oracle.asked[kept:])  # no guess was asked twice
    assert len(oracle.asked) <= 14 * 8 + 12 * 10 + 4 * 10  # at most the four prompts in flight were lost
    found = stages(tmp_path / "store" / "v1")
    assert found["easy to hack"]["dropped"] == 2 and found["difficulty"]["reasons"] == {"too easy": 6}
    lines = [json.loads(line) for line in (tmp_path / "store" / "v1" / "prompts.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        a, b = (int(n) for n in line["prompt"].removeprefix("What is ").removesuffix("?").split(" + "))
        assert (a + b) % 2 and 0 <= line["pass_rate"] < 0.95 and line["difficulty"] == pytest.approx(1 - line["pass_rate"])
    before = len(oracle.asked)
    assert run(cfg) == 0 and len(oracle.asked) == before and list(versions(tmp_path / "store")) == [1]


@pytest.mark.skipif(DATA is None, reason="K15_DATA_DIR is not set")
def test_gsm8k_and_math_give_the_same_bytes_twice(tmp_path: Path):
    for name in ("one", "two"):
        cfg = settings(tmp_path / name, sources=f"[{DATA}/gsm8k/train.jsonl,{DATA}/math/test_minus_math500.jsonl]",
                       evaluation=f"[{DATA}/gsm8k/test.jsonl,{DATA}/math500/test.jsonl]", balance__size=5000)  # fmt: skip
        assert run(cfg) == 0
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n / "store" / "v1").iterdir()} for n in ("one", "two"))
    assert first == second and set(first) == {"prompts.jsonl", "manifest.json", "funnel.json", "funnel.md"}
    found = stages(tmp_path / "one" / "store" / "v1")
    assert found["read"]["left"] == 7473 + 4500 and found["balance"]["left"] == 5000
    assert 20 <= found["kind"]["dropped"] <= 60 and 50 <= found["contamination"]["dropped"] <= 150


WRONG = {
    "": "sources is empty",
    "sources=[nope.jsonl]": "nope.jsonl does not exist",
    "sources=[{s}] hack.enabled=true": "engine.path=",
    "sources=[{s}] engine.url=http://h/v1": "nothing asks it",
    "sources=[{s}] hack.enabled=true engine.url=http://h/v1": "needs engine.model=",
    "sources=[{s}] hack.enabled=true engine.url=h/v1 engine.model=m": "engine.url is 'h/v1'",
    "sources=[{s}] hack.enabled=true engine.url=http://h/v1 engine.model=m engine.key_env=NO_KEY": "engine.key_env is 'NO_KEY'",
    "sources=[{s}] hack.enabled=true engine.url=http://h/v1 engine.model=m engine.request_timeout_s=0": "request_timeout_s is 0",
    "sources=[{s}] engine.model=m": "give engine.url=",
    "sources=[{s}] tagger=rule": "Did you mean 'rules'?",
    "sources=[{s}] filters.near_duplicates=0.1": "0.3",
    "sources=[{s}] difficulty.min_pass_rate=0.9 difficulty.max_pass_rate=0.1": "0 <= min <= max <= 1",
    "sources=[{s}] balance.size=0": "at least 1",
    "source=[{s}]": "Did you mean 'sources'?",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_settings_are_one_line_before_anything_is_made(words: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["k15"])
    source = write(tmp_path / "s.jsonl", [{"prompt": "1+1?", "answer": "2"}])
    assert main(["curate", *words.format(s=source).split()]) == 2
    said = capsys.readouterr()
    assert WRONG[words] in said.err and len(said.err.splitlines()) == 1, said.err
    assert [p.name for p in tmp_path.iterdir()] == ["s.jsonl"]


def test_a_source_that_shows_no_row_is_bad_not_empty(tmp_path: Path):
    assert isinstance(next(iter(read(write(tmp_path / "x.jsonl", ["[]"]), FieldsConfig()))), BadRow)
