"""The service that a job starts by itself: by the node's agent, for code prompts only, ended with the agent."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import psutil
import pytest
from judging import TOKEN, need

from k15.cli import main
from k15.config.check import check
from k15.config.compose import compose_run
from k15.config.schema import SandboxConfig
from k15.errors import ClusterError, ConfigError, SandboxError
from k15.node.agent import Agent
from k15.node.client import AgentClient
from k15.reward import code
from k15.runs.own_sandbox import own_sandbox
from k15.runs.sandbox import NAME, open_sandbox
from k15.sandbox.client import Case, SandboxClient, Submission
from k15.types import Prompt

CODE = Prompt("c", "Add.", '{"tests": [["1 2", "3"]]}', "code")
MATH = Prompt("m", "1+2", "3")


@pytest.fixture
async def agent(tmp_path):
    async def pull(_version: int) -> dict[str, object]:
        raise ClusterError("no weights in this test")

    agent = Agent(
        node_rank=0, address="127.0.0.1", token=TOKEN, log_dir=tmp_path / "logs", segment_dir=tmp_path, pull=pull,
        collect=lambda keep: None,
    )  # fmt: skip
    url = await agent.start()
    async with aiohttp.ClientSession() as session:
        yield AgentClient(session, url, TOKEN, 0)
    await agent.close()


async def test_a_run_with_code_has_its_own_sandbox(agent, tmp_path):
    need("base")
    assert await open_sandbox(SandboxConfig(), [MATH], [agent], TOKEN) is None
    assert NAME not in await agent.processes(), "mathematics needs none"
    access = await open_sandbox(SandboxConfig(workers=1), [MATH, CODE], [agent], TOKEN)
    assert (await agent.processes())[NAME]["alive"]
    right, wrong = code.verdicts([(f"```python\nprint({n})\n```", CODE.answer) for n in (3, 4)])
    assert right.correct and not wrong.correct and wrong.reason.startswith("WA 0/1")
    (tmp_path / "other-token").write_text("this is another token")
    with pytest.raises(ConfigError, match="status 401"):
        await open_sandbox(SandboxConfig(url=access.url, token_file=str(tmp_path / "other-token")), [CODE], [agent], TOKEN)
    await agent.stop(NAME)
    await asyncio.sleep(2.0)
    assert not (await agent.processes())[NAME]["alive"], "what is stopped is not started again"
    assert "stops" in await agent.log_tail(NAME)


async def test_a_service_that_is_killed_comes_back_and_no_verdict_is_lost(agent):
    need("base")
    await open_sandbox(SandboxConfig(workers=1, restarts=1), [CODE], [agent], TOKEN)
    first = (await agent.processes())[NAME]["pid"]
    slow = "```python\nimport time\ntime.sleep(0.3)\nprint(%d)\n```"
    judging = asyncio.create_task(asyncio.to_thread(code.verdicts, [(slow % n, CODE.answer) for n in (3, 4, 3, 4, 3, 4, 3, 4)]))
    await asyncio.sleep(0.8)
    os.kill(first, signal.SIGKILL)
    assert [v.correct for v in await judging] == [True, False] * 4
    second = (await agent.processes())[NAME]
    assert second["alive"] and second["pid"] != first
    os.kill(second["pid"], signal.SIGKILL)
    await asyncio.sleep(3.0)
    assert not (await agent.processes())[NAME]["alive"], "sandbox.restarts=1"


def test_that_of_a_command_without_agents_comes_back_too(tmp_path):
    """What `k15 testgen` and `k15 eval` start: killed while it judges, the same verdict comes from the next one."""
    need("base")
    slow = Submission("python", "import time\ntime.sleep(1.5)\nprint(3)", (Case("", "3"),))
    with own_sandbox(1, tmp_path / "log", restarts=1) as access, SandboxClient(access) as client, ThreadPoolExecutor(1) as pool:
        (first,) = [p for p in psutil.Process().children() if "k15.sandbox.cli" in p.cmdline()]
        verdict = pool.submit(client.judge, slow)
        time.sleep(0.7)
        first.kill()
        assert verdict.result(120).verdict == "AC"
        (second,) = [p for p in psutil.Process().children() if "k15.sandbox.cli" in p.cmdline() and p.pid != first.pid]
    assert not second.is_running()
    with (
        pytest.raises(SandboxError, match="give NAME=DIR"),
        own_sandbox(1, tmp_path / "log", ["--image", "lean=/no/such/folder"]),
    ):
        pass


async def test_a_service_that_cannot_start_says_why(agent):
    with pytest.raises(ClusterError, match="give NAME=DIR"):
        await open_sandbox(SandboxConfig(images={"lean": "/no/such/folder"}), [CODE], [agent], TOKEN)
    with pytest.raises(ConfigError, match="token_file"):
        await open_sandbox(SandboxConfig(url="http://127.0.0.1:9"), [CODE], [agent], TOKEN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve"], "does not start without a token"),
        (["serve", "--token-file", "/no/file"], "cannot be read"),
        (["serves"], "serve, build and probe"),
        (["probe", "now"], "takes no options"),
    ],
)
def test_the_command_line_says_what_is_wrong(words, message, capsys, monkeypatch):
    monkeypatch.delenv("K15_SANDBOX_TOKEN", raising=False)
    assert main(["sandbox", *words]) == 2
    assert message in capsys.readouterr().err


def test_settings_are_checked_before_the_run():
    with pytest.raises(ConfigError, match="Did you mean 'crun'"):
        check(compose_run(["sandbox.backend=crum"]))
    with pytest.raises(ConfigError, match=r"sandbox\.workers"):
        check(compose_run(["sandbox.workers=0"]))
