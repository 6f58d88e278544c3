"""From a run to its answer: does it fit, how long does an iteration take, what does it cost; or why it cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from k15.errors import ConfigError
from k15.plan import model
from k15.plan.devices import Device
from k15.plan.engine import ASLEEP_BYTES, CONTEXT_BYTES, EngineMemory, Sharing, engine_memory, sharing
from k15.plan.job import TrainJob
from k15.plan.layouts import Layout, ranked
from k15.plan.memory import Parts, worst_stage
from k15.plan.rollout import Speed
from k15.plan.simulate import Scenario
from k15.plan.step import Machine, engine_speed, handoff, operations, train_seconds

FREE = 0.05  # of a device's memory that fragmentation takes


@dataclass(frozen=True)
class Setup:
    """What is planned: the trainer's job, its machine, the engines. `host_gb`: memory of a node that the job asks for."""

    job: TrainJob
    device: Device
    machine: Machine
    nodes: int
    engines_per_node: int
    engine_tensor: int
    engine_share: float
    engine_cache: float | None
    concurrent: int
    context: int
    mfu: float
    spare: bool
    host_gb: float | None = None

    @property
    def room(self) -> float:
        """Bytes that a trainer rank may take at its peak."""
        usable = self.device.memory_gb * 1e9 * (1 - FREE)
        return usable if self.job.local else usable - CONTEXT_BYTES - ASLEEP_BYTES


@dataclass(frozen=True)
class Answer:
    """All that `k15 plan` prints of one run."""

    setup: Setup
    stage: int
    parts: Parts
    engine: EngineMemory
    sharing: Sharing
    train: dict[str, float]
    handoff: dict[str, float]
    speed: Speed

    @property
    def train_s(self) -> float:
        return sum(self.train.values())

    @property
    def handoff_s(self) -> float:
        return self.handoff["publish"] + self.handoff["pull"] + self.handoff["load"]

    @property
    def utilisation(self) -> float:
        """Model operations (repeated ones apart) over the data sheet's, of the training phase."""
        done = sum(v for k, v in operations(self.setup.job).items() if k != "repeated")
        return done / self.train_s / self.setup.job.ranks / (self.setup.device.tflops * 1e12)


def answer(setup: Setup) -> Answer:
    """Every number of one layout, whether it fits or not (see `refusal`)."""
    job = setup.job
    stage, parts = worst_stage(job)
    engine = engine_memory(
        job, setup.device, tensor=setup.engine_tensor, share=setup.engine_share, concurrent=setup.concurrent,
        context=setup.context, mean=job.length, cache=setup.engine_cache,
    )  # fmt: skip
    shared = sharing(job, setup.device, parts, engine, share=setup.engine_share, engines=setup.engines_per_node,
                     tensor=setup.engine_tensor, spare=setup.spare)  # fmt: skip
    speed = engine_speed(job.shape, setup.device, tensor=setup.engine_tensor, dtype_bytes=job.dtype_bytes,
                         slots=max(1, engine.slots), mfu=setup.mfu)  # fmt: skip
    moved = handoff(job.shape, job.dtype_bytes, setup.nodes, min(setup.nodes, job.nodes_of_model), job.per_node,
                    setup.device.network_gb_s)  # fmt: skip
    return Answer(setup, stage, parts, engine, shared, train_seconds(job, setup.machine), moved, speed)


