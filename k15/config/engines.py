"""Rules of commands that sample on engines of their own (`k15 rl`, `shortest`, `long_cot`). Torch-free.

Each raises ConfigError with the value, the rule and the remedy. `model`: config.json.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from k15.config.hf import head_dim, is_latent, kv_heads
from k15.config.job import context_has_positions, gpu_is_here, gpus_are_there
from k15.config.schema import ClusterConfig, ModelConfig, RolloutConfig
from k15.errors import ConfigError

_ELSEWHERE: ContextVar[bool] = ContextVar("k15_elsewhere", default=False)


@contextmanager
def elsewhere() -> Iterator[None]:
    """What is checked meanwhile is to run on other machines (`k15 launch`): whether this one has a GPU says nothing."""
    token = _ELSEWHERE.set(True)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


class Sampling(Protocol):
    """What the settings of such a command have."""

    model: ModelConfig
    rollout: RolloutConfig
    cluster: ClusterConfig


def check_engines(cfg: Sampling, model: Mapping[str, object]) -> None:
    """All of them."""
    context_has_positions(cfg.model.max_context_tokens, model)
    _context_holds_response(cfg)
    _latent_attention_runs(cfg, model)
    _kv_cache_holds_context(cfg, model)
    _repetition_is_sane(cfg)
    _tokens_are_left(cfg)
    gpus_are_there(cfg.cluster)
    _engines_have_gpus(cfg)


def _context_holds_response(cfg: Sampling) -> None:
    if cfg.rollout.max_response_tokens >= cfg.model.max_context_tokens:
        raise ConfigError(
            f"rollout.max_response_tokens={cfg.rollout.max_response_tokens} leaves no room for a prompt in "
            f"model.max_context_tokens={cfg.model.max_context_tokens}. Lower the one or raise the other."
        )


def _kv_cache_holds_context(cfg: Sampling, model: Mapping) -> None:
    """CPU engines get a fixed number of bytes; GPU engines take what rollout.gpu_memory_utilization leaves."""
    if not _engines_on_cpu(cfg):
        return
    if is_latent(model):
        numbers = int(model["kv_lora_rank"]) + int(model["qk_rope_head_dim"])  # on every tensor-parallel worker
    else:
        numbers = 2 * (kv_heads(model) // cfg.rollout.tensor_parallel) * head_dim(model)
    bytes_per_token = int(model["num_hidden_layers"]) * numbers * (4 if cfg.model.dtype == "float32" else 2)
    needed = bytes_per_token * cfg.model.max_context_tokens
    if needed > cfg.rollout.kv_cache_bytes:
        raise ConfigError(
            f"rollout.kv_cache_bytes={cfg.rollout.kv_cache_bytes} cannot hold one sequence of model.max_context_tokens="
            f"{cfg.model.max_context_tokens} tokens, which takes {needed} bytes on CPU. Give at least that, and that times the "
            "sequences that should run at once to be quick; or cluster.device=cuda on GPU nodes."
        )


def _engines_on_cpu(cfg: Sampling) -> bool:
    """Known to be: a plain `sbatch --gres=gpu:8` leaves cluster.gpus_per_node null, and the job sees its GPUs."""
    device, gpus = cfg.cluster.device, cfg.cluster.gpus_per_node
    if device != "auto" or gpus is not None:
        return device == "cpu" or (device == "auto" and gpus == 0)
    return not _ELSEWHERE.get() and not gpu_is_here()


def _latent_attention_runs(cfg: Sampling, model: Mapping) -> None:
    """vLLM's CPU kernel for latent attention is compiled for one size only, and finds out at the first request."""
    if not is_latent(model) or not _engines_on_cpu(cfg):
        return
    for key, size in (("kv_lora_rank", 512), ("qk_rope_head_dim", 64)):
        if model.get(key) != size:
            raise ConfigError(
                f"{key} of the model's config.json is {model.get(key)!r}, but vLLM's CPU engines run latent attention with "
                f"{size} only, as in DeepSeek-V3 and Moonlight. Use such a model, or cluster.device=cuda on GPU nodes."
            )
    if cfg.rollout.block_size != 16:
        raise ConfigError(
            f"rollout.block_size={cfg.rollout.block_size}, but vLLM's CPU engines run latent attention with blocks of 16 only. "
            "Give rollout.block_size=16."
        )


def _repetition_is_sane(cfg: Sampling) -> None:
    p = cfg.rollout.repetition
    if p.enabled and not (1 <= p.min_period <= p.max_period and p.min_repeats >= 2):
        raise ConfigError(
            f"rollout.repetition has min_period={p.min_period}, max_period={p.max_period}, min_repeats={p.min_repeats}; "
            "needed: 1 <= min_period <= max_period and min_repeats >= 2."
        )


def _tokens_are_left(cfg: Sampling) -> None:
    if cfg.rollout.top_p == 0:
        raise ConfigError("rollout.top_p is 0, which leaves no token to sample. Give a number above 0, 1 for all tokens.")


def _engines_have_gpus(cfg: Sampling) -> None:
    """An engine has `tensor_parallel` GPUs of its own."""
    gpus, engines, size = cfg.cluster.gpus_per_node, cfg.rollout.engines_per_node, cfg.rollout.tensor_parallel
    if gpus and cfg.cluster.device != "cpu" and engines * size > gpus:
        raise ConfigError(
            f"rollout.engines_per_node={engines} x rollout.tensor_parallel={size} = {engines * size} GPUs is over "
            f"cluster.gpus_per_node={gpus}. Lower the number of engines or their size."
        )


def heads_divide(key: str, size: int, model: Mapping) -> None:
    """Tensor parallelism `size`, the value of the setting `key`, splits the heads evenly."""
    heads, kv = int(model["num_attention_heads"]), kv_heads(model)
    if heads % size or kv % size:
        fits = [t for t in range(1, kv + 1) if heads % t == 0 and kv % t == 0]
        raise ConfigError(
            f"{key}={size} must divide the model's attention heads ({heads}) and key-value heads ({kv}). "
            f"Allowed: {', '.join(map(str, fits))}."
        )
