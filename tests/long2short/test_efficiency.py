"""The base of long2short: the rule, what is kept of a run for it, and the command that names it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.cli import main
from k15.config.check import check
from k15.config.commands import COMMANDS
from k15.config.compose import compose_as, to_yaml
from k15.config.hf import EXPORT_RECORD, export_record
from k15.config.schema import RunConfig
from k15.errors import ConfigError, DataError
from k15.eval.efficiency import Checkpoint, best, evaluated, open_choices
from k15.eval.intervals import wilson
from k15.log import MetricsWriter
from k15.runs.exports import keep_export

CURVE = ((40, 10.0), (200, 22.0), (210, 21.0), (215, 40.0), (170, 15.0))  # right of 256, tokens


def points(curve):
    return [Checkpoint(i, wilson(right, 256), tokens) for i, (right, tokens) in enumerate(curve)]


def test_the_most_accuracy_per_token_among_those_that_are_accurate_enough():
    """By hand: Wilson's low end of 215/256 is 0.79. 210 (0.82, 21 tokens) is above it; 200 (0.78), 170 and 40 are not, though
    40 of 256 with 10 tokens and 170 with 15 give 0.0156 and 0.0443 a token, the latter more than 0.0391."""
    assert best(points(CURVE)).iteration == 2
    assert best(points(CURVE[:2])).iteration == 1  # later ones raise the bar
    with pytest.raises(DataError, match="eval.every"):
        best([])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(1, 12)), min_size=1, max_size=12))
def test_what_is_thrown_away_is_never_chosen_later(curve):
    """Pruned after each evaluation, whatever comes: the choice among all is always among those kept."""
    found, kept = points(curve), set()
    for n in range(1, len(found) + 1):
        kept = (kept | {n - 1}) & open_choices(found[:n])
        assert best(found[:n]).iteration in kept


def write_run(folder, curve=CURVE, exports="best"):
    """A run folder as the loop leaves it: a line of metrics, then hf/ replaced, then what is kept."""
    (folder / "hf").mkdir(parents=True)
    with MetricsWriter(folder, tensorboard=False) as writer:
        for point in points(curve):
            i = point.iteration
            share = point.accuracy
            row = {"iteration": 5 * i, "eval_n": 256, "eval_greedy_accuracy": share.estimate, "eval_greedy_length": point.tokens}
            writer.write(row | {"eval_greedy_low": share.low, "eval_greedy_high": share.high})
            (folder / "hf" / "weights").unlink(missing_ok=True)
            (folder / "hf" / "weights").write_text(str(5 * i))
            keep_export(folder, 5 * i, exports)
    return folder


def test_a_run_keeps_its_base(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert (run / "best" / "weights").read_text() == "10"
    assert sorted(p.name for p in (run / "exports").iterdir()) == ["iteration-00010", "iteration-00015"]
    assert main(["eval", "best", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"model.path={run / 'exports' / 'iteration-00010'}" in said
    assert next(line for line in said.splitlines() if "chosen" in line).split()[0] == "10"
    (run / "best").unlink()
    keep_export(run, 20, "best")  # again, as after a restart: nothing else is kept, the link is there
    assert (run / "best" / "weights").read_text() == "10" and len(list((run / "exports").iterdir())) == 2


def test_iterations_that_were_not_kept_displace_nothing(tmp_path):
    """The run began with save.exports=latest and was extended with best."""
    run = write_run(tmp_path / "run", exports="latest")
    keep_export(run, 20, "best")  # worse than iteration 10, whose weights are gone
    assert (run / "best" / "weights").read_text() == "20"


def test_all_or_only_the_latest_export(tmp_path, capsys):
    everything = write_run(tmp_path / "all", exports="all")
    assert {p.name: (p / "weights").read_text() for p in (everything / "exports").iterdir()} == {
        f"iteration-{5 * i:05d}": str(5 * i) for i in range(5)
    }
    latest = write_run(tmp_path / "latest", exports="latest")
    assert not (latest / "exports").exists() and not (latest / "best").exists()
    assert main(["eval", "best", str(latest)]) == 1
    assert "save.exports=best" in capsys.readouterr().out


def test_the_latest_export_is_taken_only_where_it_is_the_choice_s(tmp_path, capsys):
    """A run that had ended (its report is there) and was extended: metrics have iteration 10, hf/ may be older."""
    run = write_run(tmp_path / "run", CURVE[:3], exports="latest")
    (run / "report").mkdir()
    (run / "report" / "index.html").write_text("")
    assert main(["eval", "best", str(run)]) == 1 and "an older k15 wrote it" in capsys.readouterr().out
    (run / "hf" / EXPORT_RECORD).write_text(export_record(5))
    assert main(["eval", "best", str(run)]) == 1 and "is the latest export only" in capsys.readouterr().out
    (run / "hf" / EXPORT_RECORD).write_text(export_record(10))
    assert main(["eval", "best", str(run)]) == 0 and f"model.path={run / 'hf'}" in capsys.readouterr().out
    (run / "report" / "index.html").unlink()
    assert main(["eval", "best", str(run)]) == 1, "a run that goes on replaces hf/"


def test_evaluations_of_a_watched_run(tmp_path, capsys):
    """`k15 eval watch` has measured otherwise than the run: its numbers count, the weights are the run's."""
    run, watch = write_run(tmp_path / "run", exports="all"), tmp_path / "watch"
    watch.mkdir()
    (watch / "config.yaml").write_text(f"watch: {run}\n")
    rows = [
        {"iteration": 5 * p.iteration, "task": "math500", "metric": metric, "value": p.accuracy.estimate, "low": p.accuracy.low,
         "high": p.accuracy.high, "mean_tokens": p.tokens}
        for p in points([(100, 20.0), (99, 10.0)]) for metric in ("pass@1", "maj@8")
    ]  # fmt: skip
    (watch / "by_iteration.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert [p.iteration for p in evaluated(watch, "greedy")] == [0, 5]
    assert main(["eval", "best", str(watch)]) == 0
    assert f"{run}/exports/iteration-00005" in capsys.readouterr().out
    with (watch / "by_iteration.jsonl").open("a") as file:
        file.write(json.dumps(rows[0] | {"task": "math500 java", "value": 0.0}) + "\n")  # as a language of humaneval_mul
    assert [p.iteration for p in evaluated(watch, "greedy")] == [0, 5]
    with (watch / "by_iteration.jsonl").open("a") as file:
        file.write(json.dumps(rows[0] | {"task": "aime24"}) + "\n")
    with pytest.raises(DataError, match="aime24, math500"):
        evaluated(watch, "greedy")


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("sft", ["data.arithmetic=0", "data.paths=[chat.jsonl]"], "is no run of `k15 rl` and no folder of `k15 eval watch`"),
        ("eval", ["model.path=m"], "is no run of `k15 rl` and no folder of `k15 eval watch`"),
        ("eval", ["watch=runs/rl"], "no checkpoint has been evaluated"),
        ("rl", [], "no checkpoint has been evaluated, so none can be chosen. Set eval.every"),
    ],
)
def test_a_folder_without_checkpoints_to_choose_from(command, words, says, tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(compose_as(COMMANDS[command], command, words)))
    with pytest.raises(DataError, match=says):
        best(evaluated(tmp_path, "greedy"))


@pytest.mark.parametrize(
    "line", ['{"iteration": 5, "ta', "[]", "5", {"low": None}, {"value": float("nan")}, {"mean_tokens": "x"}]
)
def test_a_damaged_table_of_a_watched_run_is_named(line, tmp_path):
    row = {"iteration": 5, "task": "math500", "metric": "pass@1", "value": 0.5, "low": 0.4, "high": 0.6, "mean_tokens": 7.0}
    second = line if isinstance(line, str) else json.dumps(row | line)
    (tmp_path / "by_iteration.jsonl").write_text(f"{json.dumps(row)}\n{second}")
    with pytest.raises(DataError, match="by_iteration.jsonl:2 is no number .* again"):
        evaluated(tmp_path, "greedy")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"exports": "newest"}, "latest"),
        ({"exports": "best", "every": 2}, "save.every=5"),
        ({"exports": "all", "export_hf": False}, "save.export_hf=true"),
    ],
)
def test_settings_that_keep_nothing_are_refused(change, says):
    cfg = RunConfig()
    vars(cfg.save).update(change)
    with pytest.raises(ConfigError, match=says):
        check(cfg)
