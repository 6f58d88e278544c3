"""The rules that join several settings, checked on the login node before anything is allocated. Torch-free.

Each rule raises ConfigError with the value, the rule and the remedy. `check(cfg)` runs them all and returns the model's
config.json (read or made), since many rules need the model's shape.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from k15.config.engines import check_engines, heads_divide
from k15.config.hf import FAMILIES, expert_count, hf_folder, kv_heads
from k15.config.job import kernels_have_a_gpu, log_is_installed, ranks_have_gpus
from k15.config.schema import DataConfig, RunConfig
from k15.config.services import check_services
from k15.config.values import POSITIVE_IN_TINY, check_values, require
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


def _engines_suffice(cfg: RunConfig, model: Mapping) -> None:
    check_engines(cfg, model)
    r, limit = cfg.rollout, cfg.model.max_context_tokens
    if r.budget_tokens > limit:
        raise ConfigError(
            f"rollout.budget_tokens={r.budget_tokens} is over the context of {limit} tokens (model.max_context_tokens). "
            f"Give at most {r.max_response_tokens} (rollout.max_response_tokens); that many means no partial rollouts."
        )


def _silence_is_noticed(cfg: RunConfig, _: Mapping) -> None:
    r = cfg.rollout
    if r.silence_timeout_s >= r.request_timeout_s:
        raise ConfigError(
            f"rollout.silence_timeout_s={r.silence_timeout_s:g} must be below rollout.request_timeout_s={r.request_timeout_s:g}, "
            "or requests are given up before a frozen engine is noticed. Give a smaller rollout.silence_timeout_s, or a larger "
            "rollout.request_timeout_s."
        )


def data_is_read(d: DataConfig) -> None:
    """Files are named where data.kind reads them, and are there; elsewhere none is named."""
    if d.kind == "jsonl":
        if not d.path:
            raise ConfigError("data.kind=jsonl needs data.path=<file.jsonl> with the fields `prompt` and `answer`.")
        for key, path in (("data.path", d.path), ("data.eval_path", d.eval_path)):
            if path is not None and not Path(path).exists():
                raise ConfigError(
                    f"{key} is {path!r}, which is no file on this machine. Give the path of a JSONL file, or a store of "
                    "`k15 curate`."
                )
    elif d.path is not None or d.eval_path is not None:
        raise ConfigError(
            f"data.path={d.path or d.eval_path} is not read by data.kind={d.kind}. Give data=jsonl with it, or leave it out."
        )


def _data_exists(cfg: RunConfig, _: Mapping) -> None:
    d = cfg.data
    data_is_read(d)
    if d.kind == "jsonl" and d.eval_path is None and not 0 < d.eval_fraction < 1:
        raise ConfigError(
            f"data.eval_fraction is {d.eval_fraction:g}, which leaves no {'held-out' if not d.eval_fraction else 'training'} "
            "prompt of data.path. Give a fraction between 0 and 1, or the held-out prompts as data.eval_path=<file.jsonl>."
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


def _job_is_whole(cfg: RunConfig, _: Mapping) -> None:
    log_is_installed(cfg.log)
    ranks_have_gpus(cfg.cluster, cfg.parallel.ranks_per_node)
    kernels_have_a_gpu(cfg.cluster, "algo.kernels", cfg.algo.kernels)


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
    _baseline_needs_samples, _batch_divides, _engines_suffice, _silence_is_noticed, _data_exists, _custom_reward_is_named,
    _exports_are_made, _job_is_whole,
)  # fmt: skip


def _check_layout(cfg: RunConfig, model: Mapping, nodes: int) -> None:
    """Parallel sizes against the model's shape and the number of ranks."""
    p = cfg.parallel
    kv = kv_heads(model)
    heads_divide("parallel.tensor", p.tensor, model)
    heads_divide("rollout.tensor_parallel", cfg.rollout.tensor_parallel, model)
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
