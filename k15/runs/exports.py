"""Exports of `k15 rl` that are kept beside the latest one (`save.exports`), and the base that long2short takes (report 2.4).

hf/                       the latest export, replaced at each save
exports/iteration-00020/  hard links to an earlier one, which cost nothing while hf/ is the same
best                      a link to the one that `k15.eval.efficiency` chooses (save.exports=best)
"""

import os
import shutil
from pathlib import Path

from k15.eval.efficiency import KIND, best, evaluated, export_folder, open_choices
from k15.log import get_logger

log = get_logger("exports")


def keep_export(run_dir: Path, iteration: int, exports: str) -> None:
    """Keep hf/, which is `iteration`'s, as `exports` says: latest (nothing), all, or best, which then removes what can no longer
    be chosen and sets the link `best`. An iteration without evaluation is not kept for the choice."""
    if exports == "latest":
        return
    linked(run_dir / "hf", export_folder(run_dir, iteration))
    if exports == "all":
        return
    there = [p for p in evaluated(run_dir, KIND) if export_folder(run_dir, p.iteration).is_dir()]
    choices = open_choices(there) if there else set()  # what was not kept can be chosen no more, and must displace nothing
    for folder in sorted((run_dir / "exports").glob("iteration-*")):
        if int(folder.name.removeprefix("iteration-")) not in choices:
            shutil.rmtree(folder)
    if there:
        chosen = best(there)
        new = run_dir / ".best.new"
        new.unlink(missing_ok=True)
        new.symlink_to(export_folder(run_dir, chosen.iteration).relative_to(run_dir))
        new.replace(run_dir / "best")
        log.info(
            "best is iteration %d: %.1f %% with %.1f tokens", chosen.iteration, 100 * chosen.accuracy.estimate, chosen.tokens
        )


def linked(source: Path, target: Path) -> None:
    """Hard links of `source` as the folder `target`, which is whole or not there; an earlier one is replaced."""
    new = target.with_name(f".{target.name}.new")  # the same each time, so that none is left for ever after a kill
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source, new, copy_function=link)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)


def link(source: str, target: str) -> None:
    """A hard link, which costs nothing; a copy where the folders are on two file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
