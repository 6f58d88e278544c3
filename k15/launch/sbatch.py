"""A batch script from `cluster.*` settings; its body is slurm/preamble.sh, the same that slurm/rl.sbatch runs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import k15
from k15.config.schema import ClusterConfig


def render(cfg: ClusterConfig, run_command: Sequence[str], *, job_name: str, log_dir: str | Path) -> str:
    """The text of a script for sbatch that runs `run_command` once on each of `cfg.nodes` nodes.

    It needs nothing but Slurm and the command: the body is written into it. Output goes to `log_dir`, which must exist
    when the job starts (Slurm does not make it).
    """
    return script(cfg, [f"k15_job {shlex.join(run_command)}"], job_name=job_name, log_dir=log_dir)


def script(cfg: ClusterConfig, body: Sequence[str], *, job_name: str, log_dir: str | Path, warned: bool = True) -> str:
    """The same with shell lines in place of a command. `warned`: it saves on Slurm's signal before the time limit."""
    lines = ["#!/bin/bash", *(f"#SBATCH --{option}" for option in options(cfg, job_name, Path(log_dir), warned))]
    if cfg.rollout_nodes:
        lines += ["#SBATCH hetjob", *(f"#SBATCH --{option}" for option in rollout_options(cfg, job_name))]
    if cfg.setup:
        lines += ["", "# cluster.setup", *cfg.setup]
    lines += ["", preamble().rstrip(), "", *body, ""]
    return "\n".join(lines)


def options(cfg: ClusterConfig, job_name: str, log_dir: Path, warned: bool = True) -> list[str]:
    """sbatch's options without the leading dashes."""
    own = {"signal": f"B:USR1@{cfg.signal_before_s}" if warned else None, "open-mode": "append"}
    own["output"] = str(log_dir / "%x-%j.out")
    return _written(_of_nodes(cfg, job_name) | own, cfg)


def rollout_options(cfg: ClusterConfig, job_name: str) -> list[str]:
    """Those of the second part of a heterogeneous job: its nodes for rollout only. Signal and log are the first part's."""
    gpus = cfg.gpus_per_node if cfg.rollout_gpus_per_node is None else cfg.rollout_gpus_per_node
    partition = cfg.partition if cfg.rollout_partition is None else cfg.rollout_partition
    part = replace(cfg, nodes=cfg.rollout_nodes, gpus_per_node=gpus, partition=partition)
    return _written(_of_nodes(part, job_name), cfg)


def _of_nodes(cfg: ClusterConfig, job_name: str) -> dict[str, object]:
    return {
        "job-name": job_name,
        "nodes": cfg.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cfg.cpus_per_task,
        "gres": f"gpu:{cfg.gpus_per_node}" if cfg.gpus_per_node is not None and cfg.gpus_per_node > 0 else None,
        "mem": memory(cfg),
        "time": cfg.time_min,
        "partition": cfg.partition,
        "account": cfg.account,
        "qos": cfg.qos,
    }


def _written(given: Mapping[str, object], cfg: ClusterConfig) -> list[str]:
    flags = ["requeue" if cfg.requeue else "no-requeue"]
    return [f"{name}={shlex.quote(str(value))}" for name, value in given.items() if value is not None] + flags


def memory(cfg: ClusterConfig) -> str | None:
    """`mem_gb` a node as Slurm wants it, in MiB."""
    return None if cfg.mem_gb is None else f"{int(cfg.mem_gb * 1024)}M"


def preamble() -> str:
    """slurm/fabric.sh and slurm/preamble.sh, to be written into a script."""
    return f"{shell_file('fabric.sh').rstrip()}\n\n{shell_file('preamble.sh')}"


def fabric_lines() -> list[str]:
    """For scripts that are not made of the preamble: what sets NCCL, UCX and gloo by the node's fabric."""
    return [shell_file("fabric.sh").rstrip(), "k15_fabric"]


def shell_file(name: str) -> str:
    """A file of slurm/ of this checkout, or of the installed package."""
    package = Path(k15.__file__).parent
    found = [f for f in (package.parent / "slurm", package / "slurm") if (f / name).is_file()]
    assert found, f"slurm/{name} is missing beside {package}: the installation is incomplete"
    return (found[0] / name).read_text()
