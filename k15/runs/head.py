"""What every controller has around its own loop: the job's services, the signal before the time limit, the exit code.

A controller is started by the head node's agent as `python -m MODULE RUN_DIR`, with K15_RENDEZVOUS and K15_NODES in the
environment. Exit codes: 0 done, REQUEUE saved and to be requeued, 1 failed (the message is in the log).
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from k15.errors import REQUEUE, K15Error
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.node.rendezvous import Rendezvous
from k15.rollout.client import engine_session
from k15.runs.signalled import end_within
from k15.weights.store import Store

ENDING_S = 10.0
"""A controller that was interrupted is gone by then: what `heeded` called off may go on in a thread, which asyncio would join."""
log = get_logger("controller")


class Interrupted(Exception):
    """The pre-timeout signal came: everything has been saved, the job is to be requeued."""


T = TypeVar("T")


async def heeded(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises Interrupted, with the work called off, where `stop` is set before it is done; not even begun
    where it is set already."""
    if stop.is_set():
        work.close()
        raise Interrupted
    running, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise Interrupted
        return running.result()
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.wait({running, stopping})


@dataclass
class Head:
    """The job as its controller finds it. `stop` is set by the signal before the time limit."""

    rendezvous: Rendezvous
    rendezvous_path: Path
    store: Store
    agents: list[AgentClient]
    session: aiohttp.ClientSession
    device: str
    stop: asyncio.Event


@asynccontextmanager
async def open_head() -> AsyncIterator[Head]:
    """Wait until all agents have registered. Raises K15Error when one does not, Interrupted on a stop."""
    path = Path(os.environ["K15_RENDEZVOUS"])
    rendezvous = Rendezvous(**json.loads(path.read_text()))
    store = Store(rendezvous.etcd, f"/k15/{rendezvous.job}", password=rendezvous.etcd_password)
    stop = stopped_by_signal()
    async with engine_session() as session:
        agents = await heeded(stop, find_agents(store, session, rendezvous.token, int(os.environ["K15_NODES"])))
        yield Head(rendezvous, path, store, agents, session, os.environ["K15_DEVICE"], stop)


def stopped_by_signal() -> asyncio.Event:
    """Set by the signal before the time limit.

    Not by the loop's own handler: closing the loop would give the signal its default back, and the node, which repeats it as
    long as this process lives, would kill a controller that has saved.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def heed(number: int, frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGUSR1, heed)
    return stop


async def find_agents(store: Store, session: aiohttp.ClientSession, token: str, count: int) -> list[AgentClient]:
    """Wait until all `count` agents have registered; in node order."""
    for _ in range(300):
        found = {int(k.rsplit("/", 1)[1]): json.loads(v) for k, v in (await asyncio.to_thread(store.prefix, "agents/")).items()}
        if len(found) == count:
            return [AgentClient(session, found[rank]["url"], token, rank) for rank in sorted(found)]
        await asyncio.sleep(1.0)
    raise K15Error(f"only {len(found)} of {count} agents registered within 300 s; see logs/ in the run folder.")


def exit_code(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a controller's work to its end; the code of the process, which ends within ENDING_S where it was interrupted."""
    try:
        asyncio.run(_ending(work()))
    except Interrupted:
        return REQUEUE
    except K15Error as error:
        log.error("%s: %s", type(error).__name__, error)
        return 1
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Python resets handlers of its own while it ends, but not this
    return 0


async def _ending(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Interrupted:
        log.warning("stopped by the signal to save; everything is saved, another start goes on from there")
        end_within(ENDING_S)
        raise
