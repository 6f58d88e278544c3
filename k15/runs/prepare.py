"""What a run needs before any process starts: the model folder, and the training and held-out prompts, checked."""

import json
import math
import tempfile
from pathlib import Path

from k15.config.check import check, idle_devices
from k15.config.schema import RunConfig
from k15.data.arithmetic import check_families, check_mixture
from k15.data.sampler import check_sampler
from k15.data.store import check_prompt_lengths, load_datasets
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import DataError
from k15.log import get_logger
from k15.reward.router import check_domains, check_rewards
from k15.runs.state import has_checkpoint
from k15.train.shape import check_layout, read_shape
from k15.types import Prompt


def model_folder(cfg: RunConfig, run_dir: Path) -> Path:
    """`model.path`, or the tiny model's folder in the run folder: made anew until there is a checkpoint, since the settings may
    change until then."""
    if cfg.model.path is not None:
        return Path(cfg.model.path).absolute()
    folder = run_dir / "model"
    if not (folder / "config.json").is_file() or not has_checkpoint(run_dir):
        write_tiny_model(folder, cfg.model.tiny, cfg.model.max_context_tokens, cfg.model.dtype)
    return folder


def load_prompts(cfg: RunConfig, tokenizer: TextTokenizer) -> tuple[list[Prompt], list[Prompt]]:
    """(training prompts, held-out prompts). Raises DataError for empty sets and bad rows.

    A row that has no reward or leaves no room for a response is bad too: its line is named, or it is skipped.
    """
    room = cfg.model.max_context_tokens - cfg.rollout.max_response_tokens

    def usable(prompt: Prompt) -> None:
        check_domains([prompt])
        check_prompt_lengths([prompt], tokenizer, room)

    train, held_out = load_datasets(cfg.data, cfg.seed, usable)
    if not held_out:
        raise DataError(
            f"{cfg.data.path}: data.eval_fraction={cfg.data.eval_fraction:g} holds out none of its {len(train)} prompts. "
            "Give a larger fraction, or the held-out prompts as data.eval_path=<file.jsonl>."
        )
    held_out = held_out[: cfg.eval.size]
    if len(train) < cfg.algo.prompts_per_iteration:
        size = f"data.train_size={cfg.data.train_size}" if cfg.data.kind == "arithmetic" else str(cfg.data.path)
        raise DataError(
            f"{size}: there are {len(train)} training prompts, fewer than "
            f"algo.prompts_per_iteration={cfg.algo.prompts_per_iteration}. Lower that or give more prompts."
        )
    return train, held_out


def preflight(cfg: RunConfig, nodes: int) -> dict[str, object]:
    """All checks that need no GPU, torch-free: settings, layout on `nodes` nodes, rewards, and the data with the tokenizer.

    Returns the model's config.json. Raises ConfigError and DataError; what is legal but wasteful is logged as a warning.
    """
    check(cfg, nodes)
    check_sampler(cfg.sampler)
    check_families(cfg.data.families)
    check_mixture(cfg.warmup.guess_fraction, cfg.warmup.slip_fraction, cfg.warmup.checked_fraction)
    with tempfile.TemporaryDirectory() as scratch:  # of the tiny model, which the run makes again in its own folder
        folder = model_folder(cfg, Path(scratch))
        model = json.loads((folder / "config.json").read_text())
        check_layout(read_shape(model), cfg.parallel, nodes * cfg.parallel.ranks_per_node)
        check_rewards(cfg.reward)  # last but the data: a custom function is imported, which may take a while
        train, _ = load_prompts(cfg, load_tokenizer(folder, chat=cfg.model.chat))
    for warning in [*idle_devices(cfg), *_few_prompts(cfg, len(train))]:
        get_logger("preflight").warning("%s", warning)
    return model


def _few_prompts(cfg: RunConfig, prompts: int) -> list[str]:
    """A warning where partial rollouts can hold so many prompts that an iteration finds too few free ones."""
    rounds = math.ceil(cfg.rollout.max_response_tokens / cfg.rollout.budget_tokens)
    most = cfg.algo.prompts_per_iteration * rounds
    if rounds == 1 or prompts >= most:
        return []
    return [
        f"{prompts} training prompts, but up to {most} can be in flight: algo.prompts_per_iteration="
        f"{cfg.algo.prompts_per_iteration} x {rounds} iterations a response. Iterations may start fewer; add prompts, lower "
        "algo.prompts_per_iteration or raise rollout.budget_tokens"
    ]
