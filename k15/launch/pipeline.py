"""`k15 launch pipeline [FILE] [STAGE.name=value ...]`: a chain of jobs, each of which starts if the one before it succeeded.

A file names the stages (conf/pipeline/default.yaml); `{STAGE}` in a setting is the run folder of an earlier stage. Slurm
holds the chain (afterok) and cancels what can never start; the reason stands in pipeline.log and in `k15 status`. What a stage
that was ended from outside cannot write there, a small last job does (`k15.launch.pipeline_end`).
"""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import yaml

from k15.config.commands import COMMANDS
from k15.config.compose import compose_as, listed, settings
from k15.config.schema import ClusterConfig
from k15.config.values import check_names
from k15.config.words import FREE_TEXT, quoted
from k15.errors import REQUEUE, ClusterError, ConfigError, unknown_name
from k15.launch.hetjob import check_rollout_nodes, check_slurm
from k15.launch.pipeline_end import stops
from k15.launch.sbatch import options, render
from k15.launch.status import QUEUED, RUNS, slurm_job
from k15.launch.submit import ENVIRONMENT, POINT, kind, node_command, sbatch
from k15.log.sweep import is_finished

_HOLE = re.compile(r"(?<!\$)\{([a-zA-Z0-9_]+)\}")  # {STAGE}, but not Hydra's ${setting}
USAGE = """usage: k15 launch pipeline [FILE.yaml] [STAGE.name=value ...] [all.name=value ...] [run_dir=FOLDER] [--dry-run]

Submits the stages of FILE as a chain of Slurm jobs, each starting only if the one before succeeded. Without FILE: SFT, RL,
long2short and evaluation of a tiny model (conf/pipeline/default.yaml, a pattern for your own).
Words set a stage's settings, or those of all: rl.algo.tau=0.1 all.cluster.partition=gpu
With the run_dir of an earlier chain, the stages that have not succeeded are submitted again.

  --dry-run   print the scripts instead of submitting them
"""


@dataclass(frozen=True)
class Stage:
    """`settings` with the folders of earlier stages put in; `open`: they do not name such a folder, so all can be checked."""

    name: str
    command: str
    settings: tuple[str, ...]
    folder: Path
    open: bool


def main(words: Sequence[str]) -> int:
    """Submit the chain, or with --dry-run print its scripts. Raises ConfigError and ClusterError."""
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    chain = stages(words)
    if "--dry-run" in words:
        for number, stage in enumerate(chain):
            after = f" --dependency=afterok:JOB_OF_{chain[number - 1].name}" if number else ""
            print(f"# ---- sbatch{after} --kill-on-invalid-dep=yes: {stage.name}, in {stage.folder}\n{script(chain, number)}")
        return 0
    submit(chain)
    return 0


def stages(words: Sequence[str]) -> list[Stage]:
    """The stages that `words` describe, composed but for what is known only when they start. Raises ConfigError."""
    words = [w for w in words if w != "--dry-run"]
    flags = [w for w in words if w.startswith("-")]
    if flags:
        raise ConfigError(f"launch pipeline knows the option --dry-run, but not {flags[0]}; settings are STAGE.name=value.")
    named = [w for w in words if "=" not in w]
    if len(named) > 1:
        raise ConfigError(f"launch pipeline takes one file, but {' and '.join(named)} were given.")
    own = {"run_dir": str(RUNS / f"pipeline-{time.strftime('%Y%m%d-%H%M%S')}")}
    rows = _read(Path(named[0]) if named else Path(str(files("k15.conf") / "pipeline" / "default.yaml")))
    names = [row["name"] for row in rows]
    given: dict[str, list[str]] = {name: [] for name in names}
    typed = [w for w in words if "=" in w]
    for word, (key, _, value) in zip(settings(quoted(typed)), (w.partition("=") for w in typed), strict=True):
        stage, dot, _ = key.partition(".")
        if key in own:
            own[key] = value
        elif not dot or stage not in (*names, "all"):
            raise unknown_name(f"{word}: the stage", stage, [*names, "all", "run_dir"])
        for name in names if dot and stage == "all" else [stage] if dot else []:
            given[name].append(word[len(stage) + 1 :])
    base, found = Path(own["run_dir"]).absolute(), []
    for row in rows:
        found.append(_stage(row, given[row["name"]], base, found))
    return found


