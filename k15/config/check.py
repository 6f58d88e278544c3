"""The rules that join several settings, checked on the login node before anything is allocated. Torch-free.

Each rule raises ConfigError with the value, the rule and the remedy. `check(cfg)` runs them all and returns the model's
config.json (read or made), since many rules need the model's shape.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

from k15.config.hf import FAMILIES, expert_count, head_dim, hf_folder, is_latent, kv_heads
from k15.config.schema import RunConfig
from k15.config.services import check_services
from k15.config.values import POSITIVE_IN_TINY, check_values, get, require
from k15.errors import ConfigError, unknown_name


def check(cfg: RunConfig, nodes: int | None = None, model: dict[str, object] | None = None) -> dict[str, object]:
    """All rules. `nodes`: of the allocation, where there is one, else cluster.nodes. `model`: config.json, where there are no
    weights to go with it (`k15 plan`). Returns the model's config.json."""
    check_values(cfg)
    model = model_config(cfg) if model is None else model
    check_services(cfg)
    for rule in RULES:
        rule(cfg, model)
    _check_layout(cfg, model, cfg.cluster.nodes if nodes is None else nodes)
    return model


CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # of vLLM's CPU attention


def model_config(cfg: RunConfig) -> dict[str, object]:
    """config.json of `model.path`, or of the tiny model. Raises ConfigError."""
    if cfg.model.path is None:
        require(cfg, positive=POSITIVE_IN_TINY)
        t = cfg.model.tiny
        if t.hidden_size % t.num_heads or t.hidden_size // t.num_heads not in CPU_HEAD_SIZES:
            raise ConfigError(
                f"model.tiny.hidden_size={t.hidden_size} over num_heads={t.num_heads} gives a head size of "
                f"{t.hidden_size / t.num_heads:g}, which vLLM's CPU attention "
                f"lacks. Allowed: {', '.join(map(str, CPU_HEAD_SIZES))}."
            )
        return {
            "model_type": "qwen2", "hidden_size": t.hidden_size, "intermediate_size": t.intermediate_size,
            "num_hidden_layers": t.num_layers, "num_attention_heads": t.num_heads, "num_key_value_heads": t.num_kv_heads,
            "max_position_embeddings": cfg.model.max_context_tokens, "tie_word_embeddings": t.tie_embeddings,
        }  # fmt: skip
    if not cfg.model.path:
        raise ConfigError("model.path is empty. Give a Hugging Face folder: model.path=/models/Qwen2.5-0.5B")
    model = hf_folder("model.path", cfg.model.path)
    folder = Path(cfg.model.path)
    if model.get("model_type") not in FAMILIES:
        raise unknown_name(f"model_type in {folder / 'config.json'}", model.get("model_type"), FAMILIES)
    for key in ("num_attention_heads", "num_hidden_layers", "hidden_size"):
        if not isinstance(model.get(key), int) or model[key] < 1:
            raise ConfigError(
                f"{key} in {folder / 'config.json'} is {model.get(key)!r}; a positive whole number is needed there."
            )
    return model


def _baseline_needs_samples(cfg: RunConfig, _: Mapping) -> None:
    k = cfg.algo.samples_per_prompt
    if cfg.algo.baseline == "leave_one_out" and k < 2:
        raise ConfigError(
            f"algo.baseline=leave_one_out compares a sample with the others of its prompt, but algo.samples_per_prompt is {k}. "
            "Give at least 2 samples, or algo.baseline=mean."
        )
    if cfg.algo.loss == "pmd_per_token" and cfg.algo.normalise_log_ratio_by_length:
        raise ConfigError(
            "algo.normalise_log_ratio_by_length=true is for algo.loss=pmd: pmd_per_token has no sequence log-ratio. "
            "Give algo.normalise_log_ratio_by_length=false."
        )
    if cfg.algo.loss.startswith("pmd") and cfg.algo.baseline != "none" and k < 2:
        raise ConfigError(
            f"algo.samples_per_prompt is {k}: the baseline then equals the reward and nothing is learned. Give at least 2."
        )


def _batch_divides(cfg: RunConfig, _: Mapping) -> None:
    prompts, parts = cfg.algo.prompts_per_iteration, cfg.algo.minibatches
    if prompts % parts:
        near = [d for d in range(1, prompts + 1) if prompts % d == 0]
        raise ConfigError(
            f"algo.prompts_per_iteration={prompts} is not divisible by algo.minibatches={parts}. "
            f"Allowed numbers of minibatches: {', '.join(map(str, near))}."
        )


