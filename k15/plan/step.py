"""Seconds of a training phase from operations, bytes and links, and the speeds of an engine for the simulator.

A micro-batch on a stage takes the larger of its operations over what matrix products reach and its weights over the memory's
bandwidth, plus its communication, which is not overlapped. A step is (micro-batches + stages - 1) of the slowest stage, then
the gradients' reduction, the optimizer's memory traffic, and the gathering of weights.
"""

from dataclasses import dataclass

from k15.plan import model
from k15.plan.devices import Device
from k15.plan.job import TrainJob
from k15.plan.memory import layer_activations
from k15.plan.rollout import Speed
from k15.train.packing import Work
from k15.train.shape import ModelShape

LAUNCH_S = 0.003  # an engine's decoding step beyond its reads: kernel launches, sampling, the scheduler
PCIE_GB_S = 25.0  # between a GPU and the host, one direction
HBM_SHARE = 0.7  # of the data sheet's memory bandwidth that is reached
TOUCHES = 4  # of each number that autograd keeps: written and read going forward, and its gradient
LOGIT_TOUCHES = 8  # of each logit: forward maximum, exponential, sums; backward the same again and the gradient
HEAD_PASSES = 4  # forward, logits made again in the backward pass, and its two products


@dataclass(frozen=True)
class Machine:
    """Ceilings a rank works under: `flops` that matrix products reach, bytes/s of memory, of links between the `per_node`
    devices of a node, and of the network, a rank's share."""

    flops: float
    memory: float
    link: float
    network: float
    per_node: int

    def wire(self, ranks: int) -> float:
        """Bytes/s between ranks of a group of `ranks` neighbours."""
        return self.link if ranks <= self.per_node else self.network


def machine(device: Device, mfu: float, per_node: int) -> Machine:
    """`mfu`: the share of the data sheet that matrix products reach. `per_node`: ranks that share a node's network."""
    return Machine(device.tflops * 1e12 * mfu, device.memory_gb_s * 1e9 * HBM_SHARE, device.link_gb_s * 1e9,
                   device.network_gb_s * 1e9 / per_node, per_node)  # fmt: skip


def operations(job: TrainJob) -> dict[str, float]:
    """Floating-point operations of an iteration over all ranks, by part; `repeated` is what recomputation does twice."""
    work = Work.of(job.shape)
    layers = job.sequences * (work.token * job.length + work.square * job.mean_square)
    reference = (job.steps - 1) / job.steps  # the first step's reference log-probs are its own (Trainer.train_iteration)
    head = job.sequences * work.response * job.response
    return {
        "layers": 3 * layers, "head": HEAD_PASSES * head, "repeated": layers if job.parallel.recompute else 0.0,
        "reference": reference * (layers + head),
    }  # fmt: skip


def train_seconds(job: TrainJob, m: Machine) -> dict[str, float]:
    """Seconds of an iteration's training by part: compute, bubble, wires by what they carry, data, optimizer."""
    p, last = job.parallel, job.parallel.pipeline - 1
    micro = job.micro_batches * job.steps
    compute = job.idle * max(compute_seconds(job, m, stage) for stage in {0, last})
    wires = _wires(job, m, job.idle * job.sequences * job.length / job.data / p.context)
    slot = (compute + sum(wires.values())) / micro
    reduced = max(_reduce(job, m, stage) for stage in {0, last})
    updated = max(optimizer_seconds(job, m, stage) for stage in {0, last})
    return {
        "compute": compute, "bubble": job.steps * last * slot, **wires, "data": job.steps * reduced,
        "optimizer": job.steps * updated,
    }  # fmt: skip


def compute_seconds(job: TrainJob, m: Machine, stage: int) -> float:
    """Of an iteration's micro-batches on a rank of pipeline stage `stage`: its operations, or its weights' reads where those
    take longer, and the traffic of all that is no matrix product."""
    p, total = job.parallel, operations(job)
    done = (total["layers"] + total["repeated"] + total["reference"]) / job.ranks
    if stage == p.pipeline - 1:
        done += total["head"] * p.pipeline / job.ranks
    micro = job.micro_batches * job.steps
    reads = (3 + p.recompute) * micro * model.held(job.shape, p, stage).total * job.dtype_bytes / m.memory
    return max(done / m.flops, reads) + traffic(job, stage) / m.memory


def traffic(job: TrainJob, stage: int) -> float:
    """Bytes of an iteration that norms, rotations, activations and copies move on a rank: what autograd keeps is written
    and read going forward, and as much comes back. torch's head also works through its tiles of logits, which Triton's
    keeps in registers."""
    s, p = job.shape, job.parallel
    tokens = job.sequences * job.length / job.data / p.context
    sparse = len(s.sparse)
    kept = (s.layers - sparse) * layer_activations(job, False) if sparse < s.layers else 0.0
    kept += sparse * layer_activations(job, True) if sparse else 0.0
    moved = (TOUCHES + p.recompute * TOUCHES / 2) * kept / job.pack_here * tokens / p.pipeline
    if job.local and stage == p.pipeline - 1 and not s.scalar:
        moved += LOGIT_TOUCHES * 4 * tokens * job.response / job.length * s.vocab / p.tensor
    return moved


