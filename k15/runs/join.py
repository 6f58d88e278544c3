"""Nodes of a running job for rollout only.

`k15 join RUN_DIR FILE MINUTES` is what the jobs of `k15 scale` run: FILE is the name of the job's rendezvous file in RUN_DIR.
USR1 (Slurm's signal before the time limit, or `k15 scale RUN_DIR -1`) asks the run to let the node go; it goes once its engines
are drained. Where the run saves and is requeued, the node waits MINUTES for its next start, and joins that.
`within_job` is what `k15 rl` is on the second part of a heterogeneous job: those nodes come with the job and leave with it.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from k15.config.compose import compose_as, from_yaml, listed, settings
from k15.config.schema import RunConfig
from k15.config.words import quoted
from k15.errors import ClusterError, ConfigError
from k15.log import get_logger
from k15.node.rendezvous import JobIdentity, await_rendezvous, started_after
from k15.runs.job import device, run_folder

log = get_logger("join")
LOOK_S = 2.0
FIRST_PART_S = 86_400.0  # it checks all data before it can be met; Slurm ends this part when the first one ends


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0 when the node was let go or the run has ended."""
    if len(argv) != 3:
        raise ConfigError("usage: k15 join RUN_DIR FILE MINUTES. It is run by the jobs that `k15 scale RUN_DIR +1` submits.")
    run_dir = Path(argv[0]).absolute()
    return visit(run_dir, run_dir / argv[1], wait_s=60 * float(argv[2]))


def within_job(command: str, words: Sequence[str]) -> int:
    """`k15 COMMAND WORDS` on nodes for rollout only: wait for the job's first node, join. Raises ConfigError, ClusterError."""
    if command != "rl":
        raise ConfigError(f"`k15 {command}` has no rollouts to run on the second part of this heterogeneous job; only rl has.")
    cfg = compose_as(RunConfig, command, settings(listed(RunConfig, quoted(words))))
    if cfg.dry_run:
        print("# a node for rollout only")
        return 0
    identity = JobIdentity.from_environment()  # with the first part's job id
    run_dir = run_folder(cfg.name, cfg.run_dir, identity)
    await_rendezvous(identity, run_dir, FIRST_PART_S)
    return visit(run_dir, identity.path(run_dir))


def visit(run_dir: Path, rendezvous: Path, *, wait_s: float = 0.0) -> int:
    """Be a node for rollout only until the run lets it go; where it is requeued, of its next start too if that comes within
    `wait_s`. Raises ClusterError where the run has no `rendezvous` any more."""
    here = rendezvous if rendezvous.is_file() else started_after(rendezvous) if wait_s > 0 else None
    if here is None:
        raise ClusterError(f"{rendezvous} is gone: the run ended, or began again, before this node could join it.")
    cfg = from_yaml((run_dir / "config.yaml").read_text())
    if cfg.weights.transport == "mpi":
        raise ConfigError(
            f"{run_dir} has weights.transport=mpi: the nodes that train are one MPI world, which no other node can join. "
            "Give weights.transport=auto, http or mooncake."
        )
    return asyncio.run(_stay(run_dir, here, cfg, wait_s))


async def _stay(run_dir: Path, rendezvous: Path, cfg: RunConfig, wait_s: float) -> int:
    from k15.node.service import Node  # brings torch: after the checks

    while True:
        node = Node(JobIdentity.of_visitor(), run_dir, device(cfg.cluster.device), weights=cfg.weights, joins=rendezvous)
        code = await node.run()
        if not node.again or wait_s <= 0:
            return code
        log.info("the run is requeued; this node waits for it, %.0f minutes at most", wait_s / 60)
        deadline = time.monotonic() + wait_s
        while (later := started_after(rendezvous)) is None:
            if node.stopping.is_set() or time.monotonic() > deadline:  # its handlers of signals are still there
                log.info("this node waits no longer")
                return node.exit_code
            await asyncio.sleep(LOOK_S)
        rendezvous = later
