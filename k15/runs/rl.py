"""`k15 rl`: this task's part of an RL job. The same words run on a laptop, in `sbatch slurm/rl.sbatch`, and in a sweep.

In Slurm there is one task a node; outside it, one node. Each composes the same config, the head node writes it down.
"""

import asyncio
import glob
import os
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from k15.config.check import check
from k15.config.compose import from_yaml, to_yaml
from k15.config.schema import RunConfig
from k15.errors import ConfigError
from k15.log import get_logger
from k15.node.rendezvous import JobIdentity
from k15.runs.entry import enter
from k15.runs.prepare import preflight

__all__ = ["main", "preflight", "run"]
log = get_logger("rl")
MAY_CHANGE = (
    "cluster",
    "log",
    "save",
    "eval",
    "name",
    "run_dir",
    "dry_run",
    "algo.iterations",
    "parallel.ranks_per_node",
)


@hydra.main(config_path="pkg://k15.conf", config_name="rl", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("rl", config, run)


def run(cfg: RunConfig) -> int:
    """Check, prepare the run folder, be this node until the job ends. Returns the exit code."""
    identity = JobIdentity.from_environment()
    run_dir = run_folder(cfg, identity)
    if identity.restart > 0 and (run_dir / "config.yaml").is_file():
        cfg = from_yaml((run_dir / "config.yaml").read_text())  # a requeued job goes on as it began, whatever defaults are now
    model = check(cfg, nodes=identity.node_count)
    cfg.run_dir = str(run_dir)
    if cfg.dry_run:
        print(to_yaml(cfg))
        print(f"# {identity.node_count} nodes, model_type {model['model_type']}: the settings fit together; nothing was started.")
        return 0
    from k15.node.service import Node  # brings torch: after the checks

    if identity.node_rank == 0:
        prepare_folder(cfg, run_dir)
    return asyncio.run(Node(identity, run_dir, device(cfg)).run())


def run_folder(cfg: RunConfig, identity: JobIdentity) -> Path:
    """`run_dir`, or runs/<name>-<job>: a requeued Slurm job finds its own folder again."""
    if cfg.run_dir is not None:
        return Path(cfg.run_dir).absolute()
    suffix = identity.job if not identity.job.startswith("local-") else time.strftime("%Y%m%d-%H%M%S")
    return Path("runs", f"{cfg.name}-{suffix}").absolute()


def device(cfg: RunConfig) -> str:
    """cpu or cuda; `auto` takes CUDA where the driver shows a device and Slurm has not hidden all of them."""
    if cfg.cluster.device != "auto":
        return cfg.cluster.device
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")
    return "cuda" if glob.glob("/dev/nvidia[0-9]*") and not hidden else "cpu"


def prepare_folder(cfg: RunConfig, run_dir: Path) -> None:
    """Write config.yaml, or make sure that the folder's earlier run had the same settings. Raises ConfigError."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "config.yaml"
    if path.is_file() and any((run_dir / "checkpoints").glob("*-iteration-*")):
        before = from_yaml(path.read_text())
        changed = [k for k in differing(before, cfg) if not any(k == m or k.startswith(m + ".") for m in MAY_CHANGE)]
        if changed:
            raise ConfigError(
                f"{run_dir} holds a run with other settings ({', '.join(changed[:5])}). Give another run_dir=, "
                "or the same settings to resume it."
            )
    tmp = path.with_suffix(f".{os.getpid()}")
    tmp.write_text(to_yaml(cfg))
    tmp.rename(path)


def differing(a: object, b: object, prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two configs differ."""
    found = []
    for name, left in vars(a).items():
        right = getattr(b, name)
        key = f"{prefix}{name}"
        if hasattr(left, "__dataclass_fields__"):
            found += differing(left, right, key + ".")
        elif left != right:
            found.append(key)
    return found
