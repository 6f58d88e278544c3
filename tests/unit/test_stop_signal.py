"""The signal before the time limit, from Slurm's first to the controller's end; and what else must not spoil a job's end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe

import pytest

from k15.config.schema import ClassicConfig, RewardConfig
from k15.errors import REQUEUE, ClusterError, TrainerError
from k15.node.children import Children
from k15.node.rendezvous import JobIdentity
from k15.node.service import Node
from k15.runs.classic import served_classic
from k15.runs.exports import linked
from k15.runs.head import Interrupted, heeded
from k15.runs.job import going_on
from k15.runs.trainer_client import TrainerClient

CONTROLLER = """
import asyncio, atexit, os, signal, sys
from k15.runs.head import Interrupted, exit_code, stopped_by_signal

class Late:
    def __del__(self):
        kill(os.getpid(), number)

kill, number = os.kill, signal.SIGUSR1
async def main():
    stop = stopped_by_signal()
    print("ready", flush=True)
    await stop.wait()
    raise Interrupted

sys.late = Late()  # ends after Python has reset its handlers
atexit.register(lambda: kill(os.getpid(), number))
sys.exit(exit_code(main))
"""


SCORING = """
import asyncio, sys
from k15.reward import code
from k15.runs import head
from k15.sandbox.client import Access

async def main():
    stop = head.stopped_by_signal()
    asyncio.get_running_loop().call_later(0.5, lambda: print("scoring", flush=True))
    answer = '{"tests": [["1 2", "3"]], "language": "python"}'
    await head.heeded(stop, asyncio.to_thread(code.verdicts, [("```python\\nprint(3)\\n```", answer)]))

