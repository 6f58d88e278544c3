"""What `k15 sft` and `k15 dpo` do before and around their controller. Torch-free."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from k15.config.dpo import DpoConfig
from k15.config.sft import SftConfig
from k15.data.examples import pieces, read_examples, read_pairs
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.log import read_metrics
from k15.node.rendezvous import JobIdentity
from k15.runs.job import Job, check_folder, run_folder
from k15.runs.prepare import model_folder
from k15.runs.state import Checkpoints, FitState
from k15.train.shape import check_layout, read_shape
from k15.types import Sample

CHECKED_ROWS = 200  # of each file, before anything is started

Read = Callable[[Any, str, TextTokenizer, int], Iterable[object]]


def preflight_fit(cfg: SftConfig | DpoConfig, nodes: int, check: Callable[[Any], dict], read: Read) -> dict[str, object]:
    """Settings, layout on `nodes` nodes, and the first rows of each file with the tokenizer. Returns the model's config.json.

    Raises ConfigError and DataError.
    """
    model = check(cfg)
    with tempfile.TemporaryDirectory() as scratch:  # of the tiny model, which the run makes again in its own folder
        folder = model_folder(cfg, Path(scratch))
        model = json.loads((folder / "config.json").read_text())
        check_layout(read_shape(model), cfg.parallel, nodes * cfg.parallel.ranks_per_node)
        tokenizer = load_tokenizer(folder, chat=cfg.model.chat)
        for path in [*cfg.data.paths, *cfg.data.eval_paths]:
            for _ in read(cfg, path, tokenizer, CHECKED_ROWS):
                pass
    return model


def run_fit(job: Job, cfg: SftConfig | DpoConfig) -> int:
    """This node's part; 0 at once where the run folder holds the finished run. Raises ConfigError where it holds another."""
    identity = JobIdentity.from_environment()
    run_dir = run_folder(cfg.name, cfg.run_dir, identity)
    if identity.restart == 0:  # a requeued job goes on as it began
        check_folder(cfg, run_dir, job.may_change)
    if not cfg.dry_run and finished(run_dir, cfg):
        print(f"{run_dir} is finished; its model is {run_dir / 'hf'}. Give another run_dir to train again.")
        return 0
    return job.run(cfg)


def finished(run_dir: Path, cfg: SftConfig | DpoConfig) -> bool:
    """Are all steps of the run done, and is the export there, which follows the last evaluation?"""
    if not (run_dir / "checkpoints").is_dir():
        return False
    complete = Checkpoints(run_dir, cfg.save.keep, FitState).complete()
    if not complete:
        return False
    state = json.loads((complete[-1] / "controller.json").read_text())
    if state.get("iteration") != state.get("iterations"):
        return False
    if cfg.save.export_hf:
        return (run_dir / "hf" / "config.json").is_file()
    return not lacks_evaluation(run_dir, state["iteration"])


def lacks_evaluation(run_dir: Path, step: int) -> bool:
    """Does metrics.jsonl have no validation loss of `step`, though it has one of the start? A stop came before it."""
    path = run_dir / "metrics.jsonl"
    evaluated = {r["iteration"] for r in read_metrics(path) if "eval_loss" in r} if path.is_file() else set()
    return 0 in evaluated and step not in evaluated


def sft_rows(cfg: SftConfig, path: str, tokenizer: TextTokenizer, limit: int | None = None) -> Iterator[Sample]:
    """The samples of one file."""
    found = read_examples(path, tokenizer, turns=cfg.data.turns, on_bad_row=cfg.data.on_bad_row, limit=limit)
    longest = max(stage.context_tokens for stage in cfg.named_stages().values() if stage.epochs)
    return pieces(found, min(longest, cfg.model.max_context_tokens)) if cfg.data.on_long == "split" else found


def dpo_rows(cfg: DpoConfig, path: str, tokenizer: TextTokenizer, limit: int | None = None) -> Iterator[tuple[Sample, Sample]]:
    """The pairs of one file."""
    return read_pairs(path, tokenizer, on_bad_row=cfg.data.on_bad_row, limit=limit)