def too_big(found: Answer) -> list[str]:
    """What does not fit, by name, with its size and the rule."""
    s, gb = found.setup, 1e9
    whole, wrong = s.device.memory_gb * (1 - FREE), []
    if found.parts.peak > s.room:
        table = {k: v for k, v in found.parts.table().items() if k != "step"}
        largest = max(table, key=lambda k: table[k])
        wrong.append(
            f"a trainer rank of pipeline stage {found.stage} needs {found.parts.peak / gb:.1f} GB at its peak, of which "
            f"{largest} are {table[largest] / gb:.1f} GB, but {s.room / gb:.1f} GB of the device's "
            f"{s.device.memory_gb:g} are left for it"
        )
    if found.engine.cache < found.engine.one:
        wrong.append(
            f"an engine's weights are {found.engine.weights / gb:.1f} GB a device at rollout.tensor_parallel={s.engine_tensor}, "
            f"which leaves {max(found.engine.cache, 0) / gb:.1f} GB for keys and values, and one sequence of {s.context} tokens "
            f"takes {found.engine.one / gb:.2f} GB: raise rollout.tensor_parallel or rollout.gpu_memory_utilization"
        )
    if found.sharing.sampling > whole * gb and not s.job.local:
        wrong.append(
            f"engines that take {s.engine_share:.0%} of a device and what the trainer leaves on it are "
            f"{found.sharing.sampling / gb:.1f} GB, over {whole:.1f}: offload more (parallel.offload) or lower "
            "rollout.gpu_memory_utilization"
        )
    if s.host_gb is not None and found.sharing.host > s.host_gb * gb:
        wrong.append(
            f"a node's processes and shared memory need {found.sharing.host / gb:.1f} GB of host memory, but cluster.mem_gb is "
            f"{s.host_gb:g}: raise it, or offload less (parallel.offload)"
        )
    return wrong


def check_fits(found: Answer, top: int) -> None:
    """Raises ConfigError with what is too big and the nearest layouts that fit, the quickest first."""
    wrong = too_big(found)
    if not wrong:
        return
    job = found.setup.job
    text = f"this run does not fit: {'; '.join(wrong)}."
    if found.parts.peak <= found.setup.room:
        raise ConfigError(text)
    fitting = ranked(job, found.setup.machine, found.setup.room)
    if fitting:
        lines = [f"  {line}" for line in layout_lines(fitting[:top])]
        raise ConfigError(f"{text} Layouts on the same {job.ranks} ranks that fit, by training time:\n" + "\n".join(lines))
    ranks = job.ranks
    while ranks < 1 << 17:
        ranks *= 2
        if more := ranked(
            replace(job, ranks=ranks, sequences=max(job.sequences, ranks * job.steps)), found.setup.machine, found.setup.room
        ):
            raise ConfigError(
                f"{text} No layout of {job.ranks} ranks fits. {ranks} ranks do, for example {more[0].words()} "
                f"({more[0].parts.peak / 1e9:.1f} GB a rank)."
            )
    raise ConfigError(f"{text} No layout of up to {ranks} ranks fits: a device with more memory is needed.")


def layout_lines(found: Sequence[Layout]) -> list[str]:
    """One line a layout: settings, memory, seconds."""
    width = max((len(layout.words()) for layout in found), default=0)
    return [
        f"{layout.words():{width}s}  {layout.parts.peak / 1e9:6.1f} GB a rank  {layout.seconds:9.2f} s of training"
        for layout in found
    ]  # fmt: skip


def scenario(found: Answer, base: Scenario) -> Scenario:
    """`base` (lengths, prompts, faults) with the answer's times."""
    job = found.setup.job
    fixed = found.train["data"] + found.train["optimizer"]
    return replace(
        base, engines=found.setup.nodes * found.setup.engines_per_node, speed=found.speed, train_fixed_s=fixed,
        train_token_s=(found.train_s - fixed) / (job.sequences * job.length), handoff_s=found.handoff_s,
    )  # fmt: skip


def budgets_of(longest: int, given: Sequence[int]) -> list[int]:
    """Token budgets to compare, the largest (no partial rollouts) first."""
    return sorted({longest, *given}, reverse=True) if given else [max(1, longest >> n) for n in range(5)]


def parameters(setup: Setup) -> tuple[float, float]:
    """(all, active) parameters."""
    return float(model.total(setup.job.shape)), float(model.active(setup.job.shape))
