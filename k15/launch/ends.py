"""By what is in a run folder: is its run finished? Each command has files that it writes last."""

import json
from pathlib import Path

import yaml

from k15.log.sweep import is_finished

WRITTEN_LAST = ("results.json", "spot_check.json")  # of k15 eval and of k15 reward_model


def steps_of(folder: Path) -> tuple[int | None, int | None]:
    """(done, of how many) optimizer steps, by the newest checkpoint of `k15 sft` or `k15 dpo`; (None, None) where there is none,
    or none of these commands'."""
    complete = sorted((folder / "checkpoints").glob("*-iteration-*/controller.json"))
    try:
        state = json.loads(complete[-1].read_text()) if complete else {}
    except (OSError, ValueError):  # pruned just now, or damaged: another start says so
        return None, None
    return (state["iteration"], state["iterations"]) if "iterations" in state else (None, None)


def is_ended(folder: Path) -> bool:
    """Has the run of any command but `k15 rl` (whose iterations are counted) come to its end?"""
    if is_finished(folder) or any((folder / name).is_file() for name in WRITTEN_LAST):
        return True
    config, summary = folder / "config.yaml", folder / "summary.json"
    if not config.is_file():
        return False
    if summary.is_file():  # of shortest and long_cot, which write config.yaml first, and anew when more is asked for
        return summary.stat().st_mtime_ns >= config.stat().st_mtime_ns
    done, steps = steps_of(folder)
    return steps is not None and done == steps and (not _exports(config) or (folder / "hf" / "config.json").is_file())


def _exports(config: Path) -> bool:
    """save.export_hf; true where that cannot be read, as is its default."""
    try:
        return bool(yaml.safe_load(config.read_text())["save"]["export_hf"])
    except (yaml.YAMLError, KeyError, TypeError):
        return True
