"""`k15 launch COMMAND [settings] [--dry-run]`: check the settings here, then submit the command as a job."""

import os
import sys
from collections.abc import Sequence

from k15.config.commands import COMMANDS
from k15.config.compose import compose_as, settings
from k15.config.words import quoted
from k15.errors import ConfigError, unknown_name
from k15.launch import pipeline, sandbox
from k15.launch.submit import dry_run, submit

NAMED = {"pretrain": "sft", "long2short": "rl"}  # slurm/NAME.sbatch: a command with an experiment
USAGE = f"""usage: k15 launch COMMAND [name=value ...] [--dry-run]

Checks the settings, then submits COMMAND ({", ".join(COMMANDS)}) as a job, to Slurm where one answers, else to this machine.
cluster.* holds the job's options: cluster.nodes=2 cluster.gpus_per_node=8 cluster.partition=gpu cluster.time_min=60
With rl, cluster.rollout_nodes=4 adds nodes that only sample, as a second part of the same (heterogeneous) Slurm job;
cluster.rollout_partition and cluster.rollout_gpus_per_node where they are of another kind.

  --dry-run   print the batch script instead of submitting it

`k15 launch pretrain` and `k15 launch long2short` are sft and rl with the experiment of that name, unless another one is given.
The code sandbox as a job: k15 launch sandbox. Several commands, each if the one before succeeded: k15 launch pipeline (--help
says more of both).
Several seeds or settings as one job array: k15 rl --multirun 'seed=range(0,5)' hydra/launcher=slurm
"""


def named(words: Sequence[str]) -> list[str]:
    """`pretrain` and `long2short` as the command that they are."""
    if not words or words[0] not in NAMED:
        return list(words)
    own = [] if any(w.startswith("experiment=") for w in words) else [f"experiment={words[0]}"]
    return [NAMED[words[0]], *own, *words[1:]]


def main(argv: Sequence[str]) -> int:
    """Prints the job's id, or with --dry-run the script; `k15.cli` has checked the settings. Raises ConfigError."""
    if os.environ.get("K15_ENV"):
        print(f"k15 launch: K15_ENV is for `sbatch slurm/*.sbatch`; what is launched runs with {sys.executable}", file=sys.stderr)
    if argv and argv[0] == "pipeline":
        return pipeline.main(argv[1:])
    if argv and argv[0] == "sandbox":
        return sandbox.main(argv[1:])
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    words = [w for w in argv if w != "--dry-run"]
    if not words:
        raise ConfigError("launch needs a command, for example: k15 launch rl cluster.nodes=2 algo.tau=0.1 [--dry-run]")
    command, overrides = words[0], quoted(words[1:])
    if command not in COMMANDS:
        raise unknown_name("the command to launch", command, [*COMMANDS, *NAMED, "pipeline", "sandbox"])
    options = [w for w in overrides if w.startswith("-")]
    if options:
        raise ConfigError(f"launch knows the option --dry-run, but not {options[0]}; settings are written name=value.")
    cfg = compose_as(COMMANDS[command], command, settings(overrides))
    if len(words) < len(argv):
        print(dry_run(cfg, command, overrides))
        return 0
    job = submit(cfg, command, overrides)
    more = f" and {cfg.cluster.rollout_nodes} for rollout only" if cfg.cluster.rollout_nodes else ""
    print(f"job {job} on {cfg.cluster.nodes} node(s){more}; see it with: k15 status {job}")
    return 0
