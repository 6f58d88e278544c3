"""Nodes of a running job for rollout only.

`k15 join RUN_DIR FILE` is what the jobs of `k15 scale` run: FILE is the name of the job's rendezvous file in RUN_DIR. USR1
(Slurm's signal before the time limit, or `k15 scale RUN_DIR -1`) asks the run to let the node go; it goes once its engines are
drained.
`within_job` is what `k15 rl` is on the second part of a heterogeneous job: those nodes come with the job and leave with it.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from k15.config.compose import compose_as, from_yaml, listed, settings
from k15.config.schema import RunConfig
from k15.config.words import quoted
from k15.errors import ClusterError, ConfigError
from k15.node.rendezvous import JobIdentity, await_rendezvous
from k15.runs.job import device, run_folder

FIRST_PART_S = 86_400.0  # it checks all data before it can be met; Slurm ends this part when the first one ends


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0 when the node was let go or the run has ended."""
    if len(argv) != 2:
        raise ConfigError("usage: k15 join RUN_DIR FILE. It is run by the jobs that `k15 scale RUN_DIR +1` submits.")
    run_dir = Path(argv[0]).absolute()
    return visit(run_dir, run_dir / argv[1])


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


def visit(run_dir: Path, rendezvous: Path) -> int:
    """Be a node for rollout only until the run lets it go. Raises ClusterError where the run has no `rendezvous` any more."""
    if not rendezvous.is_file():
        raise ClusterError(f"{rendezvous} is gone: the run ended, or began again, before this node could join it.")
    identity = JobIdentity.of_visitor()
    cfg = from_yaml((run_dir / "config.yaml").read_text())
    if cfg.weights.transport == "mpi":
        raise ConfigError(
            f"{run_dir} has weights.transport=mpi: the nodes that train are one MPI world, which no other node can join. "
            "Give weights.transport=auto, http or mooncake."
        )
    from k15.node.service import Node  # brings torch: after the checks

    node = Node(identity, run_dir, device(cfg.cluster.device), weights=cfg.weights, joins=rendezvous)
    return asyncio.run(node.run())
