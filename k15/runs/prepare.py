"""What a run needs before any process starts: the model folder, and the training and held-out prompts, checked."""

from pathlib import Path

from k15.config.check import check
from k15.config.schema import RunConfig
from k15.data.store import check_prompt_lengths, load_datasets
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import ConfigError, DataError
from k15.reward.router import check_domains
from k15.types import Prompt


def model_folder(cfg: RunConfig, run_dir: Path) -> Path:
    """`model.path`, or the tiny model's folder in the run folder (made when it is not there)."""
    if cfg.model.path is not None:
        return Path(cfg.model.path).absolute()
    folder = run_dir / "model"
    if not (folder / "config.json").is_file():
        write_tiny_model(folder, cfg.model.tiny, cfg.model.max_context_tokens, cfg.model.dtype)
    return folder


def load_prompts(cfg: RunConfig, tokenizer: TextTokenizer) -> tuple[list[Prompt], list[Prompt]]:
    """(training prompts, held-out prompts). Raises DataError for empty sets, bad rows, prompts over the context."""
    train, held_out = load_datasets(cfg.data, cfg.seed)
    held_out = held_out[: cfg.eval.size]
    if len(train) < cfg.algo.prompts_per_iteration:
        raise DataError(
            f"there are {len(train)} training prompts, fewer than algo.prompts_per_iteration={cfg.algo.prompts_per_iteration}. "
            "Lower algo.prompts_per_iteration or give more prompts."
        )
    check_domains([*train, *held_out])
    check_prompt_lengths([*train, *held_out], tokenizer, cfg.model.max_context_tokens - cfg.rollout.max_response_tokens)
    return train, held_out


def preflight(cfg: RunConfig, nodes: int) -> dict[str, object]:
    """All checks that need no GPU: settings, layout on `nodes` nodes, and a user's data with the model's tokenizer.

    Returns the model's config.json. Raises ConfigError and DataError.
    """
    model = check(cfg, nodes)
    if cfg.model.path is not None:
        load_prompts(cfg, load_tokenizer(cfg.model.path, chat=cfg.model.chat))
    elif cfg.data.train_size < cfg.algo.prompts_per_iteration:
        raise ConfigError(
            f"data.train_size={cfg.data.train_size} is smaller than algo.prompts_per_iteration="
            f"{cfg.algo.prompts_per_iteration}. Raise the one or lower the other."
        )
    return model
