"""The judge behind the router and the audit, over real HTTP: asked only where it should be, and never silently replaced."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from k15.config.schema import JudgeConfig, RewardConfig
from k15.errors import ConfigError, EngineError
from k15.reward.opinion import NO_QUESTION, engines_opener
from k15.reward.router import Rewards, check_rewards
from k15.types import Group, Prompt, Rollout, Segment

PROMPT = Prompt("p", "What is 3+4?", "7")
TEXTS = ["#7", "#seven", "#8", "no answer", "#seven", "#undecided"]


class Endpoint(BaseHTTPRequestHandler):
    """Says that `seven` is 7 and nothing else is; leaves `undecided` open. `asked` holds the prompts."""

    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        engine = "token_ids" in body  # k15's own engines take and give token ids; here a character is a token
        prompt = "".join(map(chr, body["token_ids"])) if engine else body["messages"][0]["content"]
        self.asked.append(prompt)
        response = re.findall(r"<response>\n(.*)\n</response>", prompt)[0]
        right = response in ("#seven", "#7")
        text = "I cannot say" if "undecided" in response else f'So {{"correct": {json.dumps(right)}}}'
        choice: dict = {"message": {"content": text}, "finish_reason": "stop"}
        if engine:
            content = [{"token_id": ord(c), "logprob": -0.5} for c in text]
            choice |= {"token_ids": [ord(c) for c in text], "logprobs": {"content": content}}
        answer = json.dumps({"choices": [choice]}).encode()
        self.send_response(500 if "outage" in response else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[str]]]:
    """(url, prompts asked so far)"""
    handler = type("Asked", (Endpoint,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", handler.asked
    server.shutdown()
    server.server_close()


def rewards(url: str, **settings) -> Rewards:
    judge = JudgeConfig(url=url, model="judge", retries=1, timeout_s=10, **settings)
    return Rewards(RewardConfig(template="#ANSWER", audit_fraction=1.0, judge=judge), 3)


def group(texts: list[str]) -> Group:
    return Group(PROMPT, tuple(Rollout("p", i, i, (1,), (Segment((2,), (0.0,), 0, "stop"),)) for i in range(len(texts))))


def test_the_judge_sees_what_the_rule_refused_and_nothing_else(endpoint) -> None:
    url, asked = endpoint
    with rewards(url, rejected=True, votes=3) as scorer:
        scores = scorer.score_group(group(TEXTS), TEXTS, 0)
        assert [s.correct for s in scores] == [True, True, False, False, True, False]
        assert scores[1].reason.startswith("judge: correct (rule:") and scores[5].reason.startswith("judge: undecided")
        assert scores[1].parts["correct"] == 1.0 and "judge" not in scores[0].reason + scores[3].reason
        assert len(asked) == 3 + 3 + 6  # `seven` once for both, `8`, and `undecided` with a retry of each vote
        assert all("What is 3+4?" in p and "\n7\n" in p for p in asked)
        found = scorer.take_metrics()
        assert (found["reward_judge_n"], found["reward_judge_accepted"], found["reward_judge_undecided"]) == (4, 2, 1)
        assert "reward_judge_n" not in scorer.take_metrics()
        before = len(asked)
        held_out = scorer.score_group(group(TEXTS), TEXTS, 0, audit=False)
        assert [s.correct for s in held_out] == [True, False, False, False, False, False] and len(asked) == before


def test_the_audit_may_ask_the_judge(endpoint) -> None:
    url, asked = endpoint
    with rewards(url, audit=True) as scorer:
        scorer.score_group(group(["#7", "#7.0", "#8"]), ["#7", "#7.0", "#8"], 0)
        assert scorer.take_metrics() == {"reward_audit_n": 2, "reward_audit_unknown": 0, "reward_audit_disagreement": 0.5}
    assert len(asked) == 2 and all(NO_QUESTION in p for p in asked)


def test_an_outage_is_an_error_not_a_reward(endpoint, monkeypatch) -> None:
    monkeypatch.setattr("k15.reward.judge.FIRST_WAIT_S", 0.01)
    with rewards(endpoint[0], rejected=True) as scorer, pytest.raises(EngineError, match="status 500"):
        scorer.score_group(group(["#outage"]), ["#outage"], 0)


@pytest.mark.parametrize(("settings", "said"), [
    ({"url": "http://h/v1", "model": "m"}, "nothing asks the judge"),
    ({"url": "http://h/v1", "rejected": True}, "needs both"),
    ({"url": "http://h/v1", "model": "m", "rejected": True, "votes": 0}, "votes is 0"),
    ({"url": "http://h/v1", "model": "m", "rejected": True, "key_env": "K15_NO_SUCH_KEY"}, "K15_NO_SUCH_KEY"),
])  # fmt: skip
def test_a_judge_that_cannot_be_asked_is_refused_at_once(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_rewards(RewardConfig(judge=JudgeConfig(**settings)))


def test_the_runs_own_engines_may_judge(endpoint) -> None:
    url, asked = endpoint
    cfg = RewardConfig(template="#ANSWER", judge=JudgeConfig(url="engines", rejected=True, retries=0), audit_fraction=0.0)
    urls = ["http://127.0.0.1:9"]  # the discard port: an engine that has gone
    ask = engines_opener(cfg.judge, lambda: urls, "t" * 16, lambda s: [ord(c) for c in s], lambda t: "".join(map(chr, t)))
    with Rewards(cfg, 3, open_ask=ask) as scorer:
        urls[:] = [url.removesuffix("/v1")]  # it was healed elsewhere
        scores = scorer.score_group(group(TEXTS), TEXTS, 0)
        assert [s.correct for s in scores] == [True, True, False, False, True, False] and len(asked) == 3


def test_engines_pass_the_check_before_there_are_any() -> None:
    cfg = RewardConfig(template="#ANSWER", judge=JudgeConfig(url="engines", rejected=True))
    check_rewards(cfg)
    with Rewards(cfg) as scorer, pytest.raises(ConfigError, match="no engine runs here"):
        scorer.score_group(group(["#8"]), ["#8"], 0)
