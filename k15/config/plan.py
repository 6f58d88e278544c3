"""Every setting of `k15 plan`: those of `k15 rl`, and `plan.*`; conf/plan.yaml holds the values. Torch-free."""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from k15.config.schema import RunConfig


@dataclass
class PlanSettings:
    """What is planned with. A null ceiling is the data sheet's; `mfu` is the share of it that matrix products reach, before
    pipeline bubbles and communication, which come on top."""

    device: str = "h100"  # a name of k15.plan.devices
    tflops: float | None = None  # dense, of the model's type; measured, or null
    memory_gb: float | None = None
    memory_gb_s: float | None = None
    link_gb_s: float | None = None  # between devices of a node, one direction
    network_gb_s: float | None = None  # of a node, one direction
    mfu: float | None = None  # null: the device's (k15/plan/devices.py)
    price_per_gpu_hour: float = 2.0
    search: bool = False  # rank all layouts
    simulate: bool = False  # the table over token budgets
    top: int = 8  # layouts shown
    median_tokens: float | None = None  # of responses; null: an eighth of rollout.max_response_tokens
    p99_over_p50: float = 10.0
    trace: str | None = None  # run folder: lengths and constants are taken from it
    prompt_tokens: int | None = None  # null: 256, or what model.max_context_tokens leaves beside the response
    iterations: int = 8  # simulated for each budget
    budgets: list[int] = field(default_factory=list)  # empty: rollout.max_response_tokens halved, again and again
    scale: list[int] = field(default_factory=list)  # GPUs to simulate besides those of the run; weak scaling
    repetition: float = 0.0  # share of responses that repeat themselves to the end
    slow_share: float = 0.0
    slow_factor: float = 2.0
    mtbf_node_h: float | None = None  # hours between losses of one node; null: none are lost
    restart_s: float = 300.0
    config: str | None = None  # a config.json, or its folder, without weights


@dataclass
class PlanConfig(RunConfig):
    """The whole of `k15 plan`."""

    plan: PlanSettings = field(default_factory=PlanSettings)


ConfigStore.instance().store(name="plan_schema", node=PlanConfig)
