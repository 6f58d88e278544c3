"""The run report: headline numbers computed apart from it, hostile model text, and runs with pieces missing."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from synthetic import EVAL_N, HOSTILE, greedy_correct, make_run

from k15.errors import DataError
from k15.eval.compare import differing
from k15.eval.page import visible
from k15.eval.plots import FIGURES
from k15.eval.report import build_report, main
from k15.eval.run_data import load_run
from k15.eval.samples import SHOWN_CHARACTERS, choose, shorten
from k15.log import MetricsWriter, RolloutLog, read_metrics, read_rollouts


class Page(HTMLParser):
    """Tags with attributes, and the text of a page; complains about tags that do not match."""

    VOID = ("meta", "link", "br", "col", "img", "hr")

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self._open, self._open
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "synthetic")


@pytest.fixture(scope="module")
def page(run_dir):
    return Page(build_report(run_dir))


def test_headline_numbers(page):
    """24.6 % and 68.9 % of 512, Wilson's ends and Newcombe's gain, worked out here from their formulas."""
    z = 1.959963984540054

    def ends(right, n):
        p, d = right / n, 1 + z * z / n
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / d
        return p, (p + z * z / (2 * n)) / d - half, (p + z * z / (2 * n)) / d + half

    (p1, l1, u1), (p2, l2, u2) = ends(greedy_correct(0, 30), EVAL_N), ends(greedy_correct(30, 30), EVAL_N)
    low = p2 - p1 - ((p2 - l2) ** 2 + (u1 - p1) ** 2) ** 0.5
    high = p2 - p1 + ((u2 - p2) ** 2 + (p1 - l1) ** 2) ** 0.5
    assert f"{100 * p1:.1f} → {100 * p2:.1f} %" in page.text
    assert f"{100 * (p2 - p1):+.1f} points 95 % interval {100 * low:+.1f} to {100 * high:+.1f}" in page.text
    assert f"before (iteration 0) {100 * l1:.1f}–{100 * u1:.1f} %, after (iteration 30)" in page.text
    assert "7.0 → 33.6 tokens" in page.text
    assert "30 of 30" in page.text and "1,920" in page.text


def test_all_figures_are_there(run_dir, page):
    for figure in FIGURES:
        with Image.open(run_dir / "report" / "figures" / f"{figure.name}.png") as image:
            assert image.width > 800 and len(image.convert("L").histogram()) == 256
            assert image.convert("L").getextrema()[0] < 128, "nothing is drawn"
        assert f"figures/{figure.name}.png" in page.source
    assert sum(tag == "svg" for tag, _ in page.tags) == len(FIGURES)
    assert "Not drawn" not in page.text and "What this report lacks" not in page.text


def test_page_needs_no_network_and_no_script(page):
    assert not [t for t, _ in page.tags if t in ("script", "link", "iframe", "img", "object")]
    targets = [a.get(k) for _, a in page.tags for k in ("href", "src", "xlink:href") if a.get(k)]
    assert all(t.startswith(("#", "figures/")) for t in targets)
    assert not re.search(r"@import|url\((?!#)", page.source)


def test_hostile_text_is_shown_not_obeyed(run_dir, page):
    """Model text with tags, control characters, direction overrides and lone surrogates."""
    shown = [r for s in choose(load_run(run_dir)) for r in s.records if "<script>" in r["response"]]
    assert shown, "the drawn sample holds no hostile response: change the seed"
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &lt;/td&gt;" in page.source
    assert "‹U+0000› ‹U+001B›[31m ‹U+202E› $\\frac{1}{0}$ ‹U+D800›" in page.source
    assert visible(HOSTILE + "a\n\tb é 𝄞 \u200d").endswith("a\n\tb é 𝄞 \u200d")


def test_sampled_rollouts_are_from_the_log(run_dir, page):
    chosen = choose(load_run(run_dir))
    assert [s.iteration for s in chosen] == [1, 16, 30]
    for s in chosen:
        records = read_rollouts(run_dir / "rollouts" / f"{s.iteration:05d}.jsonl.zst")
        assert s.right == sum(r["correct"] is True for r in records) and s.unfinished == 1
        assert all(r in records for r in s.records)
        assert [r["correct"] for r in s.records][:4] == [True, True, False, False]
        assert any(len(r["segments"]) == 2 for r in s.records)
        assert f"{s.right} right, {s.wrong} wrong, 1 unfinished" in page.text
        for r in s.records:
            assert r["prompt"] in page.text and f"{r['reward']:+.3f}" in page.text


def test_config_only(tmp_path):
    (tmp_path / "config.yaml").write_text("algo: {iterations: 30}\n")
    page = Page(build_report(tmp_path))
    assert "No iteration has been finished" in page.text and "There are no rollout files" in page.text
    assert not list((tmp_path / "report" / "figures").iterdir())


def test_a_fine_tuning_run_shows_its_held_out_loss(tmp_path, capsys):
    with MetricsWriter(tmp_path) as w:
        w.write({"iteration": 0, "eval_loss": 2.5, "eval_n": 7})
        w.write({"iteration": 24, "loss": 1.0, "eval_loss": 1.25, "eval_n": 7})
    assert main([str(tmp_path)]) == 0
    assert "held-out loss: 2.5 (iteration 0) -> 1.25 (iteration 24)" in capsys.readouterr().out
    drawn = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    assert "loss.png" in drawn and "accuracy_length.png" not in drawn, drawn
    assert "Held-out loss fell from 2.5 (iteration 0) to 1.25 (iteration 24)" in Page(tmp_path / "report" / "index.html").text


def test_run_in_its_first_iterations(tmp_path):
    """No config, no second evaluation, one training line, a torn line, no scored rollout."""
    with MetricsWriter(tmp_path) as w:
        w.write({"iteration": 0, "eval_n": 100, "eval_greedy_accuracy": 0.25})
        w.write({"iteration": 1, "reward_mean": 0.3, "loss": float("nan"), "kl": 0.0, "finish_stop": 0, "time_train_s": 2})
    RolloutLog(tmp_path).write(1, [])
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"iteration": 2, "rew')
    page = Page(build_report(tmp_path))
    assert "one evaluation so far, at iteration 0" in page.text
    assert "17.5–34.3 %" in page.text  # Wilson's for 25 of 100
    assert "loss is not a finite number at iteration 1" in page.text
    assert "There is no config.yaml" in page.text
    absent = re.search(r"Not drawn, for want of data: ([^.]*)\.", page.text)[1]
    assert "Response lengths, first and last" in absent and "Reward by part" not in absent


def test_damaged_rollouts_leave_the_rest(tmp_path):
    """Files cut off: said once each, and a figure of an earlier report does not stay beside the new page."""
    folder = make_run(tmp_path / "damaged", iterations=3, prompts=1)
    for path in (folder / "rollouts").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    stale = folder / "report" / "figures" / "pass_rates.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    page = Page(build_report(folder))
    assert not stale.exists()
    assert page.text.count("is damaged") == 3
    assert "24.6 → 68.9 %" in page.text


def test_odd_names_and_settings(tmp_path):
    """Names from users reach figures and table: `$` is no mathematics, `_` does not hide a legend entry."""
    with MetricsWriter(tmp_path) as w:
        for i in range(1, 4):
            w.write({"iteration": i, "reward_mean": 0.5, "reward_$bad^{$": 0.1, "reward__x<b>": 0.2, "finish_odd": 3})
    (tmp_path / "config.yaml").write_text("a: [unclosed\n<script>")
    page = Page(build_report(tmp_path))
    assert "config.yaml cannot be parsed" in page.text
    assert "reward" in page.text and "$bad^{$" in page.text and "_x<b>" in page.text


def test_main_compares_runs(tmp_path, run_dir, page, capsys):
    other = make_run(tmp_path / "other", iterations=7, seed=1, tau=0.3, prompts=2)
    assert differing([load_run(run_dir), load_run(other)]) == ["algo.tau", "algo.iterations"]
    assert main([str(run_dir), str(other), "--out", str(tmp_path / "cmp")]) == 0
    out = capsys.readouterr().out
    assert "held-out accuracy (greedy): 24.6 % (95 % interval 21.1-28.5) -> 68.9 %" in out
    assert (run_dir / "report" / "index.html").read_text() == page.source  # made again, it is the same
    comparison = Page(tmp_path / "cmp" / "index.html")
    assert "They differ in algo.tau, algo.iterations" in comparison.text
    assert comparison.text.count("+44.3") == 2 and "other" in comparison.text
    assert (tmp_path / "cmp" / "figures" / "comparison.png").exists()
    assert main([str(run_dir), "--out", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "index.html").read_text() == page.source and list((tmp_path / "one" / "figures").glob("*.png"))


def test_clear_errors(tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match="there is no run folder"):
        build_report(tmp_path / "absent")
    with pytest.raises(DataError, match=r"neither config\.yaml nor metrics\.jsonl"):
        build_report(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2 and "no run was given and there is none below runs/" in capsys.readouterr().err
    assert main(["absent"]) == 2 and "error: there is no run folder absent" in capsys.readouterr().err


def test_metrics_are_documented(run_dir, request):
    """docs/metrics.md names every metric that the synthetic run writes and that a figure asks for."""
    doc = (request.config.rootpath / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`([a-z0-9_<>*]+)`", doc))
    families = [d[: d.index("<")] for d in documented if "<" in d]
    used = {k for row in read_metrics(run_dir / "metrics.jsonl") for k in row}
    used |= {n for f in FIGURES for n in f.needs if not n.endswith("*") and n != "rollouts"}
    assert not {u for u in used - documented if not any(u.startswith(f) for f in families)}


def test_shorten():
    text = "".join(chr(97 + i % 26) for i in range(50_000))
    short = shorten(text)
    assert len(short) < SHOWN_CHARACTERS + 60 and short.startswith(text[:3000]) and short.endswith(text[-3000:])
    assert "[… 44,000 characters left out …]" in short and shorten("x" * SHOWN_CHARACTERS) == "x" * SHOWN_CHARACTERS
