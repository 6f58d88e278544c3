"""`k15 eval watch=RUN_DIR`: evaluate each export of a run once, as it appears, and keep a table by iteration.

Those that the run keeps (`exports/`, save.exports) come first, from the earliest on, then the latest (`hf/`).
Each export is held by hard links while it is evaluated: the run replaces its folder whole, so the files stay as they were.

<run_dir>/iteration-12/   one evaluation, with its results
<run_dir>/by_iteration.md, by_iteration.jsonl
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from k15.config.compose import from_yaml, to_yaml
from k15.config.eval import EvaluationConfig
from k15.config.hf import exported_iteration, weight_files
from k15.errors import ConfigError, DataError
from k15.eval.results import BY_PROBLEM, COLUMNS, Result, read_results, row, table
from k15.log import get_logger, read_metrics
from k15.log.columns import markdown
from k15.log.files import atomic_write
from k15.runs.eval_plan import Plan, plans
from k15.runs.exports import link
from k15.runs.job import differing

MAY_CHANGE = (
    "name", "run_dir", "dry_run", "workers", "watch_idle_min", "watch_every_s", "engine", "lm_eval.python", "sandbox", "cluster",
)  # fmt: skip
"""How and where a watcher works, which no number depends on."""
log = get_logger("eval")
Evaluate = Callable[[EvaluationConfig, Path, Sequence[Plan]], list[Result]]


def check_watched(watched: Path) -> None:
    """Raises ConfigError where the folder is missing, or holds another kind of run, whose end would never be seen."""
    if not watched.is_dir():
        raise ConfigError(f"watch={watched} is no folder; give the run_dir of a run, which may be going on.")
    if (watched / "config.yaml").is_file() and planned(watched) is None:
        raise ConfigError(
            f"watch={watched} is no run of k15 rl, and only those export as they go; k15 sft and k15 dpo export once, at their "
            f"end: then give model.path={watched / 'hf'}."
        )


def check_continued(cfg: EvaluationConfig, run_dir: Path) -> None:
    """Raises ConfigError where `run_dir` has evaluations with other settings: they would stand in one table with the new ones,
    and exports that have theirs would not be evaluated again."""
    path = run_dir / "config.yaml"
    if not path.is_file() or next(run_dir.glob("iteration-*/results.json"), None) is None:
        return
    before = from_yaml(path.read_text(), EvaluationConfig)
    changed = [k for k in differing(before, cfg) if not any(k == m or k.startswith(m + ".") for m in MAY_CHANGE)]
    if before.watch is not None and cfg.watch is not None and Path(before.watch).absolute() == Path(cfg.watch).absolute():
        changed = [k for k in changed if k != "watch"]
    if changed:
        raise ConfigError(
            f"run_dir={run_dir} has evaluations with other settings ({', '.join(changed[:5])}). Give another run_dir, or the "
            "same settings to go on."
        )


def watch(cfg: EvaluationConfig, run_dir: Path, evaluate: Evaluate) -> int:
    """Until the run is done and its last export evaluated, or nothing new came for cfg.watch_idle_min; the exit code.

    Raises DataError where the last export does not say which iteration it holds.
    """
    assert cfg.watch is not None
    watched, found = Path(cfg.watch), plans(cfg)
    if not keeps_all(watched):
        log.info("an export that the run replaces before its turn is not evaluated; only save.exports=all keeps every one")
    if unnamed(watched):
        log.warning(
            "%s/hf does not say which iteration it holds: an older k15 wrote it. It is passed over; the run's next one is not",
            watched,
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    atomic_write(run_dir / "config.yaml", to_yaml(cfg).encode())
    if any(has_results(run_dir, i) for i in by_iteration(run_dir)):
        append(run_dir)  # where the table was damaged meanwhile
    idle_since = time.monotonic()
    while True:
        ended = finished(watched)  # before looking: an export that follows is then found in this turn or the next
        held = hold(watched, run_dir)
        if held is not None:
            iteration, model = held
            log.info("iteration %d of %s is evaluated", iteration, watched)
            own = replace(cfg, run_dir=str(model.parent), model=replace(cfg.model, path=str(model)))
            evaluate(own, model.parent, found)
            shutil.rmtree(model)
            print(append(run_dir))
            idle_since = time.monotonic()
        elif ended:
            if unnamed(watched) and not has_results(run_dir, _metrics(watched)[-1]["iteration"]):
                raise DataError(
                    f"{watched}/hf does not say which iteration it holds: an older k15 wrote it. Evaluate it by itself, with "
                    f"model.path={watched}/hf and another run_dir."
                )
            log.info("%s is finished and its last export evaluated", watched)
            return 0
        elif time.monotonic() - idle_since > 60 * cfg.watch_idle_min:
            log.warning(
                "%s had nothing new for %g minutes; the same words with run_dir=%s go on watching", watched, cfg.watch_idle_min,
                run_dir,
            )  # fmt: skip
            return 0
        else:
            time.sleep(cfg.watch_every_s)


def hold(watched: Path, run_dir: Path) -> tuple[int, Path] | None:
    """(iteration, folder of hard links) of an export that has no results here yet; None while there is none.

    One that an earlier watcher held and did not finish comes first, whatever the run has written since; then the earliest of
    exports/, then hf/. Raises DataError for one that is not whole.
    """
    for iteration, folder in sorted(by_iteration(run_dir).items()):
        model = folder / "model"
        if not model.is_dir():
            continue
        if not has_results(run_dir, iteration) and _is_whole(model):
            return iteration, model
        shutil.rmtree(model)  # done, or of no use: what the run has of it is looked at again
    partial = run_dir / ".held"  # one place, so that links to old weights cannot be left behind in several
    try:
        for _ in range(10):  # the run may put a new folder in its place, or take one away, while we look
            shutil.rmtree(partial, ignore_errors=True)
            broken = None
            try:
                found = _next_export(watched, run_dir)
                if found is None:
                    return None
                iteration, export, before = found
                shutil.copytree(export, partial, copy_function=link)
                after = export.stat()  # an inode's number is given away again, the time of its last change is not
                if (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns):
                    if not _is_whole(partial):
                        broken = export  # or it comes or goes just now
                    else:
                        folder = run_dir / f"iteration-{iteration}"
                        folder.mkdir(parents=True, exist_ok=True)
                        return iteration, partial.rename(folder / "model")  # whole, or not there
            except (FileNotFoundError, shutil.Error):
                if not watched.is_dir():
                    raise DataError(f"{watched} is gone.") from None
            time.sleep(0.2)
        if broken is not None:
            raise DataError(f"{broken} is no whole export: it lacks config.json or weights. Remove it, or copy it there again.")
        return None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_whole(export: Path) -> bool:
    try:
        return bool(weight_files(export)) and (export / "config.json").is_file()
    except DataError:
        return False


def _next_export(watched: Path, run_dir: Path) -> tuple[int, Path, os.stat_result] | None:
    """(iteration, its export, what the folder was then) of the earliest kept one that has no results here, else of hf/; None
    where all have, or hf/ does not say which iteration it holds. Raises FileNotFoundError where there is no hf/."""
    for iteration, export in sorted(by_iteration(watched / "exports").items()):
        if not has_results(run_dir, iteration):
            return iteration, export, export.stat()
    export = watched / "hf"
    now = export.stat()  # before its record is read: a folder that came in between is seen as a change
    iteration = exported_iteration(export)
    return None if iteration is None or has_results(run_dir, iteration) else (iteration, export, now)


def by_iteration(folder: Path) -> dict[int, Path]:
    """The folders iteration-N below one, by N; what has no number after its name is someone else's."""
    found = ((p, p.name.removeprefix("iteration-")) for p in folder.glob("iteration-*"))
    return {int(number): p for p, number in found if number.isascii() and number.isdigit() and p.is_dir()}


