"""The trainer's ranks of a job, seen from a controller: start them on all nodes, watch them, end what agents own."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from k15.errors import K15Error
from k15.log import get_logger
from k15.node.client import AgentClient
from k15.node.rendezvous import Rendezvous
from k15.runs.trainer_client import TrainerClient
from k15.weights.store import Store

log = get_logger("ranks")
START_TIMEOUT_S = 600.0


async def start_trainer(
    agents: Sequence[AgentClient], rendezvous: Rendezvous, rendezvous_path: Path, store: Store, *, device: str,
    ranks_per_node: int, folders: tuple[Path, Path],
) -> TrainerClient:  # fmt: skip
    """Spawn every rank, node by node, and connect to rank 0. folders: the run's and the model's. Raises TrainerError."""
    port, _ = await agents[0].free_port()
    for node, agent in enumerate(agents):
        _, interface = await agent.free_port()
        for local in range(ranks_per_node):
            rank = node * ranks_per_node + local
            env = {
                "RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(ranks_per_node * len(agents)),
                "MASTER_ADDR": rendezvous.head_address, "MASTER_PORT": str(port), "K15_DEVICE": device,
                "K15_RENDEZVOUS": str(rendezvous_path),
                # the job's own choice wins (slurm/fabric.sh, or a user's)
                "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", interface),
                "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", interface),
            }  # fmt: skip
            await agent.start(f"trainer-{rank}", "k15.runs.trainer_rank", [str(f) for f in folders], env)

    async def dead() -> str | None:
        return await dead_rank(agents)

    return await TrainerClient.connect(store, rendezvous.token, dead, timeout_s=START_TIMEOUT_S)


async def dead_rank(agents: Sequence[AgentClient]) -> str | None:
    """The first dead trainer rank with its log's end, or None."""
    for agent in agents:
        for name, state in (await agent.processes()).items():
            if name.startswith("trainer-") and not state["alive"]:
                tail = await agent.log_tail(name)
                return f"{name} on node {agent.node_rank} ended with code {state['returncode']}; log {state['log']}:\n{tail}"
    return None


async def export_hf(trainer: TrainerClient, agents: Sequence[AgentClient], store: Store, iteration: int, folder: Path) -> None:
    """Write the trainer's weights, those of `iteration`, as a Hugging Face folder, on the head node. Nothing of them
    stays in shared memory but, with weights.spare, the memory itself, which the next export writes again."""
    await trainer.call("publish", version=iteration)
    pulled = await agents[0].pull(iteration)
    await trainer.call("export_hf", paths=pulled["paths"], folder=str(folder), iteration=iteration)
    await asyncio.gather(*(agent.collect([]) for agent in agents))
    await asyncio.to_thread(store.forget_version, iteration)


async def end_processes(agents: Sequence[AgentClient]) -> None:
    """End all but the controller. What fails here is logged only: the run's own result stands, agents clean up."""

    async def end(agent: AgentClient) -> None:
        try:
            names = [n for n, state in (await agent.processes()).items() if state["alive"] and n != "controller"]
            await asyncio.gather(*(agent.stop(name, grace_s=2) for name in names))
        except K15Error as error:
            log.warning("stopping node %d: %s", agent.node_rank, error)

    await asyncio.gather(*(end(agent) for agent in agents))
