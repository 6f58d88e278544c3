"""Every setting of `k15 curate`, typed; conf/curate.yaml holds the values. Torch-free."""

import math
from dataclasses import dataclass, field, fields

from hydra.core.config_store import ConfigStore

from k15.config.schema import ClusterConfig
from k15.config.services import check_url
from k15.errors import ConfigError, unknown_name

TAGGERS = ("rules", "model")
ON_BAD_ROW = ("error", "skip")
BALANCE_BY = ("domain", "discipline")
_POSITIVE = (
    "guesses", "samples", "max_tokens", "concurrency", "temperature", "max_context_tokens", "start_timeout_s",
    "request_timeout_s",
)  # fmt: skip


@dataclass
class FieldsConfig:
    """Columns; null: the first that a row has of the usual names (prompt, question, problem, ...; answer, solution, ...)."""

    prompt: str | None = None
    answer: str | None = None
    id: str | None = "id"  # null: ids follow from the content
    domain: str = "domain"
    discipline: str | None = None
    evaluation_prompt: str | None = None  # of the evaluation files, to which none of the others applies


@dataclass
class FilterConfig:
    """What leaves without a model being asked (report 2.1)."""

    multiple_choice: bool = True
    true_false: bool = True
    proof: bool = True
    leaks: bool = True  # prompts that state their answer
    near_duplicates: float = (
        0.8  # Jaccard similarity of word 3-grams from which two prompts with one answer are the same; 1: exact
    )
    contamination: float = 0.6  # the same, against the evaluation sets and whatever the answer
    # or so many words in a row shared with an evaluation prompt; a Chinese or Japanese character is half a word; 0: off
    contamination_ngram: int = 13


@dataclass
class EngineConfig:
    """The model that guesses, solves and tags. `path` (a Hugging Face folder) starts a vLLM server; `url` asks one that runs."""

    path: str | None = None
    url: str | None = None  # OpenAI-compatible: https://host/v1
    model: str = ""  # its name at `url`
    key_env: str | None = None  # environment variable that holds the key for `url`
    chat: bool = True  # prompts go through the chat template of `path`; false for a base model without one
    dtype: str = "auto"
    max_context_tokens: int = 4096
    concurrency: int = 64
    start_timeout_s: float = 600.0
    request_timeout_s: float = 1800.0  # of one answer, its wait in the engine included


@dataclass
class HackConfig:
    """Easy-to-hack: right within `guesses` guesses without reasoning (report: 8). Needs `engine`."""

    enabled: bool = False
    guesses: int = 8
    temperature: float = 1.0
    max_tokens: int = 64


@dataclass
class DifficultyConfig:
    """Pass rate of `samples` answers at a high temperature (report: 10); `difficulty` = 1 - pass rate. Needs `engine`."""

    enabled: bool = False
    samples: int = 10
    temperature: float = 1.0
    max_tokens: int = 2048
    min_pass_rate: float = 0.0  # prompts below (hopeless or wrong) leave
    max_pass_rate: float = 1.0  # prompts above (too easy) leave


@dataclass
class BalanceConfig:
    """At most `size` prompts, as many of each tag as can be had (smaller tags whole, the others alike); null: all."""

    size: int | None = None
    by: str = "discipline"  # domain | discipline


@dataclass
class CurateConfig:
    """`sources` and `evaluation`: .jsonl(.gz) and .parquet files, folders of datasets.save_to_disk, hf:NAME[:CONFIG]:SPLIT."""

    name: str = "curate"
    run_dir: str | None = None  # null: runs/<name>; answers of the engine are kept here, so that a restart asks only for the rest
    seed: int = 0
    dry_run: bool = False
    sources: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)  # sets that training must not see
    store: str = "prompts"  # folder of the versions v1, v2, ...; data.path=<store> reads the newest
    on_bad_row: str = "error"  # error | skip
    tagger: str = "rules"  # rules | model
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    hack: HackConfig = field(default_factory=HackConfig)
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