def has_results(run_dir: Path, iteration: int) -> bool:
    """Has this iteration been evaluated here?"""
    return (run_dir / f"iteration-{iteration}" / "results.json").is_file()


def unnamed(watched: Path) -> bool:
    """Is there an hf/ that does not say which iteration it holds?"""
    return (watched / "hf").is_dir() and exported_iteration(watched / "hf") is None


def finished(watched: Path) -> bool:
    """Whether a run has done all its iterations and written its last export: nothing more will come."""
    rows, iterations = _metrics(watched), planned(watched)
    if not rows or not (watched / "report" / "index.html").is_file():
        return False
    return iterations is not None and rows[-1]["iteration"] >= iterations


def planned(watched: Path) -> int | None:
    """How many iterations a run of k15 rl is to do; None where config.yaml is not there or another command's."""
    config = watched / "config.yaml"
    found = re.search(r"^  iterations: (\d+)$", config.read_text(), re.MULTILINE) if config.is_file() else None
    return None if found is None else int(found[1])


def keeps_all(watched: Path) -> bool:
    """Does the run, as far as config.yaml is there to say so, keep every export? Raises DataError."""
    config = watched / "config.yaml"
    try:
        found = yaml.safe_load(config.read_text()) if config.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{config} is not YAML: {error}") from error
    save = found.get("save") if isinstance(found, dict) else None
    return isinstance(save, dict) and save.get("exports") == "all"


def _metrics(watched: Path) -> list[dict]:
    path = watched / "metrics.jsonl"
    return [r for r in read_metrics(path) if "iteration" in r] if path.is_file() else []


def append(run_dir: Path) -> str:
    """Write by_iteration.{md,jsonl} from all evaluations so far; returns the table."""
    folders = [(i, p) for i, p in sorted(by_iteration(run_dir).items()) if has_results(run_dir, i)]
    found = [(i, r) for i, p in folders for r in read_results(p)["results"]]
    page = markdown([["iteration", *COLUMNS], *([str(i), *row(r)] for i, r in found)])
    atomic_write(run_dir / "by_iteration.md", f"# By iteration\n\n{page}\n".encode())
    rows = [{"iteration": i, **{k: v for k, v in r.items() if k not in BY_PROBLEM}} for i, r in found]
    atomic_write(run_dir / "by_iteration.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    return table([{**r, "task": f"iteration {i}: {r['task']}"} for i, r in found])