head.ENDING_S = 0.5
code.connect(Access("http://127.0.0.1:9", "token", patience_s=600.0))  # a sandbox that is gone: nothing listens there
sys.exit(head.exit_code(main))
"""


def test_a_thread_that_waits_for_a_sandbox_does_not_hold_the_end():
    process = subprocess.Popen([sys.executable, "-P", "-c", SCORING], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "scoring\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == REQUEUE
    finally:
        process.kill()


def test_a_controller_that_has_saved_is_not_killed_by_the_next_signal():
    process = subprocess.Popen([sys.executable, "-P", "-c", CONTROLLER], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.001)
    assert process.returncode == REQUEUE


async def test_nothing_is_begun_after_the_stop():
    stop, began = asyncio.Event(), []

    async def work():
        began.append(True)

    stop.set()
    with pytest.raises(Interrupted):
        await heeded(stop, work())
    await asyncio.sleep(0)
    assert began == []


async def test_a_stop_ends_the_wait_for_the_reward_model(tmp_path):
    stop, start = asyncio.Event(), time.monotonic()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    with pytest.raises(Interrupted):
        async with served_classic(RewardConfig(classic=ClassicConfig(path=str(tmp_path))), tmp_path, stop):
            raise AssertionError("there is no model to load")
    assert time.monotonic() - start < 20, "the loop heard it while the process was starting"


def test_a_signal_before_there_is_a_controller_reaches_it(tmp_path, monkeypatch):
    """A real child; it counts what comes once it listens."""
    (tmp_path / "saver.py").write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(85))\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("k15.node.service.AGAIN_S", 0.1)

    async def job() -> int:
        node = Node(JobIdentity("local-1", 0, 1, 0), tmp_path, "cpu", controller="saver")
        node._save_and_stop()

        class Agent:
            children = Children(tmp_path / "logs")

        await asyncio.wait_for(node._run_controller(Agent()), 30)
        return node.exit_code

    assert asyncio.run(job()) == REQUEUE


@pytest.mark.parametrize("times", [1, 2])
def test_the_first_interrupt_saves_and_the_second_ends_at_once(times, tmp_path, monkeypatch):
    """A real child, which writes that it has saved."""
    (tmp_path / "saver.py").write_text(
        "import pathlib, signal, sys, time\nhere = pathlib.Path(sys.argv[1])\n"
        "def save(*_):\n    time.sleep(1)\n    (here / 'saved').touch()\n    sys.exit(85)\n"
        "signal.signal(signal.SIGUSR1, save)\n(here / 'ready').touch()\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def job() -> None:
        node = Node(JobIdentity("local-1", 0, 1, 0), tmp_path, "cpu", controller="saver")
        node._handle_signals()

        class Agent:
            children = Children(tmp_path / "logs")

        running = asyncio.create_task(node._run_controller(Agent()))
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.1)
        if times == 1:
            await asyncio.wait_for(running, 30)
        assert node.stopping.is_set() == (times == 2) and (tmp_path / "saved").exists() == (times == 1)
        assert node.exit_code == 130
        running.cancel()
        await Agent.children.stop_all()

    asyncio.run(job())


def test_a_stopped_run_names_its_last_checkpoint(tmp_path):
    assert "before the first checkpoint" in going_on(tmp_path)
    for name in ("00001-iteration-00003", "00010-iteration-00012", "partial-00011"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert f"iteration 12 of {tmp_path}: the same words with run_dir={tmp_path} go on" in going_on(tmp_path)


def test_a_node_is_cleaned_though_its_weights_cannot_be(tmp_path, caplog):
    ended = []

    class Broken:
        def close(self):
            raise OSError("unmapped already")

    class Ends:
        def stop(self):
            ended.append("etcd")

        def release(self):
            ended.append("claim")

    async def made() -> Node:
        return Node(JobIdentity("local-1", 0, 1, 0), tmp_path, "cpu")

    node = asyncio.run(made())
    node._versions, node._etcd, node._claim, node._rendezvous_path = Broken(), Ends(), Ends(), tmp_path / "rendezvous"
    node._rendezvous_path.write_text("")
    node._clean()
    assert ended == ["etcd", "claim"] and not node._rendezvous_path.exists() and "unmapped already" in caplog.text


@pytest.mark.parametrize("when", ["before the question", "before the answer", "and is seen alive after it hung up"])
async def test_a_dead_rank_0_is_an_error_with_its_log(when):
    ours, theirs = Pipe()
    asked_since = 0
    if when == "before the question":
        theirs.close()

    async def dead() -> str | None:
        nonlocal asked_since
        asked_since += theirs.closed
        gone = theirs.closed and (asked_since > 2 or "alive" not in when)
        return "trainer-0 ended with code -9; log: no memory" if gone else None

    asked = asyncio.create_task(TrainerClient(ours, dead).call("train_iteration", batch=None))
    await asyncio.sleep(0.2)
    theirs.close()
    with pytest.raises(TrainerError, match=r"rank.*train_iteration(.|\n)*no memory"):
        await asyncio.wait_for(asked, 20)


async def test_after_a_call_that_was_broken_off_no_answer_is_taken_for_another():
    """`save` must never take the answer to `publish`: its checkpoint would be committed unwritten."""
    ours, theirs = Pipe()

    async def agent_is_away() -> str | None:
        raise ClusterError("no answer within 20 s")

    trainer = TrainerClient(ours, agent_is_away)
    with pytest.raises(ClusterError):
        await asyncio.wait_for(trainer.call("publish", version=3), 20)
    theirs.send((None, "published"))
    with pytest.raises(TrainerError, match="'save'.*'publish' was not waited for"):
        await asyncio.wait_for(trainer.call("save"), 20)


def test_what_a_kill_left_of_an_export_goes_with_the_next(tmp_path):
    source, target = tmp_path / "hf", tmp_path / "exports" / "iteration-00003"
    source.mkdir()
    (source / "model").write_text("new")
    process = subprocess.run(
        [sys.executable, "-P", "-c", "import os, pathlib, sys; from k15.runs import exports; "
         "exports.shutil.rmtree = lambda path, **_: path == pathlib.Path(sys.argv[2]) and os._exit(9); "
         "exports.linked(*map(pathlib.Path, sys.argv[1:]))", source, target],
    )  # fmt: skip
    assert process.returncode == 9 and len(os.listdir(target.parent)) == 1, "killed just before the end"
    linked(source, target)
    assert os.listdir(target.parent) == [target.name] and (target / "model").read_text() == "new"
