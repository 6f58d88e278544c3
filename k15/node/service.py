"""One node of a job from start to end: metadata server (head), agent, controller (head), and a clean finish whatever happens.

head: etcd -> rendezvous file -> agent -> controller -> wait -> shutdown of all agents -> etcd ends
else: rendezvous file -> agent -> wait for shutdown, a signal, or the loss of the metadata server
visitor (`k15 scale`): the running job's rendezvous file -> wait until it trains -> agent, for rollout only; USR1: ask to leave
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
from pathlib import Path

import aiohttp

from k15.config.schema import WeightsConfig
from k15.errors import REQUEUE, ClusterError
from k15.log import get_logger
from k15.node.agent import Agent
from k15.node.client import AgentClient
from k15.node.network import node_address
from k15.node.rendezvous import JobIdentity, Rendezvous, await_rendezvous, publish
from k15.node.versions import Versions
from k15.weights.etcd import Etcd, join_etcd, start_etcd
from k15.weights.owner import Claim, claim, job_directory, remove_stale
from k15.weights.store import Held, Store

log = get_logger("node")
LEASE_S = 30  # a link that is down for 10 s must not end a node
AGAIN_S = 5.0
CONTROLLER = "controller"


class Node:
    """This task's part of the job."""

    def __init__(
        self, identity: JobIdentity, run_dir: Path, device: str, *, controller: str = "k15.runs.controller", command: str = "rl",
        weights: WeightsConfig | None = None, joins: Path | None = None,
        etcd_members: int = 1,
    ) -> None:  # fmt: skip
        """`controller`: the module that the head node runs for `command`; trainer ranks read that command's config.

        `joins`: the rendezvous file of a running job that this node joins for rollout only.
        """
        self.joins = joins
        if etcd_members > identity.node_count:
            raise ClusterError(
                f"cluster.etcd_members={etcd_members} needs as many nodes, but this job has {identity.node_count}."
            )
        self.etcd_members = etcd_members
        self.weights = weights if weights is not None else WeightsConfig()
        self.identity = identity
        self.controller = controller
        self.command = command
        self.run_dir = run_dir
        self.device = device
        self.head = identity.node_rank == 0
        self.address = node_address(identity.node_count, joinable=identity.in_slurm and command == "rl")
        self.segments = job_directory(f"{identity.allocation}-{identity.node_rank}")
        self.stopping = asyncio.Event()
        self.again = False  # ended because the job is requeued
        self.exit_code = 0
        self._etcd: Etcd | None = None
        self._claim: Claim | None = None
        self._controller: asyncio.subprocess.Process | None = None
        self._rendezvous_path: Path | None = None
        self._leave: asyncio.Task | None = None
        self._asking: asyncio.Task | None = None
        self._to_save = False  # asked for, perhaps before there is a controller
        self._interrupted = False
        self._store: Store | None = None
        self._held: Held | None = None
        self._versions: Versions | None = None

    async def run(self) -> int:
        """Returns the exit code of the task: the controller's on the head node, 0 elsewhere unless something was lost."""
        self._handle_signals()
        for folder in remove_stale():
            log.warning("removed %s, left behind by a job that was killed", folder)
        self._claim = claim(self.segments)
        os.environ |= {
            "K15_SEGMENT_DIR": str(self.segments),
            "K15_NODE_RANK": str(self.identity.node_rank),
            "K15_COMMAND": self.command,
            "K15_WEIGHTS_SPARE": str(int(self.weights.spare)),
        }  # for children
        try:
            rendezvous = await self._meet()
            store = Store(rendezvous.etcd, f"/k15/{rendezvous.job}", password=rendezvous.etcd_password)
            self._store = store
            if self.joins is not None and not await self._until_it_trains(store):
                return self.exit_code
            async with aiohttp.ClientSession() as session:
                agent = self._agent(rendezvous, store)
                await self._serve(agent, rendezvous, store, session)
        finally:
            self._clean()
        return self.exit_code

    async def _meet(self) -> Rendezvous:
        if self.joins is not None:
            return Rendezvous(**json.loads(self.joins.read_text()))
        if not self.head:
            met = await asyncio.to_thread(await_rendezvous, self.identity, self.run_dir)
            if self.identity.node_rank < self.etcd_members:
                self._etcd = join_etcd(self.segments / "etcd", self.address, met.etcd, met.etcd_password)
            return met
        # On the main thread: it dies with that thread.
        self._etcd = start_etcd(self.segments / "etcd", self.address, joinable=self.etcd_members > 1)
        rendezvous = Rendezvous(self.identity.job, secrets.token_hex(24), self._etcd.endpoint, self._etcd.password, self.address)
        self._rendezvous_path = publish(self.identity, self.run_dir, rendezvous)
        return rendezvous

    async def _until_it_trains(self, store: Store) -> bool:
        """Wait for the job's trainer, which counts the nodes before it starts; false where this node is to end first."""
        while not self.stopping.is_set():
            if await asyncio.to_thread(store.prefix, "trainer/"):
                return True
            await asyncio.sleep(1.0)
        return False

    def _log_dir(self) -> Path:
        name = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
        folder = self.run_dir / "logs" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _agent(self, rendezvous: Rendezvous, store: Store) -> Agent:
        rank = self.identity.node_rank
        self._versions = versions = Versions(
            store, str(rank), self.segments, rendezvous.token, lambda: {str(r): a["url"] for r, a in read_agents(store).items()},
            transport=self.weights.transport, spare=self.weights.spare,
            nodes=self.identity.node_count if self.joins is None else None,
        )  # fmt: skip
        return Agent(
            node_rank=rank, address=self.address, token=rendezvous.token, log_dir=self._log_dir(), segment_dir=self.segments,
            pull=versions.pull, collect=versions.collect,
        )  # fmt: skip

    async def _serve(self, agent: Agent, rendezvous: Rendezvous, store: Store, session: aiohttp.ClientSession) -> None:
        url = await agent.start()
        try:
            role = "train" if self.joins is None else "rollout"
            record = json.dumps({"url": url, "host": os.uname().nodename, "address": self.address, "role": role})
            held = self._held = await asyncio.to_thread(store.hold, f"agents/{self.identity.node_rank}", record, LEASE_S)
            assert self._versions is not None
            await asyncio.to_thread(self._versions.open, url)  # now: what cannot serve is said before anything expensive starts
            log.info("agent of node %d of %d at %s", self.identity.node_rank, self.identity.node_count, url)
            waits = [
                asyncio.create_task(self.stopping.wait()),
                asyncio.create_task(agent.shutdown.wait()),
                asyncio.create_task(self._lease_lost(held)),
            ]
            if self.head:
                waits.append(asyncio.create_task(self._run_controller(agent)))
            done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            for task in done:
                task.result()
        finally:
            self.again = agent.again
            await agent.close()
            if self.head:
                await self._end_others(rendezvous, store, session)
            elif self._held is not None:
                with contextlib.suppress(ClusterError):  # the head has gone before, and its metadata with it
                    await asyncio.to_thread(self._held.close)

    async def _run_controller(self, agent: Agent) -> None:
        """Run the controller as a child; its exit code is the job's."""
        environment = {
            "K15_RENDEZVOUS": str(self._rendezvous_path), "K15_NODES": str(self.identity.node_count),
            "K15_DEVICE": self.device,
        }  # fmt: skip
        child = await agent.children.start(CONTROLLER, self.controller, [str(self.run_dir)], environment, echo=True)
        self._controller = child.process
        self._pass_on()
        code = await child.process.wait()
        self.exit_code = code if code >= 0 else 128 - code
        if self._interrupted and code == REQUEUE:
            self.exit_code = 128 + signal.SIGINT
        if code < 0:
            log.error("the controller was killed by signal %d; the job ends", -code)

    async def _lease_lost(self, held: Held) -> None:
        """Ends when this node's lease could not be renewed: the head node is gone or cut off."""
        while not held.lost.is_set():
            await asyncio.sleep(1.0)
        self.exit_code = 1
        raise ClusterError(f"the metadata server on the head node was out of reach for {LEASE_S} s; this node ends its part.")

    async def _end_others(self, rendezvous: Rendezvous, store: Store, session: aiohttp.ClientSession) -> None:
        try:
            others = await asyncio.to_thread(read_agents, store)
        except ClusterError as error:  # scancel ends etcd together with us
            log.warning("%s (the other nodes end by themselves)", error)
            return
        for rank, record in others.items():
            if rank != self.identity.node_rank:
                try:
                    agent = AgentClient(session, record["url"], rendezvous.token, rank)
                    await agent.shutdown(again=self.exit_code == REQUEUE)
                except ClusterError as error:
                    log.warning("%s (it ends by itself once its lease is lost)", error)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGUSR1, self._save_and_stop)

    def _interrupt(self) -> None:
        """Ctrl-C outside Slurm: the controller saves, then all ends. A second one, or one before there is a controller, ends it
        at once."""
        if self.identity.in_slurm or self._interrupted or self._controller is None:
            self._terminate(signal.SIGINT)
            return
        self._interrupted = True
        log.warning("interrupted: the run is saved, which may take a while, and then ends; Ctrl-C again ends it at once")
        self._save_and_stop()

    def _terminate(self, number: signal.Signals) -> None:
        self.exit_code = 128 + number
        self.stopping.set()

    def _save_and_stop(self) -> None:
        """Slurm's signal before the time limit: the controller saves and ends with the requeue code."""
        if self.again:  # the next start is waited for (k15.runs.join), and there is nobody to ask
            self.stopping.set()
        elif self.joins is not None:
            log.info("asking the controller to let this node go")
            self._leave = asyncio.get_running_loop().create_task(self._ask_to_leave())
        self._to_save = True
        self._pass_on()

    def _pass_on(self) -> None:
        process = self._controller
        if self._to_save and process is not None and process.returncode is None and self._asking is None:
            if not self._interrupted:
                log.info("signal before the time limit: asking the controller to save")
            self._asking = asyncio.get_running_loop().create_task(_ask_to_save(process))

    async def _ask_to_leave(self) -> None:
        """The controller drains this node's engines, then shuts it down."""
        try:
            assert self._store is not None
            await asyncio.to_thread(self._store.put, f"leaving/{self.identity.node_rank}", b"1")
        except ClusterError as error:
            log.warning("%s; this node ends now", error)
            self.stopping.set()

    def _clean(self) -> None:
        if self._etcd is not None:
            self._etcd.stop()
        if self._rendezvous_path is not None:
            self._rendezvous_path.unlink(missing_ok=True)
        if self._claim is not None:
            self._claim.release()
        if self._versions is not None:
            try:
                self._versions.close()
            except Exception as error:  # threads and mapped memory, which end with this process: the job's result stands
                log.error("closing the weights' memory: %r", error)


async def _ask_to_save(process: asyncio.subprocess.Process) -> None:
    """Again and again: a controller that is still starting ignores the signal (k15.child)."""
    while process.returncode is None:
        process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(AGAIN_S)


def read_agents(store: Store) -> dict[int, dict]:
    """All registered agents by node rank."""
    return {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in store.prefix("agents/").items()}