def _wires(job: TrainJob, m: Machine, tokens: float) -> dict[str, float]:
    """Seconds that a rank spends on the wires inside layers for `tokens` tokens: forward, backward, and again if recomputed."""
    s, p, b = job.shape, job.parallel, job.dtype_bytes
    passes, layers = 2 + p.recompute, s.layers / p.pipeline
    hidden = tokens * s.hidden * b
    tensor = 4 * hidden * (p.tensor - 1) / p.tensor  # two all-reduces, or as many gather-scatter pairs, a layer and pass
    keys = s.heads * (s.head_dim + s.latent.value) if s.latent is not None else (s.heads + s.kv_heads) * s.head_dim
    context = 2 * tokens * keys * b / p.tensor * (p.context - 1) / p.context
    routed = tokens * s.experts_per_token * s.hidden * b / (p.tensor if p.sequence_parallel else 1)
    expert = 2 * routed * (p.expert - 1) / p.expert  # dispatch and combine
    found = {
        "tensor": layers * passes * tensor / m.wire(p.tensor),
        "expert": len(s.sparse) / p.pipeline * passes * expert / m.wire(p.expert),
        "context": layers * passes * context / m.wire(p.tensor * p.context),
    }
    hop = 2 * hidden / (p.tensor if p.sequence_parallel else 1) * (p.pipeline > 1)  # to the next stage, and its gradient back
    return found | {"pipeline": hop / m.wire(job.ranks)}


def _reduce(job: TrainJob, m: Machine, stage: int) -> float:
    """fp32 gradients summed over copies, and weights gathered (distributed optimizer) at the end of a step."""
    held = model.held(job.shape, job.parallel, stage)
    copies, expert_copies = job.data * job.parallel.context, job.expert_data
    moved = held.dense * (copies - 1) / copies + held.expert * (expert_copies - 1) / expert_copies
    each = 4 + job.dtype_bytes if job.parallel.distributed_optimizer else 8
    return moved * each / m.wire(job.ranks // job.parallel.pipeline)


def optimizer_seconds(job: TrainJob, m: Machine, stage: int) -> float:
    """A step's traffic: moments, masters and gradients read, all but gradients written, and the buffers set to zero."""
    held, split = model.held(job.shape, job.parallel, stage), job.parallel.distributed_optimizer
    own = held.dense / (job.data * job.parallel.context if split else 1) + held.expert / (job.expert_data if split else 1)
    return (own * (4 + 2 * (8 + 4) + job.dtype_bytes) + held.total * 4) / m.memory


def kv_bytes(shape: ModelShape, tensor: int, dtype_bytes: int) -> float:
    """Bytes that a token of context has on each engine worker. A compressed (latent) cache is whole on every worker."""
    if shape.latent is not None:
        return shape.layers * (shape.latent.kv_rank + shape.latent.rotated) * dtype_bytes
    return shape.layers * 2 * max(1, shape.kv_heads // tensor) * shape.head_dim * dtype_bytes


def engine_speed(shape: ModelShape, device: Device, *, tensor: int, dtype_bytes: int, slots: int, mfu: float) -> Speed:
    """Of one engine on `tensor` devices: decoding reads the weights that the batch meets once a step, and each context."""
    memory, flops = device.memory_gb_s * 1e9 * HBM_SHARE * tensor, device.tflops * 1e12 * mfu * tensor
    routed = len(shape.sparse) * shape.experts * model.expert(shape)
    met = 1 - (1 - shape.experts_per_token / shape.experts) ** slots if shape.experts else 0.0
    weights = (model.total(shape) - routed + routed * met) * dtype_bytes
    exchanged = 4 * shape.layers * shape.hidden * dtype_bytes * (tensor - 1) / tensor / (device.link_gb_s * 1e9)
    operations_each = 2.0 * model.active(shape)
    return Speed(
        step_s=weights / memory + LAUNCH_S,
        sequence_s=operations_each / flops + exchanged,
        context_s=kv_bytes(shape, tensor, dtype_bytes) * tensor / memory,
        prefill_s=operations_each / flops,
        slots=slots,
    )


def handoff(shape: ModelShape, dtype_bytes: int, nodes: int, nodes_of_model: int, per_node: int, network_gb_s: float) -> dict:
    """Bytes and seconds of one hand-off: `publish` to host memory, `pull` of what a node lacks, `load` to the engines.

    Each of the `nodes_of_model` parts starts on nodes / nodes_of_model nodes and doubles its holders in every round.
    """
    whole = model.total(shape) * dtype_bytes
    lacking = whole * (1 - 1 / nodes_of_model)
    rounds = (nodes_of_model - 1).bit_length()  # 1, 2, 4, ... holders of each part
    spread = whole / nodes_of_model * max(nodes_of_model - 1, rounds)
    return {
        "bytes": lacking * nodes, "node_bytes": lacking,
        "publish": whole / nodes_of_model / per_node / (PCIE_GB_S * 1e9), "pull": spread / (network_gb_s * 1e9),
        "load": whole / per_node / (PCIE_GB_S * 1e9),
    }  # fmt: skip