def _context_holds_response(cfg: RunConfig, model: Mapping) -> None:
    r, limit = cfg.rollout, cfg.model.max_context_tokens
    position_limit = model.get("max_position_embeddings")
    if isinstance(position_limit, int) and limit > position_limit:
        raise ConfigError(
            f"model.max_context_tokens={limit} is over the model's max_position_embeddings={position_limit}. "
            f"Give at most {position_limit}."
        )
    if r.max_response_tokens >= limit:
        raise ConfigError(
            f"rollout.max_response_tokens={r.max_response_tokens} leaves no room for a prompt in "
            f"model.max_context_tokens={limit}. Lower the one or raise the other."
        )
    if r.budget_tokens > limit:
        raise ConfigError(
            f"rollout.budget_tokens={r.budget_tokens} is over the context of {limit} tokens (model.max_context_tokens). "
            f"Give at most {r.max_response_tokens} (rollout.max_response_tokens); that many means no partial rollouts."
        )


def _kv_cache_holds_context(cfg: RunConfig, model: Mapping) -> None:
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


def _engines_on_cpu(cfg: RunConfig) -> bool:
    return not (cfg.cluster.device == "cuda" or (cfg.cluster.device == "auto" and cfg.cluster.gpus_per_node))


def _latent_attention_runs(cfg: RunConfig, model: Mapping) -> None:
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


def _repetition_is_sane(cfg: RunConfig, _: Mapping) -> None:
    p = cfg.rollout.repetition
    if p.enabled and not (1 <= p.min_period <= p.max_period and p.min_repeats >= 2):
        raise ConfigError(
            f"rollout.repetition has min_period={p.min_period}, max_period={p.max_period}, min_repeats={p.min_repeats}; "
            "needed: 1 <= min_period <= max_period and min_repeats >= 2."
        )


def _data_exists(cfg: RunConfig, _: Mapping) -> None:
    d = cfg.data
    if d.kind == "jsonl":
        if not d.path:
            raise ConfigError("data.kind=jsonl needs data.path=<file.jsonl> with the fields `prompt` and `answer`.")
        for key, path in (("data.path", d.path), ("data.eval_path", d.eval_path)):
            if path is not None and not Path(path).exists():
                raise ConfigError(
                    f"{key} is {path!r}, which is no file on this machine. Give the path of a JSONL file, or a store of "
                    "`k15 curate`."
                )
        if d.eval_path is None and not 0 < d.eval_fraction < 1:
            raise ConfigError(
                f"data.eval_fraction is {d.eval_fraction:g}, which leaves no {'held-out' if not d.eval_fraction else 'training'} "
                "prompt of data.path. Give a fraction between 0 and 1, or the held-out prompts as data.eval_path=<file.jsonl>."
            )
    elif d.path is not None or d.eval_path is not None:
        raise ConfigError(
            f"data.path={d.path or d.eval_path} is not read by data.kind={d.kind}. Give data=jsonl with it, or leave it out."
        )
    if cfg.model.path is None and d.kind != "arithmetic":
        raise ConfigError(
            f"data.kind={d.kind} needs a model that can read it: the tiny model knows generated arithmetic only. "
            "Give model.path=<Hugging Face folder>."
        )


def _custom_reward_is_named(cfg: RunConfig, _: Mapping) -> None:
    name = cfg.reward.custom
    if name is not None and name.count(":") != 1:
        raise ConfigError(f"reward.custom is {name!r}; the form is package.module:function.")


def _exports_are_made(cfg: RunConfig, _: Mapping) -> None:
    s = cfg.save
    if s.exports != "latest" and not s.export_hf:
        raise ConfigError(f"save.exports={s.exports} keeps exports, but save.export_hf is false. Give save.export_hf=true.")
    if s.exports == "best" and cfg.eval.every % s.every:
        raise ConfigError(
            f"save.exports=best chooses among evaluated exports, but with eval.every={cfg.eval.every} and save.every={s.every} "
            f"some evaluated weights are not saved. Give save.every={cfg.eval.every}, or another divisor of eval.every."
        )


