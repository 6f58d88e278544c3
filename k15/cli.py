"""`k15 <command>`: one word picks what runs. Heavy modules are imported by the command that needs them."""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from k15.config.commands import COMMANDS
from k15.config.values import check_names
from k15.config.words import quoted
from k15.errors import ConfigError, K15Error, system_error, unknown_name
from k15.launch.hetjob import check_rollout_nodes
from k15.launch.local import adopt

PLAIN = {
    "launch": "k15.launch.cli",
    "scale": "k15.launch.scale",
    "join": "k15.runs.join",  # run by the jobs of scale
    "status": "k15.launch.status",
    "doctor": "k15.launch.doctor",
    "report": "k15.eval.report",
    "sandbox": "k15.sandbox.cli",
    "testgen": "k15.runs.testgen",
    "merge": "k15.runs.merge",
    "plan": "k15.runs.plan",
}
SLURM = ("launch", "scale", "status", "doctor")  # these ask Slurm
SLURM_SWEEPS = ("slurm", "submitit_slurm")  # launchers of Hydra that submit
MULTIRUN = {"-m", "--multirun"}
SHOWS = {"--cfg", "-c"}  # Hydra prints the settings
ELSEWHERE = {"--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp"}  # settings that are not ours to check
USAGE = """usage: k15 COMMAND [words]

  rl       train by reinforcement learning          k15 rl algo.tau=0.1
           (--multirun sweeps, --cfg job shows all settings)
  sft      supervised fine-tuning, in two stages    k15 sft model.path=DIR 'data.paths=[train.jsonl]'
  long_cot  chains of thought for the warm-up       k15 long_cot model.path=DIR data=jsonl data.path=FILE
  shortest  shortest right answers, and pairs       k15 shortest model.path=DIR data=jsonl data.path=FILE
  dpo      learn to prefer short right answers      k15 dpo model.path=DIR 'data.paths=[pairs.jsonl]'
  merge    average of models' weights               k15 merge DIR DIR --out DIR
  plan     memory, time and cost of a run, ahead    k15 plan model.path=DIR plan.device=h100 [--search]
  launch   submit a command as a Slurm job          k15 launch rl algo.tau=0.1 [--dry-run]
  scale    add or take nodes for rollout, mid-run   k15 scale RUN_DIR +1 | -1 | NODES
  status   queue state, iteration, last metrics     k15 status [RUN_DIR | JOB]
  report   report/index.html of a run or sweep      k15 report RUN_DIR [RUN_DIR ...]
  sandbox  the code sandbox: service, images        k15 sandbox {serve,build,probe}
  testgen  test cases for code problems             k15 testgen PROBLEMS --out FOLDER
  reward_model  train and spot-check one            k15 reward_model kind=classic|cot
  curate   raw rows to a versioned prompt store     k15 curate sources=[train.jsonl]
  eval     benchmarks on a checkpoint or endpoint   k15 eval model.path=FOLDER tasks=math500,gsm8k
  doctor   what was found on this machine           k15 doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors that k15 raises on purpose are printed without a traceback, exit code 2; so are those of
    the system (a full disk, a folder that cannot be written), exit code 1."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    command, rest = words[0], words[1:]
    asks = bool({"-h", "--help"} & set(rest))
    try:
        if command == "eval" and rest[:1] == ["compare"]:
            return import_module("k15.eval.standings").main(rest[1:])
        if command == "eval" and rest[:1] == ["best"]:
            return import_module("k15.eval.efficiency").main(rest[1:])
        if command == "reward_model" and rest[:1] == ["compare"]:
            return import_module("k15.runs.reward_model").compare(rest[1:])
        if command in COMMANDS and "K15_HET_GROUP" in os.environ:
            return import_module("k15.runs.join").within_job(command, rest)
        if command in COMMANDS:
            return run_hydra(command, rest)
        if command == "launch":
            rest = import_module("k15.launch.cli").named(rest)
        if command == "launch" and rest and rest[0] in COMMANDS and not asks:
            rest = [rest[0], *_listed(rest[0], quoted(rest[1:]))]
            given = [w for w in rest[1:] if not w.startswith("-")]
            check_points(rest[0], _settings(given), multirun=False, submitted=True)
        if command == "launch" and rest[:1] == ["pipeline"] and not asks:
            check_chain(import_module("k15.launch.pipeline").stages(rest[1:]))
        if command in SLURM and not asks:
            adopt()
        if command == "status" and "--cost" in rest:
            return import_module("k15.launch.cost").main(rest)
        if command in PLAIN:
            return import_module(PLAIN[command]).main(rest)
        raise unknown_name("the command", command, [*COMMANDS, *PLAIN])
    except K15Error as error:
        print(f"k15 {command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if (said := system_error(error)) is None:
            raise
        print(f"k15 {command}: {said}", file=sys.stderr)
        return 1


def run_hydra(command: str, words: list[str]) -> int:
    """Check every point that the words describe, then hand over to Hydra. Flags that only ask are for Hydra alone."""
    flags = {w for w in words if w.startswith("-")}
    words = quoted(words)
    if flags <= {*MULTIRUN, "-r", "--run"}:
        multirun = bool(flags & MULTIRUN)
        words = words if multirun else _listed(command, words)  # in a sweep, a=1,2 are two runs
        check_points(command, _settings([w for w in words if w not in flags]), multirun=multirun, submitted=multirun)
        if multirun:  # its launcher may be Slurm's
            adopt()
            import_module("k15.launch.sweep").install()
    elif flags & SHOWS and not flags & {*MULTIRUN, *ELSEWHERE}:
        compose = import_module("k15.config.compose").compose_as  # for its errors: Hydra's own are a traceback
        compose(COMMANDS[command], command, _own([w for w in words if "=" in w and w not in flags]))
    sys.argv = [f"k15 {command}", *words]
    try:
        code = import_module(f"k15.runs.{command}").main()
    except ValueError as error:  # of Hydra's own command line; those of the run end in `main`
        if "HYDRA_FULL_ERROR" in os.environ:
            raise
        raise ConfigError(str(error).splitlines()[0]) from error
    return code if isinstance(code, int) else 0


def check_points(command: str, overrides: list[str], *, multirun: bool, submitted: bool) -> None:
    """Compose and check each point of a sweep of `command` (or the one run), before anything is submitted or started.

    `submitted`: the job will have `cluster.nodes` nodes (a point of a sweep: those of its launcher); else it runs where we
    are. Raises ConfigError and DataError.
    """
    from k15.config.compose import compose_as
    from k15.config.engines import elsewhere
    from k15.node.rendezvous import JobIdentity

    module, job = import_module(f"k15.runs.{command}"), import_module("k15.runs.job")
    identity, own = JobIdentity.from_environment(), _own(overrides)
    sampled = any(o.lstrip("+").startswith(("hydra/sweeper", "hydra.sweeper")) for o in overrides)
    launcher = _launcher(overrides) if multirun else {}
    submitted = submitted and (not multirun or launcher["kind"] in SLURM_SWEEPS)  # other launchers run the points here
    launched = launcher.get("nodes")
    folders, shapes = Counter(), set()
    for point in _points(own, sampled) if multirun else [own]:
        cfg = compose_as(COMMANDS[command], command, point)
        check_names(cfg.name, cfg.run_dir)
        check_rollout_nodes(cfg.cluster, command, submitted=submitted, multirun=multirun, dry_run=cfg.dry_run)
        folders[cfg.run_dir] += 1
        shapes.add(repr(cfg.cluster))
        if multirun and cfg.run_dir is not None and folders[cfg.run_dir] > 1:
            raise ConfigError(f"run_dir is {cfg.run_dir} for several points of the sweep. Leave it out: each point gets a folder "
                              "of its own in hydra.sweep.dir.")  # fmt: skip
        if len(shapes) > 1 and launcher.get("kind") == "slurm":
            raise ConfigError("cluster.* has several values, but with hydra/launcher=slurm the points are one job array, whose "
                              "jobs are alike. Run a sweep for each value.")  # fmt: skip
        if cfg.cluster.kind == "slurm" and not submitted and not cfg.dry_run and "SLURM_JOB_ID" not in os.environ:
            raise ConfigError(
                f"cluster.kind is slurm, but this is no Slurm job. Submit one with `k15 launch {command} ...` or "
                f"`sbatch slurm/{command}.sbatch ...`, or run on this machine with cluster=local."
            )
        if hasattr(module, "JOB"):  # the data that is checked is what the run would have
            job.pin_stores(cfg, job.run_folder(cfg.name, cfg.run_dir, identity))
        here = not submitted or cfg.cluster.kind == "local"
        if not cfg.dry_run and here:
            job.check_devices_here(cfg)
        nodes = identity.node_count if not submitted else launched if launched is not None else cfg.cluster.nodes
        with nullcontext() if here else elsewhere():
            module.preflight(cfg, nodes=nodes)
        if cfg.run_dir is not None and hasattr(module, "JOB") and identity.restart == 0:
            job.check_folder(cfg, Path(cfg.run_dir).absolute(), module.JOB.may_change)


def check_chain(chain: Sequence[Any]) -> None:
    """All that can be known of each stage before the first is submitted. Raises ConfigError and DataError with the stage's name.

    hf/ and best/ of an earlier rl, sft or dpo have the shape and tokenizer of the model that it starts from, which stands in for
    them. What is wrong with other things that an earlier stage will make is left to the stage.
    """
    from k15.config.compose import compose_as
    from k15.data.tiny import write_tiny_model

    made: dict[str, Path] = {}  # "model.path=FOLDER" -> what stands in
    with tempfile.TemporaryDirectory(prefix="k15-chain-") as scratch:
        for number, stage in enumerate(chain):
            words = [f"model.path={made[w]}" if w in made else w for w in stage.settings]
            try:
                check_points(stage.command, words, multirun=False, submitted=True)
            except K15Error as error:
                if not any(str(earlier.folder) in str(error) for earlier in chain[:number]):
                    raise type(error)(f"stage {stage.name}: {error}") from error
            if stage.command not in ("rl", "sft", "dpo"):
                continue
            model = compose_as(COMMANDS[stage.command], stage.command, _settings(_own(words))).model
            own = model.path
            if own is None:  # it makes the tiny one
                own = write_tiny_model(Path(scratch) / stage.name, model.tiny, model.max_context_tokens, model.dtype)
                (own / "model.safetensors").touch()
            made |= {f"model.path={stage.folder / name}": Path(own) for name in ("hf", "best")}


def _own(overrides: list[str]) -> list[str]:
    """The overrides that are k15's, not Hydra's."""
    return [o for o in overrides if not o.lstrip("+~").startswith("hydra")]


def _launcher(overrides: list[str]) -> dict[str, Any]:
    """The sweep's launcher: `kind`, and `nodes` that submitit_slurm gives to each point (slurm: cluster.nodes, so None).

    Raises ConfigError for a number that cannot be.
    """
    given = dict(o.lstrip("+").partition("=")[::2] for o in overrides)
    kind = given.get("hydra/launcher", "basic")
    for name in ("nodes", "array_parallelism"):
        value = given.get(f"hydra.launcher.{name}", "1")
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError(f"hydra.launcher.{name} is {value!r}, but it must be a whole number of at least 1.")
    nodes = given.get("hydra.launcher.nodes", "1" if kind == "submitit_slurm" else None)
    return {"kind": kind, "nodes": int(nodes) if nodes is not None and kind in SLURM_SWEEPS else None}


def _points(overrides: list[str], sampled: bool) -> list[list[str]]:
    """The settings of each point of a sweep. `sampled`: a sweeper of the user chooses values, not the settings alone."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        if not sampled and not any(o.is_sweep_override() for o in parsed):
            raise ConfigError(
                "--multirun needs a setting with several values, for example algo.tau=0.03,0.1. "
                "One run is started without --multirun, or submitted with `k15 launch rl`."
            )
        return [list(p) for p in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _listed(command: str, words: list[str]) -> list[str]:
    from k15.config.compose import listed

    return listed(COMMANDS[command], words)


def _settings(words: list[str]) -> list[str]:
    from k15.config.compose import settings

    return settings(words)


if __name__ == "__main__":
    sys.exit(main())
