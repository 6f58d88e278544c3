"""No speed without equal work: each way in which two runs may differ is found, and equal ones pass; and the result's form."""

import json
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.partial import run as partial
from benchmarks.step.gate import check
from benchmarks.step.k15_side import moved, read_run
from benchmarks.step.record import Iteration, Run, Sample
from benchmarks.step.result import GateError, summary, text, write
from benchmarks.step.settings import K15Setting, TrlSetting, Work
from benchmarks.step.trl_side import merged
from k15.config.schema import TinyModelConfig
from k15.data.tiny import write_tiny_model
from k15.log import MetricsWriter, RolloutLog, rollout_record
from k15.types import Prompt, Rollout, Score, Segment

WORK = Work(prompts_per_iteration=16, samples_per_prompt=8, iterations=4, blocks=2)
PLACE = {
    "date": "2025-01-31", "commit": "abc", "device": {"cores": 2}, "busy_cores_of_others": [0.0], "under_load": False,
}  # fmt: skip


def a_run(side, seed, seconds=1.0, length=20.0, rate=0.3, work=WORK):
    """A run whose samples are drawn anew by `seed`; difficulty differs by prompt, as it does in truth."""
    rng = random.Random(f"{side}{seed}")
    iterations = []
    for i in range(work.iterations):
        samples = tuple(
            Sample(f"{i}-{p}=", min(96, max(1, round(rng.gauss(length, 5)))), float(rng.random() < 2 * rate * (p % 2)))
            for p in range(work.prompts_per_iteration)
            for _ in range(work.samples_per_prompt)
        )
        first = 30.0 if i == 0 else 0.0
        iterations.append(Iteration(seconds + first, {"rollout": seconds + first, "train": 0.0}, samples))
    return Run(side, "a setting", tuple(iterations), ((1, 2), (1, 3)), 4e-6, {"torch": "2"})


def both(**trl):
    return [a_run("k15", 0), a_run("trl", 0, **trl), a_run("k15", 1), a_run("trl", 1, **trl)]


def test_equal_work_passes_whatever_the_seed():
    for seed in range(200):
        runs = [a_run("k15", seed), a_run("trl", seed, length=22)]
        assert check(runs, WORK) == []


def changed(run, number, change):
    iterations = list(run.iterations)
    iterations[number] = replace(iterations[number], samples=change(iterations[number].samples))
    return replace(run, iterations=tuple(iterations))


UNEQUAL = {
    "mean lengths": lambda r: [r[0], a_run("trl", 0, length=30), *r[2:3], a_run("trl", 1, length=30)],
    "rewards of the first": lambda r: [r[0], a_run("trl", 0, rate=0.48), r[2], a_run("trl", 1, rate=0.48)],
    "weights did not change": lambda r: [replace(r[0], weights_moved=0.0), *r[1:]],
    "more than 4 steps at lr": lambda r: [*r[:3], replace(r[3], weights_moved=1e-3)],
    "trained on 16 prompts with": lambda r: [*r[:3], changed(r[3], 2, lambda s: s[:-1])],
    "trained on 15 prompts": lambda r: [changed(r[0], 0, lambda s: s[8:]), *r[1:]],
    "sampled other prompts": lambda r: [*r[:3], changed(r[3], 1, lambda s: [replace(x, prompt="x" + x.prompt) for x in s])],
    "outside 1..96": lambda r: [*r[:3], changed(r[3], 3, lambda s: [replace(s[0], length=97), *s[1:]])],
    "3 iterations instead of 4": lambda r: [replace(r[0], iterations=r[0].iterations[1:]), *r[1:]],
    "become other tokens": lambda r: [*r[:3], replace(r[3], prompt_ids=((2,), (3,)))],
    "no run of trl": lambda r: [r[0], r[2]],
}  # fmt: skip


