"""One node's part of a job, the same for every command that runs on agents (`k15 rl`, `k15 sft`, `k15 dpo`): check, prepare
the run folder, be a node until the job ends.

In Slurm there is one task a node; outside it, one node. Each composes the same config, the head node writes it down.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from k15.config.compose import from_yaml, to_yaml
from k15.config.job import gpu_is_here
from k15.config.values import get
from k15.data.versions import is_version_of, pinned
from k15.errors import REQUEUE, ConfigError
from k15.log import get_logger
from k15.node.rendezvous import JobIdentity
from k15.runs.hold import held
from k15.runs.state import has_checkpoint, newest_iteration

MAY_CHANGE = (
    "cluster", "log", "save", "eval", "name", "run_dir", "dry_run", "parallel.ranks_per_node", "parallel.recompute",
    "parallel.offload",
)  # fmt: skip
"""Settings in which a resumed run may differ from the one that wrote its checkpoints."""
STORES = ("data.path", "data.eval_path")
"""Settings, where a command has them, that may name a prompt store."""
STOPPED = (REQUEUE, 128 + signal.SIGINT, 128 + signal.SIGTERM)
log = get_logger("job")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Job:
    """A command: `check(cfg, nodes)` returns the model's config.json or raises, `controller` is the head node's module."""

    command: str
    kind: type
    check: Callable[[Any, int], Mapping[str, object]]
    controller: str
    may_change: Sequence[str] = MAY_CHANGE

    def run(self, cfg: Any) -> int:
        """Be this node until the job ends. Returns the exit code. Raises ConfigError, also where another job has the folder."""
        identity = JobIdentity.from_environment()
        run_dir = run_folder(cfg.name, cfg.run_dir, identity)
        if identity.restart > 0 and (run_dir / "config.yaml").is_file():
            # a requeued job goes on as it began, whatever defaults are now
            cfg = from_yaml((run_dir / "config.yaml").read_text(), self.kind)
        model = self.check(cfg, identity.node_count)
        cfg.run_dir = str(run_dir)
        if cfg.dry_run:
            print(to_yaml(cfg))
            nodes = f"{identity.node_count} node{'s' * (identity.node_count > 1)}"
            print(f"# {nodes}, model_type {model['model_type']}: the settings fit together; nothing was started.")
            return 0
        if identity.node_rank > 0:
            return self._be_node(cfg, run_dir, identity)
        with held(run_dir, identity):
            prepare_folder(cfg, run_dir, self.may_change)
            log.info(
                "the run is kept in %s; stopped, the same words with run_dir=%s go on from its last checkpoint", run_dir, run_dir
            )
            code = self._be_node(cfg, run_dir, identity)
            if code in STOPPED and not identity.in_slurm:  # there a requeued job goes on by itself
                log.warning(going_on(run_dir))
            return code

    def _be_node(self, cfg: Any, run_dir: Path, identity: JobIdentity) -> int:
        from k15.node.service import Node  # brings torch: after the checks

        node = Node(
            identity, run_dir, device(cfg.cluster.device), controller=self.controller, command=self.command,
            etcd_members=cfg.cluster.etcd_members,
            weights=getattr(cfg, "weights", None),  # of commands that hand weights to engines
        )  # fmt: skip
        return asyncio.run(node.run())


def going_on(run_dir: Path) -> str:
    """Of a run that was stopped: what is kept of it, and how it goes on."""
    iteration = newest_iteration(run_dir)
    if iteration is None:
        return f"stopped before the first checkpoint: the same words with run_dir={run_dir} begin anew"
    return (
        f"stopped; the last checkpoint is iteration {iteration} of {run_dir}: the same words with run_dir={run_dir} go on from it"
    )


def run_folder(name: str, given: str | None, identity: JobIdentity) -> Path:
    """`given` (run_dir), or runs/<name>-<job>: a requeued Slurm job finds its own folder again. Outside Slurm, of two that start
    in one second each has its own."""
    if given is not None:
        return Path(given).absolute()
    suffix = identity.job if identity.in_slurm else f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return Path("runs", f"{name}-{suffix}").absolute()


def device(wanted: str) -> str:
    """cpu or cuda; `auto` takes CUDA where this machine shows a GPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if gpu_is_here() else "cpu"


def check_devices_here(cfg: Any) -> None:
    """Raises ConfigError where `cfg` asks for a GPU and this machine, on which it is to run, shows none."""
    found = gpu_is_here()
    if not found and cfg.cluster.device == "cuda":
        raise ConfigError(
            "cluster.device is cuda, but this machine shows no GPU (/dev/nvidia*, CUDA_VISIBLE_DEVICES). "
            "Give cluster.device=cpu or auto, or run it where there is one: k15 launch."
        )
    if found or os.environ.get("TRITON_INTERPRET") == "1":
        return
    for room in ("algo", "fit"):
        if getattr(getattr(cfg, room, None), "kernels", "auto") == "triton":
            raise ConfigError(
                f"{room}.kernels is triton, which needs a GPU, and this machine shows none. Give {room}.kernels=auto or torch."
            )


def prepare_folder(cfg: Any, run_dir: Path, may_change: Sequence[str] = MAY_CHANGE) -> None:
    """Write config.yaml, or make sure that the folder's earlier run had the same settings. Raises ConfigError.

    A prompt store gets the name of its version in `cfg` (`pin_stores`), so that what is added to it later changes no run.
    """
    check_folder(cfg, run_dir, may_change)
    for key, newest in pin_stores(cfg, run_dir).items():
        log.info("%s: the run goes on with the version that it began with, not with %s", key, newest)
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "config.yaml"
    tmp = path.with_suffix(f".{os.getpid()}")
    tmp.write_text(to_yaml(cfg))
    tmp.rename(path)


def check_folder(cfg: Any, run_dir: Path, may_change: Sequence[str] = MAY_CHANGE) -> None:
    """Raises ConfigError where `run_dir` holds checkpoints of a run with other settings."""
    before = begun(run_dir, type(cfg))
    if before is None:
        return
    changed = [k for k in differing(before, cfg) if not any(k == m or k.startswith(m + ".") for m in may_change)]
    changed = [k for k in changed if k not in STORES or not _one_store(get(before, k), get(cfg, k))]
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run with other settings ({', '.join(changed[:5])}). Give another run_dir=, "
            "or the same settings to resume it."
        )


def begun(run_dir: Path, kind: type[Config]) -> Config | None:
    """The settings of the run whose checkpoints the folder holds; None where it holds none. Raises ConfigError."""
    path = run_dir / "config.yaml"
    if path.is_file() and has_checkpoint(run_dir):
        return from_yaml(path.read_text(), kind)
    return None


def _one_store(a: object, b: object) -> bool:
    """Is one a version of the store that the other names? The store's name stands for the version that the run has."""
    return isinstance(a, str) and isinstance(b, str) and (is_version_of(a, b) or is_version_of(b, a))


def pin_stores(cfg: Any, run_dir: Path) -> dict[str, str]:
    """Name the version of each prompt store in `cfg`: the one that the run in `run_dir` has begun with, else the newest. Returns
    the newest of those that have got a newer one meanwhile, by setting."""
    before, passed = begun(run_dir, type(cfg)), {}
    for key in STORES:
        name = key.removeprefix("data.")
        path = getattr(cfg.data, name, None)
        if not path:
            continue
        had, newest = getattr(before.data, name) if before is not None else None, pinned(path)
        setattr(cfg.data, name, pinned(path, had))
        if getattr(cfg.data, name) != newest:
            passed[key] = newest
    return passed


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
