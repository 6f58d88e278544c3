"""Rules for what a run asks of others: Slurm's time, a sandbox, a judge. Each raises ConfigError; torch-free."""

import importlib.util
from urllib.parse import urlsplit

from k15.config.job import members_fit, signal_comes_before_the_end
from k15.config.schema import RunConfig
from k15.errors import ConfigError


def check_services(cfg: RunConfig) -> None:
    """All of them."""
    signal_comes_before_the_end(cfg.cluster)
    _sandbox_is_whole(cfg)
    _judge_is_whole(cfg)
    _transport_is_installed(cfg)
    members_fit(cfg.cluster)
    _rollout_nodes_fit(cfg)


def _sandbox_is_whole(cfg: RunConfig) -> None:
    s = cfg.sandbox
    if s.url is None and s.token_file is not None:
        raise ConfigError("sandbox.token_file is given without sandbox.url: it is the token of a service that runs already.")
    if s.url is not None:
        check_url("sandbox.url", s.url)
        if s.token_file is None:
            raise ConfigError(f"sandbox.url={s.url} needs sandbox.token_file=<file>, the token its service was started with.")


def _transport_is_installed(cfg: RunConfig) -> None:
    if cfg.weights.transport == "mooncake" and importlib.util.find_spec("mooncake") is None:
        raise ConfigError(
            "weights.transport=mooncake needs the package mooncake-transfer-engine (without CUDA: "
            "mooncake-transfer-engine-non-cuda), which is not installed. Install it, or give weights.transport=http."
        )
    if cfg.weights.transport == "mpi" and importlib.util.find_spec("mpi4py") is None:
        raise ConfigError(
            "weights.transport=mpi needs the package mpi4py and an MPI library (pip: mpich), which are not installed. "
            "Install them, or give weights.transport=http."
        )


def _rollout_nodes_fit(cfg: RunConfig) -> None:
    """Nodes for rollout only run the same engines as the others."""
    c, r = cfg.cluster, cfg.rollout
    if c.rollout_nodes < 0:
        raise ConfigError(f"cluster.rollout_nodes is {c.rollout_nodes}, but it must be at least 0. Give 0 for none.")
    given = [name for name in ("rollout_partition", "rollout_gpus_per_node") if getattr(c, name) is not None]
    if given and not c.rollout_nodes:
        raise ConfigError(
            f"cluster.{given[0]} is given without cluster.rollout_nodes=<their number>. Give that, or leave it out."
        )
    if c.rollout_nodes and cfg.weights.transport == "mpi":
        raise ConfigError(
            f"cluster.rollout_nodes={c.rollout_nodes} with weights.transport=mpi: the nodes that train are one MPI world, which "
            "no other can join. Give weights.transport=auto, http or mooncake."
        )
    gpus = c.rollout_gpus_per_node
    if gpus is None or c.device == "cpu":
        return
    needed = r.engines_per_node * r.tensor_parallel if c.device == "cuda" or c.gpus_per_node else 0
    if gpus < needed:
        raise ConfigError(
            f"cluster.rollout_gpus_per_node={gpus}, but rollout.engines_per_node={r.engines_per_node} x rollout.tensor_parallel="
            f"{r.tensor_parallel} need {needed} GPUs on every node. Give at least that, or fewer or smaller engines."
        )
    if gpus and not needed:
        raise ConfigError(
            f"cluster.rollout_gpus_per_node={gpus}, but the nodes that train have no GPU (cluster.gpus_per_node); engines are "
            "alike on all nodes. Give cluster.gpus_per_node, or leave it out."
        )


def _judge_is_whole(cfg: RunConfig) -> None:
    j = cfg.reward.judge
    if j.rejected and cfg.reward.classic.path is not None:
        raise ConfigError(
            "reward.judge.rejected and reward.classic.path are both set, but one of them must decide what the rule refused. "
            "Leave one out."
        )
    if j.url is None:
        asked = [f"reward.judge.{name}" for name in ("rejected", "audit", "model", "key_env") if getattr(j, name)]
        if asked:
            raise ConfigError(f"{asked[0]} is set, but there is no judge: give reward.judge.url=engines or an https://host/v1.")
        return
    if j.url == "engines" and j.model:
        raise ConfigError(
            f"reward.judge.model={j.model} is a name at an endpoint, but reward.judge.url=engines asks the run's own policy. "
            "Leave one out."
        )
    if j.url != "engines":
        check_url("reward.judge.url", j.url)
        if not j.model:
            raise ConfigError(f"reward.judge.url={j.url} needs reward.judge.model=<its name at that endpoint>.")
    for name, least in (("timeout_s", 0.001), ("max_tokens", 1), ("sampling_temperature", 0.0)):
        if not getattr(j, name) >= least:
            raise ConfigError(f"reward.judge.{name} is {getattr(j, name)}; it must be at least {least}.")


def check_url(key: str, url: str) -> None:
    """Raises ConfigError where `url` is not one of http or https."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{key} is {url!r}; it must look like http://host:port or https://host/path.")
