"""From override words to the typed config of a command; every Hydra error becomes a ConfigError with the allowed names."""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import TypeVar

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from k15.config.schema import RunConfig
from k15.config.words import parses, wrong_type
from k15.errors import ConfigError, unknown_name

Config = TypeVar("Config")

ConfigStore.instance().store(name="schema", node=RunConfig)


def typed(cfg: DictConfig, kind: type[Config] = RunConfig) -> Config:
    """The dataclass `kind` behind a composed config. Raises ConfigError."""
    _refuse_added(cfg, kind, kind)
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _refuse_added(cfg: DictConfig, root: type, kind: type, prefix: str = "") -> None:
    """`+name=1` adds a key that the dataclass would drop silently. Raises ConfigError."""
    table = {f.name: f for f in fields(kind)}
    for key in map(str, cfg):
        if key not in table:
            raise _unknown_key(root, prefix + key, key, list(table))
        if is_dataclass(table[key].type) and isinstance(cfg[key], DictConfig):
            _refuse_added(cfg[key], root, table[key].type, f"{prefix}{key}.")


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The settings of `k15 rl`. Raises ConfigError."""
    return compose_as(RunConfig, "rl", overrides)


def compose_as(kind: type[Config], config_name: str, overrides: Sequence[str]) -> Config:
    """Compose `conf/<config_name>.yaml`, whose schema is the dataclass `kind`, with `overrides`. Raises ConfigError."""
    GlobalHydra.instance().clear()
    with initialize_config_module("k15.conf", version_base="1.3", job_name="k15"):
        try:
            return typed(compose(config_name, overrides=list(overrides)), kind)
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(kind, error, overrides) from error


def settings(words: Sequence[str]) -> list[str]:
    """`words`, if each of them is an override (`name=value`, `+name=value`, `~name`). Raises ConfigError."""
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word!r} is not a setting: settings are written name=value, for example algo.tau=0.1.")
    return list(words)


def listed(kind: type, words: Sequence[str]) -> list[str]:
    """`tasks=a,b` as `tasks=[a,b]` for the settings of the dataclass `kind` that are lists; other words as they are."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        parent, last = kind, key.lstrip("+").split(".")
        for part in last[:-1]:
            parent = {f.name: f.type for f in fields(parent)}.get(part) if is_dataclass(parent) else None
        of_list = is_dataclass(parent) and any(f.name == last[-1] and str(f.type).startswith("list[") for f in fields(parent))
        plain = equals and value and not value.startswith(("[", "'[", '"[', "$")) and value != "null"
        found.append(f"{key}=[{value}]" if of_list and plain else word)
    return found


def _explain(root: type, error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Name the wrong key and the keys that exist beside it."""
    text = str(error)
    unread = next((o for o in overrides if not parses(o)), None)
    if unread is not None:
        key, _, value = unread.partition("=")
        return ConfigError(
            f"{unread!r} cannot be read: Hydra's grammar has a use of its own for a character in {value!r}. Put the text in "
            f"quotes, and those in the shell's: \"{key}='...'\", or \"{key}=['...']\" for a list."
        )
    # The second: the name is a config group, but another command's.
    unknown = re.search(r"(?:Key '([^']+)' (?:is )?not in|Could not override '([^']+)'\. No match)", f"{text} {error.__cause__}")
    said = (unknown[1] or unknown[2]) if unknown else ""
    for key in (word.split("=")[0].lstrip("+~") for word in overrides):
        parent, leaf = _walk(root, key)
        if parent is not None and leaf is not None and leaf == said:  # a config group is no key either, but not what is wrong
            return _unknown_key(root, key, leaf, [f.name for f in fields(parent)])
    swept = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if swept:
        return ConfigError(f"{swept[1]}: a list of values needs --multirun, as in k15 rl --multirun {swept[1]}")
    group = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    options = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
    if group and options:
        return unknown_name(f"{group[1]}={group[2]}: the config group choice", group[2], options.group(1).split())
    cause = error.__cause__
    mistyped = wrong_type(root, f"{text} {cause}", overrides)
    if mistyped is not None:
        return ConfigError(mistyped)
    detail = str(cause).splitlines()[0] if cause is not None else ""
    return ConfigError(f"{text.splitlines()[0]} {detail}".strip())


def _unknown_key(root: type, key: str, leaf: str, siblings: Sequence[str]) -> ConfigError:
    """The nearest setting: one that ends in `key`, one of a near section that has the rest of it, one of the same name elsewhere,
    a near sibling, a near name elsewhere."""
    parts, names = key.split("."), _names(root)
    last, place = parts[-1], parts.index(leaf)
    sections = get_close_matches(leaf, siblings, n=3) if leaf != last else []
    with_rest = [".".join([*parts[:place], section, *parts[place + 1 :]]) for section in sections]
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(name.split(".")[-1], []).append(name)
    near = get_close_matches(last, by_last, n=1)
    hints = (
        [n for n in names if n.endswith(f".{key}")]
        or [n for n in with_rest if n in names]
        or get_close_matches(leaf, siblings, n=1, cutoff=0.85)
        or by_last.get(last, [])
        or get_close_matches(leaf, siblings, n=1)
        or (by_last[near[0]] if near else [])
    )
    hint = f" Did you mean {' or '.join(map(repr, hints))}?" if hints else ""
    return ConfigError(f"{key}: the key is {leaf!r}, which is not known.{hint} Allowed: {', '.join(sorted(siblings))}.")


def _names(kind: type, prefix: str = "") -> list[str]:
    """The dotted names of all settings below a dataclass."""
    found = []
    for f in fields(kind):
        nested = isinstance(f.type, type) and is_dataclass(f.type)
        found += _names(f.type, f"{prefix}{f.name}.") if nested else [prefix + f.name]
    return found


def _walk(root: type, key: str) -> tuple[type | None, str | None]:
    """The dataclass in which `key` leaves the schema, and the part that is not in it; (None, None) where it is known."""
    here = root
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


def to_yaml(cfg: object) -> str:
    """The whole config of a command as YAML, for `config.yaml` in the run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def from_yaml(text: str, kind: type[Config] = RunConfig) -> Config:
    """The inverse of `to_yaml` for a config of `kind`. Raises ConfigError for a text of another command or version."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(text))
    except (OmegaConfBaseException, YAMLError, AssertionError) as error:  # the last: a number alone
        raise ConfigError(
            f"this config.yaml is not one of this command in this version ({kind.__name__}): {' '.join(str(error).split()[:40])}"
        ) from error
    return typed(merged, kind)
