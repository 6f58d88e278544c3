"""From override words to a typed, checked RunConfig; every Hydra error becomes a ConfigError with the allowed names."""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from k15.config.schema import RunConfig
from k15.errors import ConfigError, unknown_name

ConfigStore.instance().store(name="schema", node=RunConfig)


def typed(cfg: DictConfig) -> RunConfig:
    """The dataclass behind a composed config. Raises ConfigError."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def compose_run(overrides: Sequence[str], config_name: str = "rl") -> RunConfig:
    """Compose `conf/<config_name>.yaml` with `overrides`. Raises ConfigError."""
    GlobalHydra.instance().clear()
    with initialize_config_module("k15.conf", version_base="1.3", job_name="k15"):
        try:
            return typed(compose(config_name, overrides=list(overrides)))
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, overrides) from error


def _explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Name the wrong key and the keys that exist beside it."""
    text = str(error)
    unknown = re.search(r"Key '[^']+' (?:is )?not in", f"{text} {error.__cause__}")
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        parent, leaf = _walk(key)
        if parent is not None and leaf is not None and unknown:
            return unknown_name(f"{key}: the key", leaf, [f.name for f in fields(parent)])
    group = re.search(r"Could not find '([^']+)'", text)
    options = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
    if group and options:
        return unknown_name("the config group choice", group.group(1).split("/")[-1], options.group(1).split())
    cause = error.__cause__
    detail = str(cause).splitlines()[0] if cause is not None else ""
    return ConfigError(f"{text.splitlines()[0]} {detail}".strip())


def _walk(key: str) -> tuple[type | None, str | None]:
    """The dataclass in which `key` leaves the schema, and the part that is not in it; (None, None) where it is known."""
    here: type = RunConfig
    for part in key.split("."):
        table = {f.name: f for f in fields(here)}
        if part not in table:
            return here, part
        kind = table[part].type
        if isinstance(kind, type) and is_dataclass(kind):
            here = kind
        else:
            return None, None
    return None, None


def to_yaml(cfg: RunConfig) -> str:
    """The whole config as YAML, for `config.yaml` in the run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def from_yaml(text: str) -> RunConfig:
    """The inverse of `to_yaml`."""
    return typed(OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.create(text)))
