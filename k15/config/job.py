"""Rules that every job has, whatever its command: time, metadata, metrics, GPUs, the model's positions. Torch-free.

Each raises ConfigError with the value, the rule and the remedy.
"""

import glob
import importlib.util
import os
from collections.abc import Mapping

from k15.config.schema import ClusterConfig, LogConfig
from k15.errors import ConfigError

SLURM_LONGEST_SIGNAL_S = 65535


def signal_comes_before_the_end(cluster: ClusterConfig) -> None:
    """Slurm's signal, seconds before the time limit, leaves some of the time for work."""
    most = min(60 * cluster.time_min - 1, SLURM_LONGEST_SIGNAL_S)
    if cluster.signal_before_s > most:
        raise ConfigError(
            f"cluster.signal_before_s={cluster.signal_before_s} is not within the time limit of cluster.time_min="
            f"{cluster.time_min} minutes: the run would be stopped and requeued as soon as it starts. Give at most {most}."
        )


def members_fit(cluster: ClusterConfig) -> None:
    """Metadata servers against nodes."""
    if cluster.etcd_members not in (1, 3):
        raise ConfigError(f"cluster.etcd_members is {cluster.etcd_members}; allowed: 1, or 3 of which one may be lost.")
    if cluster.etcd_members > cluster.nodes:
        raise ConfigError(
            f"cluster.etcd_members=3 needs three nodes, but cluster.nodes is {cluster.nodes}. Give cluster.etcd_members=1."
        )


def log_is_installed(log: LogConfig) -> None:
    """The packages that metrics are also written with."""
    for key, value, wanted, package, off in (
        ("log.wandb_project", log.wandb_project, log.wandb_project is not None, "wandb", "null"),
        ("log.tensorboard", log.tensorboard, log.tensorboard, "tensorboard", "false"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{key} is {value!r}, but {package} is not installed. Install it (pip install {package}) or set {key}={off}."
            )


def gpu_is_here() -> bool:
    """Does the driver show a device on this machine, and has Slurm not hidden all of them?"""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")
    return bool(glob.glob("/dev/nvidia[0-9]*")) and not hidden


def gpus_are_there(cluster: ClusterConfig) -> None:
    """The number of a node's GPUs against the device that is asked for."""
    gpus = cluster.gpus_per_node
    if gpus is not None and gpus < 0:
        raise ConfigError(f"cluster.gpus_per_node is {gpus}, but it must be at least 0. Give 0 or null for nodes without GPUs.")
    if gpus == 0 and cluster.device == "cuda":
        raise ConfigError(
            "cluster.device is cuda, but cluster.gpus_per_node is 0. Give the GPUs of a node, or cluster.device=cpu."
        )


def ranks_have_gpus(cluster: ClusterConfig, ranks: int) -> None:
    """A GPU for each of a node's trainer ranks."""
    gpus_are_there(cluster)
    gpus = cluster.gpus_per_node
    if gpus and cluster.device != "cpu" and ranks > gpus:
        raise ConfigError(
            f"parallel.ranks_per_node={ranks} is over cluster.gpus_per_node={gpus}: each trainer rank needs a GPU of its own. "
            f"Give at most {gpus}."
        )


def kernels_have_a_gpu(cluster: ClusterConfig, key: str, kernels: str) -> None:
    """Triton needs one. `key`: the setting that names the kernels."""
    where = "cluster.device=cpu" if cluster.device == "cpu" else "cluster.gpus_per_node=0"
    if kernels == "triton" and (cluster.device == "cpu" or cluster.gpus_per_node == 0):
        raise ConfigError(f"{key}=triton needs GPUs, but {where}. Give {key}=auto (Triton on GPUs, PyTorch elsewhere) or torch.")


def context_has_positions(tokens: int, model: Mapping[str, object], setting: str = "model.max_context_tokens") -> None:
    """`model`: config.json. `setting`: that of `tokens`."""
    limit = model.get("max_position_embeddings")
    if isinstance(limit, int) and tokens > limit:
        raise ConfigError(f"{setting}={tokens} is over the model's max_position_embeddings={limit}. Give at most {limit}.")