def _log_is_installed(cfg: RunConfig, _: Mapping) -> None:
    for key, wanted, package, off in (
        ("log.wandb_project", cfg.log.wandb_project is not None, "wandb", "null"),
        ("log.tensorboard", cfg.log.tensorboard, "tensorboard", "false"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{key} is {get(cfg, key)!r}, but {package} is not installed. "
                f"Install it (pip install {package}) or set {key}={off}."
            )


def _devices_suffice(cfg: RunConfig, _: Mapping) -> None:
    """Trainer ranks have a GPU each, engines `tensor_parallel` each; the two take turns on them."""
    gpus = cfg.cluster.gpus_per_node
    if gpus is not None and gpus < 0:
        raise ConfigError(f"cluster.gpus_per_node is {gpus}, but it must be at least 0. Give 0 or null for nodes without GPUs.")
    if gpus == 0 and cfg.cluster.device == "cuda":
        raise ConfigError(
            "cluster.device is cuda, but cluster.gpus_per_node is 0. Give the GPUs of a node, or cluster.device=cpu."
        )
    if not gpus or cfg.cluster.device == "cpu":
        return
    ranks, engines, size = cfg.parallel.ranks_per_node, cfg.rollout.engines_per_node, cfg.rollout.tensor_parallel
    if ranks > gpus:
        raise ConfigError(
            f"parallel.ranks_per_node={ranks} is over cluster.gpus_per_node={gpus}: each trainer rank needs a GPU of its own. "
            f"Give at most {gpus}."
        )
    if engines * size > gpus:
        raise ConfigError(
            f"rollout.engines_per_node={engines} x rollout.tensor_parallel={size} = {engines * size} GPUs is over "
            f"cluster.gpus_per_node={gpus}. Lower the number of engines or their size."
        )


def _kernels_have_a_gpu(cfg: RunConfig, _: Mapping) -> None:
    where = "cluster.device=cpu" if cfg.cluster.device == "cpu" else "cluster.gpus_per_node=0"
    if cfg.algo.kernels == "triton" and (cfg.cluster.device == "cpu" or cfg.cluster.gpus_per_node == 0):
        raise ConfigError(
            f"algo.kernels=triton needs GPUs, but {where}. Give algo.kernels=auto (Triton on GPUs, PyTorch elsewhere) or torch."
        )


def idle_devices(cfg: RunConfig) -> list[str]:
    """A warning for each phase in which GPUs of a node have nothing to do."""
    gpus = cfg.cluster.gpus_per_node
    if not gpus or cfg.cluster.device == "cpu":
        return []
    found = []
    for phase, used, remedy in (
        ("training", cfg.parallel.ranks_per_node, "parallel.ranks_per_node"),
        ("rollout", cfg.rollout.engines_per_node * cfg.rollout.tensor_parallel, "rollout.engines_per_node"),
    ):
        if used < gpus:
            names = f"GPU {used}" if used == gpus - 1 else f"GPUs {used} to {gpus - 1}"
            found.append(f"{names} of each node will be idle in {phase} (it uses {used} of {gpus}); raise {remedy}")
    return found


RULES: tuple[Callable[[RunConfig, Mapping], None], ...] = (
    _baseline_needs_samples, _batch_divides, _context_holds_response, _latent_attention_runs, _kv_cache_holds_context,
    _repetition_is_sane, _data_exists, _custom_reward_is_named, _exports_are_made, _log_is_installed, _devices_suffice,
    _kernels_have_a_gpu,
)  # fmt: skip


def _check_layout(cfg: RunConfig, model: Mapping, nodes: int) -> None:
    """Parallel sizes against the model's shape and the number of ranks."""
    p = cfg.parallel
    heads, kv = int(model["num_attention_heads"]), int(model.get("num_key_value_heads") or model["num_attention_heads"])
    for key, size in (("parallel.tensor", p.tensor), ("rollout.tensor_parallel", cfg.rollout.tensor_parallel)):
        if heads % size or kv % size:
            fits = [t for t in range(1, kv + 1) if heads % t == 0 and kv % t == 0]
            raise ConfigError(
                f"{key}={size} must divide the model's attention heads ({heads}) and key-value heads ({kv}). "
                f"Allowed: {', '.join(map(str, fits))}."
            )
    if p.context > 1 and kv % (p.tensor * p.context):
        fits = [c for c in range(1, kv + 1) if kv % (p.tensor * c) == 0]
        raise ConfigError(
            f"parallel.context={p.context}: tensor x context = {p.tensor} x {p.context} must divide the model's key-value heads "
            f"({kv}), because attention splits heads over context ranks. Allowed: {', '.join(map(str, fits))}."
        )
    layers = int(model["num_hidden_layers"])
    if layers % p.pipeline:
        fits = [s for s in range(1, layers + 1) if layers % s == 0]
        raise ConfigError(
            f"parallel.pipeline={p.pipeline} must divide the model's {layers} layers. Allowed: {', '.join(map(str, fits))}."
        )
    ranks = nodes * p.ranks_per_node
    model_ranks = p.tensor * p.pipeline * p.context
    if ranks % model_ranks:
        raise ConfigError(
            f"{nodes} nodes x parallel.ranks_per_node={p.ranks_per_node} = {ranks} ranks, not divisible by tensor x pipeline x "
            f"context = {p.tensor} x {p.pipeline} x {p.context} = {model_ranks}. Change ranks_per_node, nodes or the layout."
        )
    experts = expert_count(model)
    if p.expert > 1:
        if not experts:
            raise ConfigError(f"parallel.expert={p.expert}, but the model has no experts. Give parallel.expert=1.")
        if experts % p.expert:
            raise ConfigError(f"parallel.expert={p.expert} must divide the model's {experts} experts.")
        if (ranks // p.pipeline) % p.expert:
            raise ConfigError(
                f"parallel.expert={p.expert} must divide tensor x context x data parallel ranks = {ranks // p.pipeline}."
            )
    if p.tensor > 1 and experts and not p.sequence_parallel:
        raise ConfigError("a mixture of experts with parallel.tensor > 1 needs parallel.sequence_parallel=true.")
