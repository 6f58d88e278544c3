"""Rules for what a run asks of others: Slurm's time, a sandbox, a judge. Each raises ConfigError; torch-free."""

import importlib.util
from urllib.parse import urlsplit

from k15.config.schema import RunConfig
from k15.errors import ConfigError

SLURM_LONGEST_SIGNAL_S = 65535


def check_services(cfg: RunConfig) -> None:
    """All of them."""
    _signal_before_end(cfg)
    _sandbox_is_whole(cfg)
    _judge_is_whole(cfg)
    _transport_is_installed(cfg)
    _members_fit(cfg)


def _signal_before_end(cfg: RunConfig) -> None:
    c = cfg.cluster
    most = min(60 * c.time_min - 1, SLURM_LONGEST_SIGNAL_S)
    if c.signal_before_s > most:
        raise ConfigError(
            f"cluster.signal_before_s={c.signal_before_s} is not within the time limit of cluster.time_min={c.time_min} minutes: "
            f"the run would be stopped and requeued as soon as it starts. Give at most {most}."
        )


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


def _members_fit(cfg: RunConfig) -> None:
    c = cfg.cluster
    if c.etcd_members not in (1, 3):
        raise ConfigError(f"cluster.etcd_members is {c.etcd_members}; allowed: 1, or 3 of which one may be lost.")
    if c.etcd_members > c.nodes:
        raise ConfigError(
            f"cluster.etcd_members=3 needs three nodes, but cluster.nodes is {c.nodes}. Give cluster.etcd_members=1."
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