def _stage(row: dict, more: Sequence[str], base: Path, before: Sequence[Stage]) -> Stage:
    folders = {stage.name: str(stage.folder) for stage in before}
    texts = [*quoted(row.get("settings", [])), *more]
    used = [name for text in texts for name in _HOLE.findall(text) if not _free(text)]
    for name in used:
        if name not in folders:
            raise unknown_name(f"stage {row['name']}: the earlier stage in {{...}}", name, list(folders))
    put = [text if _free(text) else _HOLE.sub(lambda m: folders[m[1]], text) for text in texts]
    put = listed(COMMANDS[row["command"]], quoted(put))
    taken = [text for text in put if text.startswith("run_dir=")]
    if taken:
        raise ConfigError(f"stage {row['name']}: {taken[0]} cannot be set; run_dir=FOLDER of the chain holds all stages.")
    stage = Stage(row["name"], row["command"], (*put, *quoted([f"run_dir={base / row['name']}"])), base / row["name"], not used)
    cfg = _composed(stage)
    if cfg.cluster.kind == "local":
        raise ConfigError(f"stage {stage.name}: cluster.kind is local, but a chain needs Slurm. slurm/local/up starts one here.")
    return stage


def _free(text: str) -> bool:
    """Whether braces in it are the user's own: reward.template=\\boxed{ANSWER}."""
    return text.partition("=")[0].lstrip("+") in FREE_TEXT


def _composed(stage: Stage):
    try:
        cfg = compose_as(COMMANDS[stage.command], stage.command, settings(stage.settings))
        check_names(cfg.name, cfg.run_dir)
        check_rollout_nodes(cfg.cluster, stage.command, submitted=True, multirun=False, dry_run=False)
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from error
    return cfg


