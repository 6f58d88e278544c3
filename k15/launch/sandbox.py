"""`k15 launch sandbox`: the code sandbox as a Slurm job of one node, for runs with sandbox.url and sandbox.token_file."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from k15.config.commands import COMMANDS
from k15.config.compose import compose_as, settings
from k15.config.words import quoted
from k15.errors import ClusterError, ConfigError
from k15.launch.sbatch import script
from k15.launch.submit import kind, sbatch

USAGE = """usage: k15 launch sandbox [cluster.NAME=VALUE ...] [OPTION ...] [--dry-run]

Submits `k15 sandbox serve OPTION ...` (see its --help) as a job of one node: cluster.cpus_per_task=32 cluster.time_min=1440.
Token and address are in sandbox-JOB.token and sandbox-JOB.url of this folder; only you can read the token.
"""
OURS = ("--token-file", "--url-file", "--host")


def main(argv: Sequence[str]) -> int:
    """Prints the job's files and how runs use it, or with --dry-run the script. Raises ConfigError, ClusterError."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    words = [w for w in argv if w != "--dry-run"]
    ours = [w for w in words if w.startswith("cluster.")]
    options = [w for w in words if w not in ours]
    for before, word in zip(["", *options], options, strict=False):
        if word.partition("=")[0] in OURS:
            raise ConfigError(f"{word.partition('=')[0]} is not to be given: the job's number and node decide it.")
        of_option = before.startswith("--") and "=" not in before  # --image NAME=DIR
        if not of_option and word.partition("=")[0].replace(".", "_").isidentifier() and "=" in word:
            raise ConfigError(
                f"{word} is no setting of a sandbox's job; those are cluster.*, and options of `k15 sandbox serve`."
            )
    cluster = compose_as(COMMANDS["rl"], "rl", settings(quoted(ours))).cluster
    if cluster.nodes != 1 or cluster.rollout_nodes:
        raise ConfigError(f"cluster.nodes is {cluster.nodes}, but a sandbox is served on one node; launch it several times.")
    command = shlex.join([sys.executable, "-m", "k15"])
    body = ["k15_sandbox", f'k15_job {command} "${{K15_WORDS[@]}}" {shlex.join(options)}'.rstrip()]
    text = script(cluster, body, job_name="k15-sandbox", log_dir=Path.cwd(), warned=False)
    if len(words) < len(argv):
        print(text)
        return 0
    if kind(cluster) != "slurm":
        raise ClusterError("a sandbox is launched on Slurm only; on this machine: k15 sandbox serve --token-file FILE")
    file = f"sandbox-{sbatch(text)}"
    print(f"{file}: once {file}.url is there, give runs sandbox.url=$(cat {file}.url) sandbox.token_file={file}.token")
    return 0