@pytest.mark.parametrize("fault", UNEQUAL)
def test_unequal_work_is_named_and_gives_no_speed(fault):
    runs = UNEQUAL[fault](both())
    faults = check(runs, WORK)
    assert any(fault in f for f in faults), faults
    with pytest.raises(GateError, match="no speed"):
        summary(runs, WORK, faults, PLACE)


def test_result_is_the_ratio_of_counted_medians_as_json_and_chart(tmp_path):
    runs = both(seconds=3.0)
    result = summary(runs, WORK, check(runs, WORK), PLACE)
    assert result["sides"]["k15"]["samples_per_s"] == pytest.approx(128)  # the slow first iteration is not counted
    assert result["ratio"] == pytest.approx(3.0) and result["reached"] and result["ratio_by_block"] == [3.0, 3.0]
    path = write(result, tmp_path, "step-x")
    assert json.loads(path.read_text())["sides"]["trl"]["phases_s"]["rollout"] == 3.0
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    slow = summary(runs2 := both(seconds=1.5), WORK, check(runs2, WORK), PLACE | {"under_load": True})
    assert "in the way: rollout" in text(slow) and "UNDER LOAD" in text(slow)


def test_a_k15_run_folder_is_read_with_wall_time_between_metrics_and_without_evaluation(tmp_path):
    work = Work(prompts_per_iteration=2, samples_per_prompt=2, iterations=2)
    model = write_tiny_model(tmp_path / "model", TinyModelConfig(), 128)
    (tmp_path / "run" / "hf").mkdir(parents=True)
    for folder, value in ((model, 0.0), (tmp_path / "run" / "hf", 0.25)):
        save_file({"w": np.full((2, 2), value, np.float32)}, folder / "model.safetensors")
    log = RolloutLog(tmp_path / "run")
    rollout = Rollout("p", 0, 1, (1, 5), (Segment((4, 2), (-0.1, -0.2), 0, "stop"),))
    phases = {f"time_{p}_s": 0.01 for p in ("rollout", "reward", "train", "weights")}
    with MetricsWriter(tmp_path / "run", tensorboard=True) as metrics:
        metrics.write({"iteration": 0, "eval_n": 8})
        for number in (1, 2):
            time.sleep(0.3)
            metrics.write({"iteration": number, **phases, "train_ref_s": 0.005, "time_eval_s": 0.1})
            record = rollout_record(Prompt("p", "2+2=", "4"), rollout, Score(True, {"correct": 1.0}), "#4")
            log.write(number, [record] * 4)
    run = read_run(tmp_path / "run", model, work, K15Setting("s"))
    assert run.weights_moved == 0.25 == moved(model, tmp_path / "run" / "hf")
    for iteration in run.iterations:
        assert 0.19 < iteration.wall_s < 0.6
        assert sum(iteration.phases_s.values()) == pytest.approx(iteration.wall_s)
        assert iteration.details_s == {"train_ref_s": 0.005}
        assert iteration.samples == (Sample("2+2=", 2, 1.0),) * 4
    assert len(run.prompt_ids) == 2 and all(ids[0] == 1 for ids in run.prompt_ids)


def test_trl_ranks_are_merged_into_one_run():
    step = {"wall_s": 3.0, "generate_s": 1.0, "reward_s": 0.5, "train_s": 1.5, "cpu_s": 2.0}
    ranks = [
        {"steps": [step | {"samples": [{"prompt": p, "length": 4, "reward": 0.0}] * 2}], "prompt_ids": [[1]], "versions": {}}
        for p in ("a", "b")
    ]
    run = merged(ranks, TrlSetting("s", processes=2), 1e-6)
    assert run.iterations[0].counts() == {"a": 2, "b": 2}
    assert run.iterations[0].details_s == {"cpu_of_all_ranks": 4.0}


def test_a_folder_with_a_run_of_partial_is_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert partial.main(["--work", str(tmp_path)]) == 2
    assert "holds a run of this benchmark already" in capsys.readouterr().err