def _read(path: Path) -> list[dict]:
    """The rows of a file. Raises ConfigError."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the pipeline {path} cannot be read: {error}") from error
    rows = found.get("stages") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path} has no list `stages`; each is {{name: rl, command: rl, settings: [algo.tau=0.1]}}.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {"name", "command"} <= set(row) <= {"name", "command", "settings"}:
            raise ConfigError(f"{path}: stage {number} must have name and command, and may have settings; it is {row!r}.")
        if row["command"] not in COMMANDS:
            raise unknown_name(f"{path}: the command of stage {row['name']}", str(row["command"]), COMMANDS)
        if not re.fullmatch(r"[a-zA-Z0-9_]+", str(row["name"])) or row["name"] in (
            "all",
            *(r["name"] for r in rows[: number - 1]),
        ):
            raise ConfigError(f"{path}: the name of stage {number} is {row['name']!r}; it must be letters, digits and _, not "
                              "`all`, and no other stage's.")  # fmt: skip
        if not all(isinstance(text, str) for text in row.get("settings", [])):
            raise ConfigError(f"{path}: the settings of stage {row['name']} must be texts name=value (quote those with braces).")
    return rows


def script(chain: Sequence[Stage], number: int) -> str:
    """The batch script of a stage: its command, and where that fails a line in pipeline.log."""
    stage = chain[number]
    cluster = replace(_composed(stage).cluster)
    cluster.setup = [*cluster.setup, f"export {POINT}={shlex.quote(str(stage.folder))}"]
    argv = node_command(stage.command, list(stage.settings))
    body = render(cluster, argv, job_name=f"k15-{stage.name}", log_dir=stage.folder / "logs" / "launch")
    rest = stops([s.name for s in chain[number + 1 :]])
    return body + "\n".join(
        [
            "code=$?",
            f"if ((code != 0 && code != {REQUEUE})); then",
            f'  echo "k15: stage {stage.name} (job $SLURM_JOB_ID) failed with exit code $code{rest}" |',
            f"    tee -a {shlex.quote(str(stage.folder.parent / 'pipeline.log'))}",
            "fi",
            "exit $code",
            "",
        ]
    )


def submit(chain: Sequence[Stage]) -> dict[str, str]:
    """Submit what has not succeeded yet; the jobs by stage. Raises ClusterError, and ConfigError where the chain is going on."""
    if kind(_composed(chain[0]).cluster) == "local":
        raise ConfigError("a chain needs Slurm, and none answers. slurm/local/up starts one on this machine.")
    todo = [n for n, stage in enumerate(chain) if not is_finished(stage.folder)]
    for n, stage in enumerate(chain):
        path = stage.folder / "job.json"
        record = json.loads(path.read_text()) if path.is_file() else {}
        job = str(record["job_id"]) if "job_id" in record else None
        if n not in todo and record.get("words", _words(stage)) != _words(stage):
            raise ConfigError(f"stage {stage.name} in {stage.folder} was finished with other settings. Give another run_dir=, or "
                              "the same settings to go on with the chain.")  # fmt: skip
        fields = slurm_job(job) if job is not None else None
        if fields and fields["JobState"] in QUEUED:
            raise ConfigError(f"{stage.folder.parent} is going on: stage {stage.name} is job {job}, {fields['JobState']}. "
                              f"Wait for it (k15 status), or end it: scancel {job}.")  # fmt: skip
    if any(_composed(chain[n]).cluster.rollout_nodes for n in todo):
        check_slurm()
    jobs: dict[str, str] = {}
    before = None
    for number in todo:
        stage = chain[number]
        (stage.folder / "logs" / "launch").mkdir(parents=True, exist_ok=True)
        after = [f"--dependency=afterok:{jobs[before]}", "--kill-on-invalid-dep=yes"] if before is not None else []
        try:
            job = jobs[stage.name] = sbatch(script(chain, number), *after)
        except ClusterError as error:
            _cancel(jobs)
            raise ClusterError(f"stage {stage.name}: {error}; no stage was left queued") from error
        log = stage.folder / "logs" / "launch" / f"k15-{stage.name}-{job}.out"
        record = {"job_id": job, "kind": "slurm", "log": str(log), "submitted": time.time(), "words": _words(stage)}
        if before is not None:
            record["after"] = str(chain[todo[todo.index(number) - 1]].folder)
        (stage.folder / "job.json").write_text(json.dumps(record) + "\n")
        print(f"{stage.name}: job {job}{f', after {before}' if before is not None else ''}; folder {stage.folder}")
        before = stage.name
    if jobs:
        _submit_end(chain[todo[-1]], jobs)
    print(
        "every stage has succeeded"
        if not todo
        else f"see them with: k15 status; what failed: {chain[0].folder.parent}/pipeline.log"
    )
    return jobs


def _submit_end(last: Stage, jobs: dict[str, str]) -> None:
    """The small job behind all others that says in pipeline.log what was ended from outside."""
    base, own = last.folder.parent, _composed(last).cluster
    cluster = ClusterConfig(time_min=5, partition=own.partition, account=own.account, qos=own.qos)
    argv = [sys.executable, "-m", "k15.launch.pipeline_end", str(base), *(f"{name}={job}" for name, job in jobs.items())]
    asked = [f"#SBATCH --{option}" for option in options(cluster, "k15-pipeline-end", last.folder / "logs" / "launch")]
    try:
        sbatch(
            "\n".join(["#!/bin/bash", *asked, *ENVIRONMENT, shlex.join(argv), ""]),
            f"--dependency=afterany:{':'.join(jobs.values())}",
        )
    except ClusterError as error:
        print(f"{error} It would have said in pipeline.log which stage was ended from outside; the chain goes on without it.",
              file=sys.stderr)  # fmt: skip


def _words(stage: Stage) -> list[str]:
    """What a stage was told to do; cluster settings may differ from call to call."""
    return [stage.command, *(text for text in stage.settings if not text.startswith("cluster."))]


def _cancel(jobs: dict[str, str]) -> None:
    if jobs:
        subprocess.run(["scancel", *jobs.values()], capture_output=True, timeout=60)
