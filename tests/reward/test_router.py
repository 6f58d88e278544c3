"""Routing: parts and totals of a group, custom rewards isolated, and settings refused at the start."""

import json
import logging
import math
from pathlib import Path

import psutil
import pytest

from k15.config.compose import compose_run
from k15.config.schema import DomainRewardConfig, DomainsConfig, LengthRewardConfig, RewardConfig
from k15.errors import ConfigError, DataError
from k15.reward.math import MathVerdict
from k15.reward.router import DOMAINS, Rewards, check_domains, check_rewards
from k15.types import Group, Prompt, Rollout, Segment

CONF = Path(__file__).resolve().parents[2] / "conf" / "reward"
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


def test_a_domain_has_weights_of_its_own() -> None:
    own = DomainsConfig(math=DomainRewardConfig(correct=3.0, length_weight=1.0))
    g, texts = group((4, "stop"), (8, "stop")), ["#132", "#131"]
    with Rewards(RewardConfig(length=LengthRewardConfig(0.5, 2), domains=own)) as rewards:
        early, late = (rewards.score_group(g, texts, i) for i in (1, 2))
    assert [s.total for s in early] == [3.0, 0.0] and [s.total for s in late] == [3.5, -0.5]
    with pytest.raises(ConfigError, match=r"domains.math.length_weight is -1"):
        Rewards(RewardConfig(domains=DomainsConfig(math=DomainRewardConfig(length_weight=-1.0))))


@pytest.mark.parametrize("name", sorted(p.stem for p in CONF.glob("*.yaml")))
def test_every_shipped_reward_config_is_accepted(name: str) -> None:
    cfg = compose_run([f"reward={name}"])
    check_rewards(cfg.reward)
    assert compose_run([f"reward={name}", "reward.domains.math.correct=2.5"]).reward.domains.math.correct == 2.5


@pytest.mark.parametrize(("name", "value"), [("brevity", 99.6), ("slow_brevity", -0.4)])
def test_custom_rewards_sync_and_async(name: str, value: float) -> None:
    with Rewards(RewardConfig(custom=f"{HERE}:{name}")) as rewards:
        right, wrong = rewards.score_group(group((4, "stop"), (4, "stop")), ["#132", "#131"], 0)
    assert right.parts["custom"] == wrong.parts["custom"] == pytest.approx(value)
    assert (right.correct, wrong.correct) == (True, False), "a custom reward never decides the verdict"


FAILURES = {
    "raise": "KeyError: 'mood'", "die": "crash (exit status 3)", "nan": "finite", "hang": "timeout", "spin": "timeout",
    "bomb": "MemoryError", "kill": "killed by signal SIGKILL", "deep": "RecursionError", "fork": "crash (exit status 0)",
    "none": "returned None", "text": "returned '0.5'", "exit": "SystemExit",
}  # fmt: skip


def test_a_failing_custom_reward_is_a_counted_zero(caplog) -> None:
    """Whatever the user's function does, it costs its own value only; the others keep theirs, and their order."""
    texts = [t for name in FAILURES for t in (name, "fine")] + ["print"]
    cfg = RewardConfig(custom=f"{HERE}:moody", custom_weight=2.0, timeout_s=2.5, memory_gb=0.5)
    with Rewards(cfg) as rewards, caplog.at_level(logging.WARNING, logger="k15"):
        scores = rewards.score_group(group(*[(1, "stop")] * len(texts)), texts, 0)
    assert [s.parts["custom"] for s in scores] == [0.0, 0.5] * len(FAILURES) + [0.5]
    for name, score in zip(texts, scores, strict=True):
        assert FAILURES.get(name, "") in score.reason
    assert rewards.failures["custom"] == len(FAILURES)
    assert rewards.take_metrics() == {"reward_failures_custom": len(FAILURES)} and rewards.take_metrics() == {}
    assert caplog.text.count("counts as 0") == 3, "the first few are logged in full, the rest only counted"
    asleep = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "600"] and p.ppid() == 1]
    assert not asleep, "what a reward started ends with its worker"


def test_async_rewards_may_gather_and_fail() -> None:
    with Rewards(RewardConfig(custom=f"{HERE}:gathered", timeout_s=2.0)) as rewards:
        scores = rewards.score_group(group(*[(1, "stop")] * 4), ["a", "raise", "hang", "b"], 0)
    assert [s.parts["custom"] for s in scores] == [190.0, 0.0, 0.0, 190.0]
    assert "in a task" in scores[1].reason and "timeout" in scores[2].reason


def test_the_audit_judges_a_seeded_sample_again_and_resumes() -> None:
    """All or a tenth of the accepted answers; a run that goes on from saved state asks for the same ones."""
    asked: list[str] = []

    def second(pairs) -> list[bool | None]:
        asked.extend(response for response, _ in pairs)
        return [None if "?" in response else "bad" not in response for response, _ in pairs]

    texts = ["fine #132", "bad #132", "wrong #131", "? #132"] * 50
    g = group(*[(1, "stop")] * len(texts))
    with Rewards(RewardConfig(template="#ANSWER", audit_fraction=1.0), 7, second) as rewards:
        rewards.score_group(g, texts, 0)
        rewards.score_group(g, texts, 0, audit=False)
    assert asked == [t for t in texts if "131" not in t], "rejected answers are not judged again"
    assert rewards.take_metrics() == {"reward_audit_n": 100, "reward_audit_unknown": 50, "reward_audit_disagreement": 0.5}
    assert rewards.take_metrics() == {}

    texts = [f"{i} #132" for i in range(200)]
    cfg = RewardConfig(template="#ANSWER", audit_fraction=0.1)
    asked.clear()
    with Rewards(cfg, 7, second) as one:
        one.score_group(g, texts, 0)
        saved, first = json.loads(json.dumps(one.state_dict())), len(asked)
        one.score_group(g, texts, 1)
    assert 5 <= first <= 40
    later = asked[first:]
    asked.clear()
    with Rewards(cfg, 7, second) as two:
        two.load_state_dict(saved)
        two.score_group(g, texts, 1)
    assert asked == later
    asked.clear()
    with Rewards(RewardConfig(template="#ANSWER", audit_fraction=0.0), 7, second) as off:
        off.score_group(g, texts, 0)
    assert not asked and off.take_metrics() == {}


def test_the_second_method_disputes_what_the_first_should_not_have_taken(monkeypatch) -> None:
    """The default second method against a first one with a hole, which takes every answer."""
    hole = lambda pairs, template, pool, question: [MathVerdict(True, "hole", response) for response, _ in pairs]  # noqa: E731
    monkeypatch.setitem(DOMAINS, "math", hole)
    with Rewards(RewardConfig(audit_fraction=1.0)) as rewards:
        g = group(*[(1, "stop")] * 4)
        rewards.score_group(g, ["\\boxed{132}", "\\boxed{131}", "\\boxed{\\frac{264}{2}}", "\\boxed{((}"], 0)
    found = rewards.take_metrics()
    assert found == {"reward_audit_n": 3, "reward_audit_unknown": 1, "reward_audit_disagreement": pytest.approx(1 / 3)}


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
    with pytest.raises(DataError, match=r"domain 'chess', which has no reward. Known domains: .*math"):
        check_domains([group((1, "stop"), domain="chess").prompt])
    with pytest.raises(ConfigError, match=r"repetition_penalty is -1"):
        Rewards(RewardConfig(repetition_penalty=-1))
