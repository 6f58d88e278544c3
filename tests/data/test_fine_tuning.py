"""Conversations as samples, JSONL rows, the held-out split and the schedule of steps: no model, no torch."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.config.compose import compose_as
from k15.config.fit import StageConfig
from k15.config.sft import SftConfig, check_sft
from k15.data.chat import answer, conversation
from k15.data.examples import Examples, held_out, read_examples, read_pairs
from k15.data.mixture import Schedule, epoch_order, even_cuts
from k15.data.tokenizer import load_tokenizer, write_char_tokenizer
from k15.errors import ConfigError, DataError
from k15.types import Sample

CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
FORGETFUL = (  # drops what earlier assistant turns thought, as reasoning models' templates do
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' }}"
    "{{ m['content'] if loop.last or m['role'] != 'assistant' else m['content'].split('|')[-1] }}"
    "{{ eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "think|2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "sum|4 "},
]


def tokenizer(folder: Path, template: str | None = None):
    write_char_tokenizer(folder, "abcdefghijklmnopqrstuvwxyz0123456789+-*/=?#|<> \n")
    if template is not None:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return load_tokenizer(folder, chat=template is not None)


def counted(sample: Sample, tok) -> str:
    """The text that the loss sees, end tokens as `$`."""
    tail = sample.tokens[sample.prompt_len :]
    kept = [t for t, m in zip(tail, sample.loss_mask, strict=True) if m]
    return "".join("$" if t == tok.eos_id else tok.decode([t]) for t in kept)


def test_only_what_the_assistant_says_counts_and_each_answer_ends(tmp_path):
    tok = tokenizer(tmp_path, CHATML)
    both, last = conversation(TURNS, tok), conversation(TURNS, tok, "last")
    assert counted(both, tok) == "think|2$sum|4 $" and counted(last, tok) == "sum|4 $"
    assert both.tokens == last.tokens  # only the mask differs
    assert both.tokens[: both.prompt_len] == tuple(tok.encode_plain(tok.render(TURNS[:2])))  # as at sampling time
    assert tok.decode(both.tokens) == "".join(f"<s>{m['role']}\n{m['content']}\n" for m in TURNS).removesuffix("\n")
    one = conversation(TURNS[1:3], tok)
    assert one == answer("1+1?", "think|2", tok)  # a conversation of one turn is what RL trains on


def test_an_answer_of_no_token_is_a_bad_row_like_any_other(tmp_path):
    tok = tokenizer(tmp_path, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    said = [[TURNS[1], {"role": "assistant", "content": text}] for text in ("日", "2")]  # the first is not in the vocabulary
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in said))
    with pytest.raises(DataError, match="rows.jsonl:1: .*no token at all"):
        list(read_examples(tmp_path / "rows.jsonl", tok))
    assert list(read_examples(tmp_path / "rows.jsonl", tok, on_bad_row="skip")) == [conversation(said[1], tok)]


def test_a_template_without_an_end_gets_one_and_one_that_forgets_is_refused(tmp_path):
    tok = tokenizer(tmp_path, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert counted(conversation(TURNS[1:3], tok), tok) == "think|2$"
    forgetful = tokenizer(tmp_path, FORGETFUL)
    with pytest.raises(DataError, match=r"data.turns=last"):
        conversation(TURNS, forgetful)
    assert counted(conversation(TURNS, forgetful, "last"), forgetful) == "sum|4 $"
    opens = tokenizer(tmp_path, CHATML.replace("<s>assistant", "<s>assistant<think>"))
    with pytest.raises(DataError, match="Give rows of `prompt` and `response`"):
        conversation(TURNS, opens, "last")


def test_a_rejected_answer_that_was_cut_off_gets_no_end(tmp_path):
    tok = tokenizer(tmp_path)
    rows = [{"prompt": "1+1", "chosen": "2", "rejected": "1+1+1+1"} | more for more in ({}, {"rejected_whole": False})]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (chosen, whole), (_, cut) = read_pairs(tmp_path / "pairs.jsonl", tok)
    assert [counted(s, tok) for s in (chosen, whole, cut)] == ["2$", "1+1+1+1$", "1+1+1+1"]


def test_bad_rows_are_named_by_line_or_skipped(tmp_path, caplog):
    tok, path = tokenizer(tmp_path / "tok", CHATML), tmp_path / "rows.jsonl"
    good = [{"prompt": "1+1=", "response": "2"}, {"messages": TURNS}]
    bad = ["{", "[1]", json.dumps({"prompt": "x"}),
           json.dumps({"messages": TURNS[:2]}), json.dumps({"messages": "x"}),
           json.dumps({"messages": [{"role": "human", "content": "x"}]}),
           json.dumps({"prompt": " ", "response": "x"}), '{"response": ' + "9" * 5000 + "}",
           '{"response": ' + "[" * 9000 + "]" * 9000 + "}", '{"prompt": "x", "response": "\\ud83d"}',
           '{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "x"}]}']  # fmt: skip
    path.write_text("\n".join([json.dumps(good[0]), *bad, "", json.dumps(good[1])]))
    assert len(list(read_examples(path, tok, on_bad_row="skip"))) == 2
    assert f"{path}: 11 bad rows skipped, 2 kept; skipped lines: 2-12\n" in caplog.text
    with pytest.raises(DataError, match=r"rows.jsonl:2: not JSON.*on_bad_row=skip"):
        list(read_examples(path, tok))
    for line, message in zip(
        bad[1:], ("a list", "`response` is missing", "must end with", "must be a list", "'human'", "`prompt` is ' '",
                  r"rows.jsonl:1: not JSON \(Exceeds", r"rows.jsonl:1: nested too deeply", "half a character",
                  "`messages` holds half"), strict=True,
    ):  # fmt: skip
        path.write_text(line)
        with pytest.raises(DataError, match=message):
            list(read_examples(path, tok))
    with pytest.raises(DataError, match="model.chat=true"):
        path.write_text(json.dumps(good[1]))
        list(read_examples(path, tokenizer(tmp_path / "plain")))
    path.write_text(json.dumps({"prompt": "1+1=", "chosen": "2", "rejected": "2"}))
    with pytest.raises(DataError, match="nothing to prefer"):
        list(read_pairs(path, tok))


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 50), min_size=2, max_size=9), st.integers(1, 8)), min_size=1, max_size=20))
def test_examples_come_back_as_they_went_in_and_a_prompt_has_one_side(rows):
    samples = []
    for tokens, prompt in rows:
        prompt = min(prompt, len(tokens) - 1)
        samples.append(Sample(tuple(tokens), prompt, tuple(i % 2 for i in range(len(tokens) - prompt))))
    examples = Examples(samples)
    assert [examples[i] for i in range(len(examples))] == samples
    assert examples.lengths.tolist() == [len(s.tokens) for s in samples]
    out, sides = held_out(examples, 0.4), {}
    for sample, side in zip(samples, out, strict=True):
        assert sides.setdefault(sample.tokens[: sample.prompt_len], side) == side
    assert not held_out(examples, 0.0).any() and held_out(examples, 1.0).all()
    assert Examples(samples[::-1]).fingerprint() != examples.fingerprint() or samples == samples[::-1]


@settings(deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 1000))
def test_steps_are_even_and_hold_every_unit_once(lengths, budget):
    bounds = even_cuts(np.array(lengths), budget)
    assert bounds[0] == 0 and bounds[-1] == len(lengths) and (np.diff(bounds) > 0).all()
    sums = [sum(lengths[a:b]) for a, b in pairwise(bounds)]
    assert max(sums) <= budget + max(lengths)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 3)), min_size=1, max_size=4), st.integers(0, 99))
def test_a_weight_is_how_often_an_epoch_shows_a_row(files, seed):
    sizes, weights = zip(*files, strict=True)
    order = epoch_order(sizes, weights, np.random.default_rng(seed))
    first = 0
    for size, weight in files:
        seen = np.bincount(order[(order >= first) & (order < first + size)] - first, minlength=size)
        assert set(seen.tolist()) <= {int(weight), int(weight) + 1}
        assert seen.sum() == int(weight) * size + round((weight - int(weight)) * size)
        first += size
    assert np.array_equal(order, epoch_order(sizes, weights, np.random.default_rng(seed)))


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 1))
def test_a_stage_ends_at_its_final_learning_rate_however_short_it_is(steps, rise):
    schedule = Schedule({"a": StageConfig(1, 10, 10, 2e-5, 2e-6, rise)}, [steps], [1.0], np.full(steps, 10), 0)
    lrs = [schedule[i].lr for i in range(len(schedule))]
    assert len(lrs) == steps and lrs[-1] == pytest.approx(2e-5 if steps == 1 else 2e-6)
    assert max(lrs) == pytest.approx(2e-5) and min(lrs) > 0
    top = lrs.index(max(lrs))
    assert lrs[:top] == sorted(lrs[:top]) and lrs[top:] == sorted(lrs[top:], reverse=True)


def test_two_stages_each_rise_and_fall_and_the_longer_takes_the_long_ones():
    stages = {"a": StageConfig(2, 100, 1000, 2e-5, 2e-6, 0.1), "b": StageConfig(1, 1000, 1000, 1e-5, 1e-6, 0.1)}
    lengths = np.array([50] * 300 + [500] * 10)
    schedule = Schedule(stages, [310], [1.0], lengths, 0)
    steps = [schedule[i] for i in range(len(schedule))]
    assert [s.stage for s in steps] == ["a"] * 30 + ["b"] * 20 and schedule.left_out == {"a": 10, "b": 0}
    for epoch in (0, 1):
        seen = np.concatenate([s.units for s in steps if (s.stage, s.epoch) == ("a", epoch)])
        assert sorted(seen.tolist()) == list(range(300))
    assert {i for s in steps if s.stage == "b" for i in s.units} == set(range(310))
    for name, first, last in (("a", 0, 29), ("b", 30, 49)):
        lrs = [s.lr for s in steps[first : last + 1]]
        assert max(lrs) == stages[name].lr and lrs[0] < lrs[-1] * 10 and lrs[-1] == pytest.approx(stages[name].final_lr)
    with pytest.raises(DataError, match="no example fits"):
        Schedule({"a": StageConfig(context_tokens=10)}, [310], [1.0], lengths, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "experiment=sft_tiny"),
        (["experiment=sft_tiny", "model.tiny.num_heads=0"], "model.tiny.num_heads is 0, but it must be greater than 0"),
        (["data.path=x"], "Did you mean 'paths'"),
        (["experiment=sft_tiny", "stages.second.final_lr=1"], "stages.second.final_lr is 1"),
        (["experiment=sft_tiny", "stages.first.epochs=0", "stages.second.epochs=0"], "nothing would be trained"),
        (["experiment=sft_tiny", "data.turns=first"], "Allowed: all, last"),
        (["experiment=sft_tiny", "stages.first.rise=2"], "is a fraction"),
        (["data.paths=[x.jsonl]"], "the tiny model"),
        (["data.paths=[x.jsonl]", "data.arithmetic=5"], "take one.* data.arithmetic=0"),
        (["experiment=sft_tiny", "cluster.time_min=1"], "cluster.signal_before_s=120 is not within .* Give at most 59"),
        (["experiment=sft_tiny", "cluster.etcd_members=3"], "three nodes, but cluster.nodes is 1"),
        (
            ["experiment=sft_tiny", "fit.kernels=triton", "cluster.device=cpu"],
            "fit.kernels=triton needs GPUs, but cluster.device=cpu",
        ),
        (["experiment=sft_tiny", "cluster.gpus_per_node=0", "cluster.device=cuda"], "cluster.gpus_per_node is 0"),
        (["experiment=sft_tiny", "cluster.gpus_per_node=1", "parallel.ranks_per_node=2"], "ranks_per_node=2 is over"),
    ],
)
def test_wrong_settings_say_what_to_do(words, message):
    with pytest.raises(ConfigError, match=message):
        check_sft(compose_as(SftConfig, "sft", words))


def test_metrics_for_a_package_that_is_missing_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # what an absent package looks like
    with pytest.raises(ConfigError, match=r"log.tensorboard is True.*pip install tensorboard.*log.tensorboard=false"):
        check_sft(compose_as(SftConfig, "sft", ["experiment=sft_tiny"]))
