"""A run folder as a yardstick: constants from half of its iterations give back the other half."""

import numpy as np
import pytest

from k15.errors import DataError
from k15.log.metrics import MetricsWriter
from k15.log.rollouts import RolloutLog
from k15.plan.rollout import Speed, Work, phase
from k15.plan.trace import read_trace, replay
from k15.runs.plan import main

TRUE = Speed(step_s=4e-3, sequence_s=1.5e-4, context_s=0.0, prefill_s=0.0, slots=16)
FIXED_S, REST_S, TRAIN = 0.4, 0.25, (0.3, 5e-5)


@pytest.fixture
def run(tmp_path):
    """20 iterations whose times are those of TRUE, 5 % noise apart; responses grow, and some take two iterations."""
    rng = np.random.default_rng(0)
    metrics, rollouts = MetricsWriter(tmp_path), RolloutLog(tmp_path)
    for number in range(1, 21):
        lengths = np.clip(rng.lognormal(3 + number / 20, 0.8, 96).astype(int), 1, 400)
        old = np.where(np.arange(96) < 8, 30, 0)
        records = [
            {"length": int(n + o), "correct": True, "segments": [{"version": number - 1, "n_tokens": int(o)}] * bool(o)
             + [{"version": number, "n_tokens": int(n)}]} for n, o in zip(lengths, old)
        ]  # fmt: skip
        rollouts.write(number, records)
        noise = rng.normal(1, 0.05)
        seconds = (FIXED_S + phase(Work(lengths, 10 + old), [TRUE]).seconds) * noise
        trained = int(lengths.sum() + old.sum())
        metrics.write({
            "iteration": number, "version": number, "train_tokens": trained, "time_rollout_s": seconds, "time_weights_s": 0.1,
            "time_train_s": TRAIN[0] + TRAIN[1] * trained, "time_reward_s": REST_S - 0.1, "time_eval_s": 9.0,
        })  # fmt: skip
    return tmp_path


def test_the_other_half_is_reproduced(run):
    found = replay(read_trace(run, 10), engines=1, slots=16)
    assert found.iterations == 10
    for predicted, measured in (found.rollout, found.iteration):
        assert predicted == pytest.approx(measured, rel=0.05)
    assert found.rollout_deviation < 0.08 and found.iteration_deviation < 0.08
    f = found.fitted
    assert f.rest_s == pytest.approx(REST_S) and (f.train_fixed_s, f.train_token_s) == pytest.approx(TRAIN, rel=1e-6)
    assert f.speed.step_s == pytest.approx(TRUE.step_s, rel=0.5)
    twice = replay(read_trace(run, 10), engines=1, slots=32)  # fitted under a wrong assumption: it shows, but not in the means
    assert twice.fitted.speed.step_s > f.speed.step_s


def test_the_command_plans_with_a_runs_own_constants(run, capsys):
    words = [
        "plan.device=cpu",
        f"plan.trace={run}",
        "--simulate",
        "rollout.max_concurrent=16",
        "plan.scale=[1]",
        "plan.iterations=2",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "constants fitted on every other iteration; the 10 between:" in out and "measured" in out


def test_too_short_a_run_says_so(run):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:5]))
    with pytest.raises(DataError, match="has 5 iterations.*at least 6"):
        read_trace(run, 10)
