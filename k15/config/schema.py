"""Every setting of a run, typed. `conf/*.yaml` holds the values; Hydra merges both. Torch-free.

Units are in the names (`_s` seconds, `_tokens` tokens). Rules that join several settings are in `check.py`.
"""

from dataclasses import dataclass, field


@dataclass
class TinyModelConfig:
    """Shape of the model that k15 makes itself when `model.path` is null (Qwen2 layout)."""

    hidden_size: int = 128
    intermediate_size: int = 352
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    init_std: float = 0.08  # normal initialisation of all matrices; so narrow a model learns slowly from 0.02


@dataclass
class ModelConfig:
    """`path`: a Hugging Face folder (config.json, safetensors, tokenizer). null: make the tiny model and warm it up."""

    path: str | None = None
    dtype: str = "float32"
    max_context_tokens: int = 192
    chat: bool = False  # apply the folder's chat template to prompts
    tiny: TinyModelConfig = field(default_factory=TinyModelConfig)


@dataclass
class DataConfig:
    """`kind` arithmetic: generated problems; jsonl: `path` with `prompt`, `answer` and optional `domain`, `difficulty`, `id`."""

    kind: str = "arithmetic"
    path: str | None = None
    eval_path: str | None = None
    eval_fraction: float = 0.1  # held out from `path` when eval_path is null
    on_bad_row: str = "error"  # error | skip
    train_size: int = 4096  # generated problems (arithmetic)
    eval_size: int = 512
    families: list[str] = field(default_factory=list)  # empty: the five of arithmetic


@dataclass
class WarmupConfig:
    """Supervised fine-tuning on generated solutions before RL (report 2.2, 2.5.2); only for the tiny model."""

    steps: int = 400
    batch_size: int = 128
    lr: float = 6e-3
    min_lr: float = 2e-4
    guess_fraction: float = 0.6  # answered at once
    slip_fraction: float = 0.06  # worked in steps, with a slip that is noticed and corrected
    checked_fraction: float = 0.28  # worked in steps, and the last operation worked again: a detour, right but long


@dataclass
class AlgoConfig:
    """Policy optimisation (report 2.3.2). `loss` pmd: squared sequence log-ratio; rest: fit correct samples only;
    pmd_per_token: a square for every token, an ablation."""

    loss: str = "pmd"
    tau: float = 0.1
    baseline: str = "mean"  # mean | log_partition | leave_one_out | none
    iterations: int = 30
    prompts_per_iteration: int = 64
    samples_per_prompt: int = 8
    minibatches: int = 1  # optimizer steps an iteration
    micro_batch_tokens: int = 4096  # packed tokens a micro-batch, at most
    train_old_segments: bool = True  # false: only the newest segment counts in the loss
    normalise_log_ratio_by_length: bool = False  # a deviation from the report, named as one
    kernels: str = "auto"  # of log-probs and loss: auto (Triton on a GPU, else PyTorch) | triton | torch
    lr: float = 2.5e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0
    reset_optimizer: bool = True  # the report resets it at every iteration


@dataclass
class RepetitionConfig:
    """A response ends when its tail is `min_repeats` copies of a pattern of at most `max_period` tokens (report 2.6.2)."""

    enabled: bool = True
    min_period: int = 1
    max_period: int = 16
    min_repeats: int = 4


