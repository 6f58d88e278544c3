"""`k15 <command>`: one word picks what runs. Heavy modules are imported by the command that needs them."""

import sys
from collections.abc import Sequence
from importlib import import_module

from k15.errors import ConfigError, K15Error, unknown_name

HYDRA = {"rl": "k15.runs.rl"}
PLAIN = {
    "launch": "k15.launch.cli",
    "status": "k15.launch.status",
    "doctor": "k15.launch.doctor",
    "report": "k15.eval.report",
}
USAGE = """usage: k15 COMMAND [words]

  rl       train by reinforcement learning          k15 rl algo.tau=0.1
           (--multirun sweeps, --cfg job shows all settings)
  launch   submit a command as a Slurm job          k15 launch rl algo.tau=0.1 [--dry-run]
  status   queue state, iteration, last metrics     k15 status [RUN_DIR | JOB]
  report   build report/index.html of a run         k15 report RUN_DIR [RUN_DIR ...]
  doctor   what was found on this machine           k15 doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors that k15 raises on purpose are printed without a traceback, exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    command, rest = words[0], words[1:]
    try:
        if command in HYDRA:
            return run_hydra(command, rest)
        if command == "launch" and rest and rest[0] in HYDRA:
            check_points([w for w in rest[1:] if not w.startswith("-")], multirun=False, submitted=True)
        if command in PLAIN:
            return import_module(PLAIN[command]).main(rest)
        raise unknown_name("the command", command, [*HYDRA, *PLAIN])
    except K15Error as error:
        print(f"k15 {command}: {error}", file=sys.stderr)
        return 2


def run_hydra(command: str, words: list[str]) -> int:
    """Check every point that the words describe, then hand over to Hydra."""
    overrides = [w for w in words if not w.startswith("-")]
    if len(overrides) == len(words) or any(w in ("-m", "--multirun") for w in words):
        multirun = len(overrides) != len(words)
        check_points(overrides, multirun=multirun, submitted=multirun)
    sys.argv = [f"k15 {command}", *words]
    code = import_module(HYDRA[command]).main()
    return code if isinstance(code, int) else 0


def check_points(overrides: list[str], *, multirun: bool, submitted: bool) -> None:
    """Compose and check each point of a sweep (or the one run), before anything is submitted or started.

    `submitted`: the job will have `cluster.nodes` nodes; else it runs where we are. Raises ConfigError and DataError.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from k15.config.compose import compose_run
    from k15.node.rendezvous import JobIdentity
    from k15.runs.prepare import preflight

    own = [o for o in overrides if not o.lstrip("+~").startswith("hydra")]
    points = [own]
    if multirun:
        try:
            parsed = OverridesParser.create().parse_overrides(own)
        except HydraException as error:
            raise ConfigError(str(error).splitlines()[0]) from error
        points = [list(p) for p in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    nodes = JobIdentity.from_environment().node_count
    for point in points:
        cfg = compose_run(point)
        preflight(cfg, nodes=cfg.cluster.nodes if submitted else nodes)


if __name__ == "__main__":
    sys.exit(main())
