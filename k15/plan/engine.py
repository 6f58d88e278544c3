"""What an engine holds on a device, what trainer and engine leave each other, and what a node's memory must hold."""

from dataclasses import dataclass

from k15.plan import model
from k15.plan.devices import Device
from k15.plan.job import TrainJob
from k15.plan.memory import Parts
from k15.plan.step import kv_bytes

CONTEXT_BYTES = 1.0e9  # of a process on a GPU: CUDA context, library workspaces, NCCL buffers (assumed, not measured)
ASLEEP_BYTES = 1.5e9  # of an engine that sleeps: context and captured graphs (assumed, not measured)
PREFILL_TOKENS = 8192  # batched by an engine in one step, whose activations it holds


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on each device of an engine. `cache`: what is left for keys and values; `wanted`: of all slots at full context;
    `slots`: sequences of mean length that `cache` holds."""

    weights: float
    activations: float
    cache: float
    wanted: float
    one: float
    slots: int


def engine_memory(
    job: TrainJob, device: Device, *, tensor: int, share: float, concurrent: int, context: int, mean: float, cache: float | None
) -> EngineMemory:
    """`share`: rollout.gpu_memory_utilization; `cache`: bytes given to the cache outright (CPU engines), or None."""
    s, b = job.shape, job.dtype_bytes
    weights = model.total(s) * b / tensor
    widest = max(s.intermediate / tensor, s.experts_per_token * s.expert_intermediate / tensor)
    working = min(PREFILL_TOKENS, concurrent * context) * (4 * s.hidden + 3 * widest) * b
    left = share * device.memory_gb * 1e9 - weights - working - CONTEXT_BYTES if cache is None else float(cache)
    each = kv_bytes(s, tensor, b)
    return EngineMemory(weights, working, left, concurrent * context * each, context * each,
                        max(0, min(concurrent, int(left / (mean * each)))))  # fmt: skip


@dataclass(frozen=True)
class Sharing:
    """Bytes on the fullest device while training and while sampling, and of a node's host memory."""

    training: float
    sampling: float
    shared: float
    host: float


def sharing(job: TrainJob, device: Device, parts: Parts, engine: EngineMemory, *, share: float, engines: int, tensor: int,
            spare: bool) -> Sharing:  # fmt: skip
    """Trainer and engines take turns on the devices; what `parallel.offload` leaves stays beside the engine.

    Shared memory holds two versions during a hand-off, and between hand-offs too with weights.spare. An engine that sleeps
    keeps its weights in host memory.
    """
    off = job.parallel.offload
    stays = parts.weights * (not off.parameters) + parts.gradients * (not off.gradients)
    moves = parts.weights * off.parameters
    state = parts.masters + (0.0 if job.reset else parts.moments)
    stays += state * (not off.optimizer)
    moves += state * off.optimizer
    shared = 2.0 * model.total(job.shape) * job.dtype_bytes
    if job.local:  # one memory for all
        sampler = engine.weights + engine.cache + engine.activations
        return Sharing(parts.peak + sampler, parts.peak + sampler, shared, shared + job.per_node * parts.peak + engines * sampler)
    sampling = stays + CONTEXT_BYTES + share * device.memory_gb * 1e9
    host = shared + job.per_node * moves + engines * tensor * engine.weights
    return Sharing(parts.peak + CONTEXT_BYTES + ASLEEP_BYTES, sampling, shared if spare else shared / 2, host)