ConfigStore.instance().store(name="curate_schema", node=CurateConfig)


def check_curate(cfg: CurateConfig) -> None:
    """Raises ConfigError for settings that cannot be, or do not fit together."""
    if not cfg.sources:
        raise ConfigError("sources is empty; name at least one: k15 curate sources=[train.jsonl,more.parquet].")
    for name, value, allowed in (
        ("tagger", cfg.tagger, TAGGERS),
        ("on_bad_row", cfg.on_bad_row, ON_BAD_ROW),
        ("balance.by", cfg.balance.by, BALANCE_BY),
    ):
        if value not in allowed:
            raise unknown_name(name, value, allowed)
    shares = {"filters.near_duplicates": cfg.filters.near_duplicates, "filters.contamination": cfg.filters.contamination}
    for name, value in shares.items():
        if not 0.3 <= value <= 1:
            raise ConfigError(f"{name} is {value}; it is a similarity from 0.3 (below, unlike problems are taken for one) to 1.")
    if cfg.filters.contamination_ngram < 0:
        raise ConfigError(
            f"filters.contamination_ngram is {cfg.filters.contamination_ngram}; it is so many words in a row, or 0 for off."
        )
    if not 0 <= cfg.difficulty.min_pass_rate <= cfg.difficulty.max_pass_rate <= 1:
        raise ConfigError(
            f"difficulty.min_pass_rate={cfg.difficulty.min_pass_rate} and max_pass_rate={cfg.difficulty.max_pass_rate} must "
            "satisfy 0 <= min <= max <= 1."
        )
    if cfg.balance.size is not None and cfg.balance.size < 1:
        raise ConfigError(f"balance.size is {cfg.balance.size}; it must be at least 1, or null for all.")
    for section in (cfg.hack, cfg.difficulty, cfg.engine):
        for item in fields(section):
            value = getattr(section, item.name)
            if item.name in _POSITIVE and not 0 < value < math.inf:
                raise ConfigError(f"{item.name} is {value}; it must be above 0, and finite.")
    if cfg.engine.path is not None and cfg.engine.url is not None:
        raise ConfigError("engine.path and engine.url are both set; give a folder to serve, or the address of a running engine.")
    rooms = (("hack.max_tokens", cfg.hack), ("difficulty.max_tokens", cfg.difficulty))
    for name, section in rooms:
        if section.enabled and cfg.engine.path is not None and section.max_tokens >= cfg.engine.max_context_tokens:
            raise ConfigError(
                f"{name} is {section.max_tokens}, which leaves no room for a prompt in engine.max_context_tokens="
                f"{cfg.engine.max_context_tokens}; lower the one or raise the other."
            )
    asks = [n for n, on in (("hack.enabled", cfg.hack.enabled), ("difficulty.enabled", cfg.difficulty.enabled),
                            ("tagger=model", cfg.tagger == "model")) if on]  # fmt: skip
    if asks and cfg.engine.path is None and cfg.engine.url is None:
        raise ConfigError(f"{', '.join(asks)} needs a model: engine.path=<Hugging Face folder>, or engine.url=https://host/v1.")
    if not asks and (cfg.engine.path or cfg.engine.url):
        raise ConfigError(
            "an engine is given but nothing asks it; set hack.enabled=true, difficulty.enabled=true or tagger=model."
        )
    _endpoint_is_whole(cfg.engine)


def _endpoint_is_whole(e: EngineConfig) -> None:
    if e.url is None:
        given = [f"engine.{name}" for name in ("model", "key_env") if getattr(e, name)]
        if given:
            raise ConfigError(f"{given[0]} is set, but it is for an endpoint: give engine.url=https://host/v1, or leave it out.")
        return
    check_url("engine.url", e.url)
    if not e.model:
        raise ConfigError(f"engine.url={e.url} needs engine.model=<its name at that endpoint>.")
    if not e.chat:
        raise ConfigError("engine.chat=false is for engine.path; the endpoint at engine.url puts prompts into its own template.")
