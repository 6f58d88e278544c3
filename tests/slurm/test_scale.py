"""A node joins a running RL job for rollout, meets accidents, leaves, and the run ends well. Real Slurm, real cables.

One run serves all checks, since a start of Megatron and vLLM costs most of a minute.
"""

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from cluster import Cluster, RlJob, wait_for

from k15.log import read_rollouts

pytestmark = [pytest.mark.slurm, pytest.mark.vllm, pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(1500)]
ITERATIONS = 24
SETTINGS = [
    "warmup.steps=40", f"algo.iterations={ITERATIONS}", "algo.prompts_per_iteration=16", "algo.samples_per_prompt=4",
    "eval.size=8", "eval.every=100", "save.every=100", "data.train_size=400", "rollout.max_response_tokens=96",
    "rollout.budget_tokens=64", "rollout.repetition.enabled=false",
]  # fmt: skip
RATE_MBIT, CUT_S = 4, 10


class Run(RlJob):
    """The job of one node."""

    def scale(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-P", "-m", "k15", "scale", str(self.dir), *words]
        return subprocess.run(command, env=self.cluster.env, cwd=self.folder, capture_output=True, text=True, timeout=120)

    @contextmanager
    def pause(self):
        """The trainer stands still inside: the run waits, and cannot end before the test is done with it."""
        pid = self.until(lambda: self.on_node("pgrep -f [k]15.runs.trainer_rank; true").strip(), "the trainer")
        self.on_node(f"kill -STOP {pid}")
        try:
            yield
        finally:
            self.on_node(f"kill -CONT {pid}")

    def on_node(self, line: str, job: str | None = None) -> str:
        job = self.job if job is None else job
        return self.cluster.run("srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", "bash", "-c", line)

    def next_row(self, what: str, condition=lambda row: True) -> dict:
        """The first line of metrics after those that are there now that meets the condition."""
        seen = len(self.rows())
        return self.until(lambda: next((r for r in self.rows()[seen:] if condition(r)), None), what)


class Cable:
    """The visiting node's cable, at the switch."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.node, self.enter = node, ["nsenter", f"--net=/run/netns/{cluster.name}-sw"]

    def do(self, *words: str) -> str:
        return subprocess.run([*self.enter, *words], check=True, capture_output=True, text=True, timeout=20).stdout

    def slow(self) -> None:
        shape = ["tbf", "rate", f"{RATE_MBIT}mbit", "burst", "32kbit", "latency", "9s"]
        self.do("tc", "qdisc", "replace", "dev", self.node, "root", *shape)

    def fast(self) -> None:
        self.do("tc", "qdisc", "del", "dev", self.node, "root")

    def sent(self) -> int:
        """Bytes that went to the node."""
        return json.loads(self.do("ip", "-s", "-j", "link", "show", self.node))[0]["stats64"]["tx"]["bytes"]

    def cut_in_mid_transfer(self) -> None:
        """Down for CUT_S seconds, once the weights have been flowing at the full (slowed) rate for a second."""
        window = [self.sent()]

        def flowing() -> bool:
            time.sleep(0.25)
            window.append(self.sent())
            return len(window) > 4 and window[-1] - window[-5] > 0.8 * RATE_MBIT * 125_000

        wait_for(flowing, 120, "a transfer of weights")
        self.do("ip", "link", "set", self.node, "down")
        time.sleep(CUT_S)
        self.do("ip", "link", "set", self.node, "up")
        time.sleep(0.5)
        self.fast()


@pytest.fixture(scope="module")
def scaled(slurm_cluster, tmp_path_factory):
    """(run, what was seen on the way)"""
    run, seen = Run(slurm_cluster, tmp_path_factory.mktemp("scale"), 1, SETTINGS), {}
    run.until(lambda: list(run.dir.glob(".job-*.json")), "the start of the run")
    seen["too many"], seen["too few"] = run.scale("+5"), run.scale("0")
    seen["joined"] = run.scale("+1")
    visit = re.search(r"job (\d+) joins", seen["joined"].stdout)[1]
    run.until(lambda: "comes for rollout" in run.log(), "the visitor")
    with run.pause():
        run.until(lambda: "is ready: it takes part" in run.log(), "the visitor's engine")
    seen["both"] = run.next_row("rollouts from both nodes", lambda r: r.get("rollout_engines") == 2)
    node = slurm_cluster.job(visit)["NodeList"]
    if slurm_cluster.owned:
        cable = Cable(slurm_cluster, node)
        cable.slow()
        cable.cut_in_mid_transfer()
        seen["cut"] = run.next_row("the hand-off of the cut", lambda r: r["handoff_pull_s"] > CUT_S / 2)
    run.until(lambda: "rollout" in run.log().splitlines()[-1], "a rollout phase", 60)
    run.on_node("kill -9 $(pgrep -f [v]llm.entrypoints)", visit)
    run.until(lambda: "restarting engine" in run.log(), "its replacement")  # seen in a phase, or in the hand-off after it
    seen["healed"] = run.next_row("rollouts from both nodes again", lambda r: r["rollout_engines"] == 2)
    with run.pause():
        seen["left"] = run.scale("-1")
        seen["visit"] = slurm_cluster.wait_job(visit, timeout=120)
        seen["nobody"] = run.scale("-1")
    seen["alone"] = run.next_row("rollouts from one node", lambda r: r["engines"] == 1)
    seen["end"] = slurm_cluster.wait_job(run.job, timeout=400)
    seen["over"] = run.scale("+1")
    return run, seen


def test_the_run_and_the_visit_end_well(scaled):
    run, seen = scaled
    assert seen["end"]["JobState"] == "COMPLETED", run.log()[-6000:]
    assert (seen["visit"]["JobState"], seen["visit"]["ExitCode"]) == ("COMPLETED", "0:0")
    assert [r["iteration"] for r in run.rows()] == list(range(ITERATIONS + 1))
    assert "came for rollout" not in run.log(), "a warning: the visiting node was given up"


def test_no_engine_ever_had_other_weights_than_the_trainer(scaled):
    """A link that was down for 10 s in the middle of a transfer, and a killed engine, among the hand-offs."""
    run, seen = scaled
    assert max(r["canary_mean_abs"] for r in run.rows()) < 1e-4
    assert seen["healed"]["engines"] == 2 and "restarting engine" in run.log()
    if "cut" in seen:
        assert seen["cut"]["engines"] == 2 and CUT_S / 2 < seen["cut"]["handoff_pull_s"] < 60
        assert seen["cut"]["handoff_bytes_pulled"] > 2e6


def test_no_rollout_is_lost_or_mixed(scaled):
    run, _ = scaled
    for row in run.rows()[1:]:
        records = read_rollouts(run.dir / "rollouts" / f"{row['iteration']:05d}.jsonl.zst")
        keys = [(r["prompt_id"], r["index"]) for r in records if "index" in r]
        assert len(keys) == len(set(keys)) and len(records) % 4 == 0
        newest = [s for r in records for s in r["segments"] if s["version"] == row["version"]]
        assert sum(s["n_tokens"] for s in newest) == row["tokens_generated"]
        assert all(s["version"] <= row["version"] for r in records for s in r["segments"])


def test_what_cannot_be_is_said(scaled):
    _, seen = scaled
    assert seen["joined"].returncode == seen["left"].returncode == 0
    for key, said in (
        ("too many", r"5 more nodes are wanted.*has 2 that work, and the run uses 1.*at most 1"),
        ("too few", r"0 would leave 0 nodes, but 1 train.*Allowed: 1 or more"),
        ("nobody", r"-1 would leave 0 nodes.*Allowed: 1 or more"),
        ("over", r"is not running"),
    ):
        assert seen[key].returncode == 2 and re.search(said, seen[key].stderr, re.S), (key, seen[key])
