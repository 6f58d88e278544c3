"""What dies in the middle of a hand-off: a metadata server, then an agent. A real job on three virtual nodes.

Each death lands there for certain (`kill_in_hand_off`). Three pipeline stages, so that every node needs a part of the weights
from each other one. An engine dies in tests/e2e/test_rl_on_slurm.py, a cable for ten seconds in test_scale.py.

One run serves all checks, since a start of Megatron and vLLM costs most of a minute.
"""

import asyncio
import json
import re
from functools import cached_property

import aiohttp
import pytest
import requests
from cluster import RlJob, kill_in_hand_off, make_cluster, wait_for

from k15.log import read_rollouts
from k15.node.client import AgentClient
from k15.node.rendezvous import Rendezvous
from k15.weights.store import Store

pytestmark = [pytest.mark.slurm, pytest.mark.vllm, pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(1500)]
NODES = 3
SETTINGS = [
    f"cluster.nodes={NODES}", "cluster.etcd_members=3", f"parallel.pipeline={NODES}", f"model.tiny.num_layers={NODES}",
    "warmup.steps=2", "warmup.batch_size=8", "algo.iterations=999", "algo.prompts_per_iteration=4", "algo.samples_per_prompt=2",
    "algo.minibatches=1", "eval.size=4", "eval.every=999", "save.every=999", "data.train_size=100", "sampler=uniform",
    "rollout.max_response_tokens=24", "rollout.budget_tokens=24", "rollout.repetition.enabled=false", "log.tensorboard=false",
    "save.export_hf=false",
]  # fmt: skip


class Run(RlJob):
    """The job, also as its controller sees it."""

    @cached_property
    def met(self) -> Rendezvous:
        return Rendezvous(**json.loads((self.dir / f".job-{self.job}-0.json").read_text()))

    @cached_property
    def agents(self) -> list[str]:
        found = Store(self.met.etcd, f"/k15/{self.met.job}", self.met.etcd_password).prefix("agents/")
        return [json.loads(record)["url"] for record in found.values()]

    def held(self) -> list[int | None]:
        """The weight version that each engine's workers say they hold."""

        async def ask() -> list[dict]:
            async with aiohttp.ClientSession() as session:
                clients = [AgentClient(session, url, self.met.token, 0) for url in self.agents]
                return await asyncio.gather(*(client.versions() for client in clients))

        return [version for found in asyncio.run(ask()) for version in found["engines"].values()]

    def everywhere(self, version: int) -> bool:
        """Do all engines hold the same version, `version` or a later one?"""
        held = self.held()
        return len(held) == NODES and len(set(held)) == 1 and held[0] is not None and held[0] >= version

    def lead_from(self, node: str) -> None:
        """Make the metadata server on `node` the leader of the three: its death then means an election."""
        met, session = self.met, requests.Session()
        session.trust_env = False
        login = session.post(f"{met.etcd}/v3/auth/authenticate", json={"name": "root", "password": met.etcd_password}).json()
        session.headers["Authorization"] = login["token"]
        members = session.post(f"{met.etcd}/v3/cluster/member/list", json={}).json()["members"]
        urls = {m["ID"]: m["clientURLs"][0] for m in members}
        address = self.cluster.run("scontrol", "show", "node", node, "-o").split("NodeAddr=")[1].split()[0]
        (target,) = (m for m, url in urls.items() if url.startswith(f"http://{address}:"))

        def leader() -> str:
            return session.post(f"{met.etcd}/v3/maintenance/status", json={}).json()["leader"]

        if leader() != target:
            body = {"targetID": target}
            answer = session.post(f"{urls[leader()]}/v3/maintenance/transfer-leadership", json=body)
            assert answer.ok, answer.text
        wait_for(lambda: leader() == target, 20, f"{node} to lead")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """(run, what was seen on the way)"""
    cluster, seen = make_cluster("f", PREFIX="f"), {}
    try:
        cluster.up(NODES)
        if not cluster.owned:
            pytest.skip("three nodes of the machine's own Slurm are not ours to take")
        run = Run(cluster, tmp_path_factory.mktemp("faults"), NODES, SETTINGS)
        run.until(lambda: len(run.rows()) > 1, "the first iteration")
        run.lead_from("f3")
        version = seen["etcd"] = kill_in_hand_off(cluster, run.job, "f3", "pull", "etcd")
        run.until(lambda: run.everywhere(version), f"version {version} on all engines")
        run.until(lambda: run.rows()[-1]["version"] > version, f"an iteration after that with version {version}")
        seen["agent"] = kill_in_hand_off(cluster, run.job, "f3", "pull", "agent")
        seen["end"] = cluster.wait_job(run.job, timeout=120)
        look = "pgrep -af '[k]15.runs|[v]llm.entry|[V]LLM::|[e]tcd --name=k15'; true"
        seen["left"] = cluster.run("srun", f"-N{NODES}", "bash", "-c", look).strip()
        yield run, seen
    finally:
        cluster.down()


def test_the_run_outlives_a_metadata_server(faulty):
    run, seen = faulty
    assert 0 < seen["etcd"] < seen["agent"] and "restarting" not in run.log()
    assert [r["version"] for r in run.rows()[1:]] == list(range(seen["agent"] - 1)), "an iteration ends with its hand-off"
    assert all(r["engines"] == NODES and r["canary_mean_abs"] < 1e-4 for r in run.rows())


def test_no_answer_is_of_a_version_that_was_not_everywhere(faulty):
    run, seen = faulty
    files = sorted((run.dir / "rollouts").iterdir())
    assert len(files) == seen["agent"], "nothing was sampled after the hand-off that was broken off"
    for version, file in enumerate(files):
        assert {s["version"] for r in read_rollouts(file) for s in r["segments"]} == {version}


def test_a_lost_agent_of_a_training_node_ends_the_run_and_says_so(faulty):
    run, seen = faulty
    assert seen["end"]["JobState"] == "FAILED" and seen["left"] == ""
    assert re.search(r"ClusterError: the agent of node 2 at http://\S+ does not answer /weights/pull", run.log()), run.log()[
        -3000:
    ]
    assert not list(run.dir.glob(".job-*")), "the rendezvous file with the token was left behind"
