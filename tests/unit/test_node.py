"""Agent and children as a user's job meets them: real processes, real HTTP, real signals."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import aiohttp
import pytest

from k15.errors import ClusterError, EngineError
from k15.node.agent import Agent
from k15.node.children import Children
from k15.node.client import AgentClient
from k15.node.rendezvous import JobIdentity, Rendezvous, await_rendezvous, publish


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(*pids: int, timeout_s: float = 20) -> list[int]:
    for _ in range(int(timeout_s * 20)):
        left = [p for p in pids if alive(p)]
        if not left:
            break
        await asyncio.sleep(0.05)
    return left


@pytest.fixture
async def served(tmp_path):
    async def pull(version: int) -> dict[str, object]:
        return {"paths": [f"v{version}"], "bytes_pulled": 0}

    agent = Agent(node_rank=0, address="127.0.0.1", token="t" * 48, log_dir=tmp_path / "logs", segment_dir=tmp_path,
                  pull=pull, collect=lambda keep: None)  # fmt: skip
    url = await agent.start()
    async with aiohttp.ClientSession() as session:
        yield agent, AgentClient(session, url, "t" * 48, 0), session
    await agent.close()


async def test_every_route_wants_the_token(served):
    agent, client, session = served
    stranger = AgentClient(session, client.url, "wrong", 0)
    for call in (
        stranger.health(),
        stranger.processes(),
        stranger.shutdown(),
        stranger.start("x", "k15.runs.controller", [], {}),
    ):
        with pytest.raises(ClusterError, match="token"):
            await call
    assert not agent.shutdown.is_set() and not agent.children.table
    assert (await client.health())["node_rank"] == 0


async def test_only_known_modules_are_started_and_files_outside_are_not_served(served, tmp_path):
    _, client, session = served
    with pytest.raises(ClusterError, match=r"http\.server.*Allowed"):
        await client.start("x", "http.server", [], {})
    (tmp_path / "v1-r0.seg").write_bytes(b"weights")
    headers = {"Authorization": "Bearer " + "t" * 48}
    async with session.get(f"{client.url}/weights/v1-r0.seg", headers=headers) as answer:
        assert await answer.read() == b"weights"
    async with session.get(f"{client.url}/weights/..%2Flogs", headers=headers) as answer:
        assert answer.status == 409


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(600)
"""


async def test_stop_takes_the_whole_group_even_when_sigterm_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children = Children(tmp_path / "logs")
    child = await children.start("s", "stubborn", [], {})
    while not child.log.read_text().strip():
        await asyncio.sleep(0.05)
    grandchild = int(child.log.read_text())
    with pytest.raises(ClusterError, match="already runs"):
        await children.start("s", "stubborn", [], {})
    await children.stop("s", grace_s=0.3)
    assert child.process.returncode == -signal.SIGKILL
    assert await until_gone(grandchild) == []


