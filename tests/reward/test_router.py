"""Routing: parts and totals of a group, custom rewards isolated, and settings refused at the start."""

import logging
import math

import pytest

from k15.config.schema import LengthRewardConfig, RewardConfig
from k15.errors import ConfigError, DataError
from k15.reward.router import Rewards, check_domains
from k15.types import Group, Prompt, Rollout, Segment

HERE = "tests.reward.rewards_for_tests"


def group(*rollouts: tuple[int, str], domain: str = "math") -> Group:
    made = [
        Rollout("p", i, i, (1,), (Segment((5,) * n, (-0.1,) * n, 0, finish),))  # type: ignore[arg-type]
        for i, (n, finish) in enumerate(rollouts)
    ]
    return Group(Prompt("p", "47+85=", "132", domain), tuple(made))


def test_parts_weights_and_warm_up() -> None:
    cfg = RewardConfig(correct=2.0, repetition_penalty=0.3, length=LengthRewardConfig(0.5, 4), template="#ANSWER")
    g = group((4, "stop"), (8, "stop"), (12, "repetition"), (6, "length"))
    texts = ["#132", "7+5=12#132", "#1313131", "7+5"]
    with Rewards(cfg) as rewards:
        early, late = (rewards.score_group(g, texts, i) for i in (3, 4))
    assert [s.correct for s in late] == [True, True, False, False]
    assert [dict(s.parts) for s in early] == [
        {"correct": 2.0, "length": 0.0, "repetition": 0.0},
        {"correct": 2.0, "length": 0.0, "repetition": 0.0},
        {"correct": 0.0, "length": 0.0, "repetition": -0.3},
        {"correct": 0.0, "length": 0.0, "repetition": 0.0},
    ]
    assert all(math.copysign(1, s.parts["length"]) == 1 for s in early), "-0.0 would be written to the records"
    assert [s.parts["length"] for s in late] == [0.25, 0.0, -0.25, 0.0]
    assert late[2].total == pytest.approx(-0.55) and late[3].reason == "no answer"
    assert not rewards.failures


@pytest.mark.parametrize(("name", "value"), [("brevity", 99.6), ("slow_brevity", -0.4)])
def test_custom_rewards_sync_and_async(name: str, value: float) -> None:
    with Rewards(RewardConfig(custom=f"{HERE}:{name}")) as rewards:
        right, wrong = rewards.score_group(group((4, "stop"), (4, "stop")), ["#132", "#131"], 0)
    assert right.parts["custom"] == wrong.parts["custom"] == pytest.approx(value)
    assert (right.correct, wrong.correct) == (True, False), "a custom reward never decides the verdict"


def test_a_failing_custom_reward_is_a_counted_zero(caplog) -> None:
    texts = ["raise", "die", "nan", "hang", "fine"]
    with Rewards(RewardConfig(custom=f"{HERE}:moody", timeout_s=1.0, workers=1)) as rewards:
        rewards.score_group(group((1, "stop")), ["warm"], 0)
        with caplog.at_level(logging.WARNING, logger="k15"):
            scores = rewards.score_group(group(*[(1, "stop")] * 5), texts, 0)
    assert [s.parts["custom"] for s in scores] == [0.0, 0.0, 0.0, 0.0, 0.25]
    for score, says in zip(scores, ["KeyError: 'mood'", "crash (exit status 3)", "finite", "timeout"], strict=False):
        assert says in score.reason
    assert rewards.failures["custom"] == 4
    assert caplog.text.count("counts as 0") == 3, "the first few are logged in full, the rest only counted"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no_colon", "must be package.module:function"),
        ("no.such.module:f", "No module named 'no'"),
        (f"{HERE}:missing", "no attribute 'missing'"),
        (f"{HERE}:NOT_A_FUNCTION", "is a int, not a function"),
        (f"{HERE}:one_argument", "too many positional arguments"),
    ],
)
def test_a_custom_reward_that_cannot_be_used_is_refused_at_the_start(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"reward.custom") as caught:
        Rewards(RewardConfig(custom=spec))
    assert says in str(caught.value)


def test_unknown_domains_and_weights_are_refused() -> None:
    with pytest.raises(DataError, match=r"domain 'chess', which has no reward. Known domains: math"):
        check_domains([group((1, "stop"), domain="chess").prompt])
    with pytest.raises(ConfigError, match=r"repetition_penalty is -1"):
        Rewards(RewardConfig(repetition_penalty=-1))