@dataclass
class RolloutConfig:
    """Sampling on vLLM. `budget_tokens` bounds what one trajectory may add in one iteration (partial rollouts, 2.6.2)."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_response_tokens: int = 96
    budget_tokens: int = 64
    engines_per_node: int = 1
    tensor_parallel: int = 1
    max_concurrent: int = 64  # sequences an engine runs at once
    kv_cache_bytes: int = 268435456
    gpu_memory_utilization: float = 0.6
    block_size: int = 32
    update: str = "in_place"  # in_place | restart
    request_timeout_s: float = 1800.0  # of one segment, its wait in the engine included
    silence_timeout_s: float = 300.0  # an engine that sends nothing for any of its requests for so long is restarted
    max_retries: int = 3
    canary_tolerance: float | None = None  # mean |engine - trainer| log-prob on the canary; null: 1e-3 fp32 (GPU 2e-2), 0.1 bf16
    repetition: RepetitionConfig = field(default_factory=RepetitionConfig)


@dataclass
class LengthRewardConfig:
    """Report 2.3.3: weight 0 for `warmup_iterations`, then constant."""

    weight: float = 0.0
    warmup_iterations: int = 10


@dataclass
class DomainRewardConfig:
    """What a domain has of its own; null: as for all domains."""

    correct: float | None = None
    length_weight: float | None = None


@dataclass
class DomainsConfig:
    """By `Prompt.domain`, which also picks the verdict (`k15.reward.router`)."""

    math: DomainRewardConfig = field(default_factory=DomainRewardConfig)
    code: DomainRewardConfig = field(default_factory=DomainRewardConfig)


@dataclass
class JudgeConfig:
    """The Chain-of-thought judge of the domain `math` (report 2.3.5), where `url` is given.

    `url`: an OpenAI-compatible endpoint (https://host/v1), or `engines`: the policy on the run's own engines.
    """

    url: str | None = None
    model: str = ""  # its name at the endpoint
    key_env: str | None = None  # environment variable that holds the API key
    rejected: bool = False  # ask where the rule refused an answer: it may be another written form
    audit: bool = False  # audit with the judge, in place of math-verify
    votes: int = 1  # correct needs more than half of them
    retries: int = 2  # of a vote that did not end in a verdict
    template: str = "plain"
    sampling_temperature: float = 0.6
    max_tokens: int = 2048
    timeout_s: float = 300.0
    concurrency: int = 32


@dataclass
class ClassicConfig:
    """A Classic reward model (report 2.3.5) for the domain `math`, where `path` is given: export/ of `k15 reward_model`."""

    path: str | None = None
    asks: str = "rejected"  # rejected: only answers that the rule refused; all: it decides in place of the rule
    threshold: float = 0.5  # correct above this probability
    device: str = "cpu"  # of its process on the head node: cpu | cuda | auto
    timeout_s: float = 300.0  # of one group's answers


@dataclass
class RewardConfig:
    correct: float = 1.0
    domains: DomainsConfig = field(default_factory=DomainsConfig)
    repetition_penalty: float = 0.1  # subtracted when a response was stopped on a repetition
    template: str = "auto"  # how the final answer is marked: auto, or a text such as "#ANSWER", "\\boxed{ANSWER}"
    length: LengthRewardConfig = field(default_factory=LengthRewardConfig)
    custom: str | None = None  # "package.module:function"
    custom_weight: float = 1.0
    audit_fraction: float = 0.05  # of accepted answers, judged again by a second method; a metric, no reward. 0: none
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    classic: ClassicConfig = field(default_factory=ClassicConfig)
    timeout_s: float = 5.0  # of one check or custom reward; processor time for algebra, by the clock for custom
    memory_gb: float = 4.0  # that a worker process may allocate for a custom reward
    workers: int = 1


@dataclass
class SandboxConfig:
    """Where code is judged (domain `code`). `url` null: the job starts a service of its own on its first node."""

    url: str | None = None
    token_file: str | None = None  # of the service at `url`
    backend: str = "auto"  # auto | crun | bubblewrap
    workers: int = 2  # jobs at once of the job's own service
    queue_size: int = 256
    images: dict[str, str] = field(default_factory=dict)  # name -> root filesystem of your own
    patience_s: float = 600.0  # silence of the service after which the run ends with an error; a full queue is no silence
    queue_patience_s: float = 7200.0  # how long a full queue may put a request off before the run ends with an error
    restarts: int = 3  # of the job's own service, when it dies


@dataclass
class SamplerConfig:
    """Report 2.3.4. `kind`: uniform | curriculum | prioritised."""

    kind: str = "prioritised"
    warmup_iterations: int = 10  # curriculum: all prompts first, then hard ones only
    hard_pass_rate: float = 0.5  # a prompt is hard while its tracked success rate is at most this
    prior_successes: float = 0.5  # smoothing of s_i for rarely seen prompts (Beta prior)
    prior_trials: float = 1.0
    decay: float = 0.9  # weight of older results at each new one


@dataclass
class OffloadConfig:
    """What the trainer takes off its device while engines sample. On CPU, gradients only: there is nowhere else to go."""

    parameters: bool = True
    gradients: bool = True
    optimizer: bool = True


@dataclass
class ParallelConfig:
    """Trainer layout over all nodes. Data parallel size = ranks / (tensor * pipeline * context)."""

    ranks_per_node: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    context: int = 1  # ranks that share a pack's tokens; tensor x context divides the key-value heads
    sequence_parallel: bool = False
    distributed_optimizer: bool = True
    recompute: bool = False
    offload: OffloadConfig = field(default_factory=OffloadConfig)


@dataclass
class ClusterConfig:
    """How the job is submitted. `kind` auto: Slurm where `sinfo` answers, else local."""

    kind: str = "auto"  # auto | slurm | local
    nodes: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int = 1
    mem_gb: float | None = None
    time_min: int = 60
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    signal_before_s: int = 120
    requeue: bool = True
    setup: list[str] = field(default_factory=list)  # shell lines run before the job body
    device: str = "auto"  # auto | cpu | cuda
    etcd_members: int = 1  # 1 | 3: with three, on the first three nodes, one metadata server may be lost
    rollout_nodes: int = 0  # more nodes, for rollout only, in one heterogeneous Slurm job with the others (`k15 launch rl`)
    rollout_gpus_per_node: int | None = None  # of those; null: as gpus_per_node
    rollout_partition: str | None = None  # of those; null: as partition
    rejoin_min: float = 10.0  # a node of `k15 scale` waits so long for a requeued run to start, to join it again; 0: not at all


@dataclass
class WeightsConfig:
    """The hand-off of weights to the engines (report 2.6.3).

    `transport` auto: HTTP between agents, with Mooncake timed beside it where there is RDMA, MPI where the job's tasks were
    started as one MPI world (SLURM_MPI_TYPE). mpi: with a fixed allocation only, `k15 scale` is refused. `spare`: a version's
    shared memory is kept for the next but one, which makes the hand-off several times faster, for twice the memory between.
    """

    transport: str = "auto"  # auto | http | mooncake | mpi
    spare: bool = True


@dataclass
class EvalConfig:
    """Held-out accuracy: greedy (temperature 0) and sampled (temperature of rollout), at start, every `every`, and end."""

    every: int = 5
    size: int = 512
    samples: int = 1


@dataclass
class SaveConfig:
    """Checkpoints to resume from, and with each an export in Hugging Face layout.

    `exports` latest: only hf/; best: also exports/ of those that may yet be long2short's base, and the link best/ to the one
    that is (`k15 eval best`); all: every export. Kept ones take a model's size on disk each.
    """

    every: int = 5  # iterations between checkpoints
    keep: int = 2
    export_hf: bool = True
    exports: str = "latest"  # latest | best | all


@dataclass
class LogConfig:
    tensorboard: bool = True
    wandb_project: str | None = None
    rollouts: bool = True  # write rollouts/*.jsonl.zst


@dataclass
class RunConfig:
    """The whole of `k15 rl`."""

    name: str = "rl"
    run_dir: str | None = None  # null: runs/<name>-<job id>
    seed: int = 0
    dry_run: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    log: LogConfig = field(default_factory=LogConfig)