async def test_what_a_killed_engine_leaves_in_its_tmpdir_goes_with_the_agent(tmp_path, monkeypatch):
    (tmp_path / "engine.py").write_text("import tempfile, time; print(tempfile.mkstemp()[1], flush=True); time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children = Children(tmp_path / "logs")
    child = await children.start("e", "engine", [], {}, url="http://127.0.0.1:9")
    while not child.log.read_text().strip():
        await asyncio.sleep(0.05)
    left = Path(child.log.read_text().strip())
    child.process.kill()
    await child.process.wait()
    assert left.exists()
    await children.stop_all()
    assert not left.parent.exists()


async def test_children_die_with_a_killed_agent(tmp_path):
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(600)")
    parent = textwrap.dedent(f"""
        import asyncio, pathlib
        from k15.node.children import Children
        async def main():
            child = await Children(pathlib.Path({str(tmp_path)!r})).start("s", "sleeper", [], {{"PYTHONPATH": {str(tmp_path)!r}}})
            print(child.process.pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """)
    process = subprocess.Popen([sys.executable, "-P", "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert alive(pid)
    process.kill()
    process.wait()
    assert await until_gone(pid) == []


def test_rendezvous_is_private_and_names_what_is_wrong(tmp_path):
    identity = JobIdentity("7", 1, 2, 0)
    sent = Rendezvous("7", "token", "http://10.0.0.1:1", "password", "10.0.0.1")
    path = publish(identity, tmp_path, sent)
    assert await_rendezvous(identity, tmp_path, timeout_s=5) == sent
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(ClusterError, match="file system that all nodes share"):
        await_rendezvous(JobIdentity("8", 1, 2, 0), tmp_path, timeout_s=0.6)


def test_a_requeued_job_does_not_read_its_earlier_rendezvous(tmp_path):
    publish(JobIdentity("7", 0, 2, 0), tmp_path, Rendezvous("7", "old", "http://10.0.0.1:1", "p", "10.0.0.1"))
    with pytest.raises(ClusterError):
        await_rendezvous(JobIdentity("7", 1, 2, 1), tmp_path, timeout_s=0.6)


async def test_the_openapi_document_and_the_routes_agree(served):
    """Every documented operation is served (with the documented body), every served one is documented, none without token."""
    agent, client, session = served
    headers = {"Authorization": "Bearer " + "t" * 48}
    async with session.get(f"{client.url}/openapi.json", headers=headers) as answer:
        document = await answer.json()
    documented = {(m.upper(), path) for path, operations in document["paths"].items() for m in operations}
    served_ = {(r.method, r.resource.canonical) for r in agent._runner.app.router.routes() if r.method != "HEAD"}
    assert documented == served_ and document["security"] == [{"bearer": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = client.url + path.replace("{name}", "nobody").replace("{file}", "nothing")
            async with session.request(method, url) as answer:
                assert answer.status == 401, path
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if schema is None:
                continue
            right = {
                name: {"string": "x", "integer": 1, "array": [], "object": {}}[f["type"]]
                for name, f in schema["properties"].items()
            }
            needed = schema["required"][0]
            for body, said in (
                ({k: v for k, v in right.items() if k != needed}, needed),
                (right | {"bogus": 1}, "bogus"),
                (right | {needed: {"wrong": "type"}}, schema["properties"][needed]["type"]),
                (["no object"], "JSON object"),
            ):
                async with session.request(method, url, json=body, headers=headers) as answer:
                    assert answer.status == 400 and said in (await answer.json())["error"], (path, body)
            async with session.request(method, url, json=right, headers=headers) as answer:
                assert answer.status in (200, 400, 409) and answer.status != 500, path


async def test_metrics_count_restarts_crashes_and_what_lies_in_shared_memory(served, tmp_path, monkeypatch):
    agent, client, session = served
    (tmp_path / "brief.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for code in ("3", "0", "0"):
        await (await agent.children.start("b", "brief", [code], {}, url="http://127.0.0.1:9")).process.wait()
        await agent.children.stop("b")  # as before every restart: what has ended by itself is no less a crash
    (tmp_path / "v7-r0.seg").write_bytes(b"x" * 640)
    (tmp_path / "v7-r1.seg").write_bytes(b"x" * 64)
    await client.pull(7)
    await agent._pull(7)  # as each engine does before it loads
    async with session.get(f"{client.url}/metrics", headers={"Authorization": "Bearer " + "t" * 48}) as answer:
        lines = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if not line.startswith("#"))
    assert lines['k15_process_up{name="b"}'] == "0.0"
    assert lines['k15_process_restarts_total{name="b"}'] == "2.0"
    assert lines['k15_process_crashes_total{name="b"}'] == "1.0"
    assert lines['k15_weights_shm_bytes{version="7"}'] == "704.0" and lines["k15_weights_pulls_total"] == "1.0"
    assert await client.versions() == {"segments": {"7": 704}, "engines": {"b": None}}
    with pytest.raises(EngineError, match="b did not answer /sleep"):
        await client.sleep("b")
    with pytest.raises(ClusterError, match="no engine"):
        agent.children.table["b"].url = None
        await client.wake("b")
