"""Every setting of `k15 eval`, typed; `conf/eval.yaml` holds the values. Torch-free."""

import math
from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from k15.config.schema import ClusterConfig, SandboxConfig
from k15.config.services import check_url
from k15.config.values import CHOICES, check_shared
from k15.errors import ConfigError, unknown_name

APIS = ("chat", "completions")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class EvalModelConfig:
    """`path`: a Hugging Face folder. Needed for k15's own engines; with engine.url only for lm-eval's tokenizer."""

    path: str | None = None
    dtype: str = "auto"  # auto: float32 on a CPU, else that of config.json
    max_context_tokens: int | None = None  # null: max_position_embeddings of config.json
    chat: bool | None = None  # apply the chat template; null: where the folder has one


@dataclass
class SamplingConfig:
    """null: as the task says."""

    temperature: float | None = None
    top_p: float = 1.0
    samples: int | None = None  # answers a problem
    max_tokens: int | None = None  # null: what fits into the context after the longest prompt


@dataclass
class EngineConfig:
    """k15's own vLLM servers on this node, or `url`, a running OpenAI-compatible endpoint (https://host/v1)."""

    url: str | None = None
    model: str = ""  # its name at `url`
    key_env: str | None = None  # environment variable that holds the key of `url`
    api: str = "chat"  # of `url`: chat | completions
    count: int = 1  # own servers
    tensor_parallel: int = 1
    concurrency: int = 64  # requests at once, of each server
    kv_cache_bytes: int = 1073741824  # CPU
    gpu_memory_utilization: float = 0.85
    block_size: int = 32
    start_timeout_s: float = 1200.0
    request_timeout_s: float = 3600.0


@dataclass
class LmEvalConfig:
    """Tasks that are written lm_eval:TASK."""

    python: str | None = None  # an interpreter that has lm-eval; null: this one
    include_path: str | None = None  # folder with task files of your own
    num_fewshot: int | None = None  # null: as the task says


@dataclass
class EvaluationConfig:
    """The whole of `k15 eval`."""

    name: str = "eval"
    run_dir: str | None = None  # null: runs/<name>-<job id>
    seed: int = 0
    dry_run: bool = False
    tasks: list[str] = field(default_factory=list)
    limit: int | None = None  # first problems of each task only
    data_dir: str | None = None  # null: K15_DATA_DIR
    hub: bool = False  # load what the data folder lacks from the Hugging Face hub
    prompt: str | None = None  # null: as the task says; plain | boxed | cot_zeroshot | program | a text with {question}
    template: str = "auto"  # how the final answer is marked, as reward.template
    pass_at: list[int] = field(default_factory=list)  # k of pass@k and maj@k; empty: 1 and the number of samples
    score_only: bool = False  # judge the answers that are there; sample nothing
    watch: str | None = None  # a run folder of `k15 rl`: evaluate its exports as they come
    watch_idle_min: float = 60.0  # end after so long without a new one
    watch_every_s: float = 10.0
    ratings: str | None = None  # JSONL with `rating` of contestants, for Codeforces percentiles
    workers: int = 1  # processes that judge answers by algebra
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


ConfigStore.instance().store(name="eval_schema", node=EvaluationConfig)


def check_eval(cfg: EvaluationConfig, nodes: int) -> None:
    """The rules of single settings and of those that belong together. Raises ConfigError."""
    for key, value, allowed in (
        ("engine.api", cfg.engine.api, APIS), ("model.dtype", cfg.model.dtype, DTYPES),
        *((k, getattr(cfg.cluster, k.split(".")[1]), CHOICES[k]) for k in ("cluster.kind", "cluster.device")),
    ):  # fmt: skip
        if value not in allowed:
            raise unknown_name(key, value, allowed)
    _check_numbers(cfg)
    check_shared(cfg)
    if nodes != 1:
        raise ConfigError(f"eval runs on one node, but there are {nodes}. Set cluster.nodes=1; engine.count starts more servers.")
    if cfg.engine.url is not None:
        check_url("engine.url", cfg.engine.url)
        if not cfg.engine.model:
            raise ConfigError(f"engine.url={cfg.engine.url} needs engine.model=<its name at that endpoint>.")
        if cfg.watch is not None:
            raise ConfigError("watch evaluates new folders on k15's own engines; leave engine.url out.")
    elif cfg.engine.model or cfg.engine.key_env:
        raise ConfigError(
            "engine.model and engine.key_env belong to an endpoint that runs already: give engine.url=https://host/v1."
        )
    if cfg.watch is not None and cfg.model.path is not None:
        raise ConfigError("watch=RUN_DIR evaluates that run's exports, so model.path must be left out.")
    if cfg.watch is not None and cfg.score_only:
        raise ConfigError("score_only judges answers again, watch waits for new ones: give one of them.")
    if cfg.watch is None and cfg.engine.url is None and cfg.model.path is None and not cfg.score_only:
        raise ConfigError("no model is given: model.path=<Hugging Face folder>, engine.url=<https://host/v1>, or watch=<a run>.")


def _check_numbers(cfg: EvaluationConfig) -> None:
    s, e = cfg.sampling, cfg.engine
    positive = {
        "limit": cfg.limit, "workers": cfg.workers, "watch_idle_min": cfg.watch_idle_min, "watch_every_s": cfg.watch_every_s,
        "sampling.samples": s.samples, "sampling.max_tokens": s.max_tokens, "sampling.top_p": s.top_p,
        "model.max_context_tokens": cfg.model.max_context_tokens, "engine.count": e.count,
        "engine.tensor_parallel": e.tensor_parallel, "engine.concurrency": e.concurrency, "engine.block_size": e.block_size,
        "engine.kv_cache_bytes": e.kv_cache_bytes, "engine.gpu_memory_utilization": e.gpu_memory_utilization,
        "engine.start_timeout_s": e.start_timeout_s, "engine.request_timeout_s": e.request_timeout_s,
        **{f"pass_at[{i}]": k for i, k in enumerate(cfg.pass_at)},
    }  # fmt: skip
    for key, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{key} is {value}, but it must be greater than 0.")
    for key, value in (("sampling.top_p", s.top_p), ("engine.gpu_memory_utilization", e.gpu_memory_utilization)):
        if value > 1:
            raise ConfigError(f"{key} is {value}, but it is a fraction: give a number above 0 and up to 1.")
    if cfg.lm_eval.num_fewshot is not None and cfg.lm_eval.num_fewshot < 0:
        raise ConfigError(f"lm_eval.num_fewshot is {cfg.lm_eval.num_fewshot}; it must be at least 0, or null for the task's own.")
    if s.temperature is not None and not (s.temperature >= 0 and math.isfinite(s.temperature)):
        raise ConfigError(f"sampling.temperature is {s.temperature}; it must be 0 (greedy) or more.")
    if s.temperature == 0 and s.samples is not None and s.samples > 1:
        raise ConfigError(
            f"sampling.samples={s.samples} greedy answers (sampling.temperature=0) are all the same; give 1, or a temperature."
        )
