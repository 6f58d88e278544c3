"""`k15 join RUN_DIR FILE`: be a node of a running job, for rollout only. What the jobs of `k15 scale` run on each node.

FILE is the name of the job's rendezvous file in RUN_DIR. USR1 (Slurm's signal before the time limit, or `k15 scale RUN_DIR -1`)
asks the run to let the node go; it goes once its engines are drained.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from k15.config.compose import from_yaml
from k15.errors import ClusterError, ConfigError
from k15.node.rendezvous import JobIdentity
from k15.runs.job import device


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0 when the node was let go or the run has ended."""
    if len(argv) != 2:
        raise ConfigError("usage: k15 join RUN_DIR FILE. It is run by the jobs that `k15 scale RUN_DIR +1` submits.")
    run_dir = Path(argv[0]).absolute()
    rendezvous = run_dir / argv[1]
    if not rendezvous.is_file():
        raise ClusterError(f"{rendezvous} is gone: the run ended, or began again, before this node could join it.")
    identity = JobIdentity.of_visitor()
    from k15.node.service import Node  # brings torch: after the checks

    cfg = from_yaml((run_dir / "config.yaml").read_text())
    node = Node(identity, run_dir, device(cfg.cluster.device), weights=cfg.weights, joins=rendezvous)
    return asyncio.run(node.run())
