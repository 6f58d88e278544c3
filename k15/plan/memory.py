"""Bytes that a trainer rank holds at its peak, by part, as Megatron-core and k15's trainer allocate them.

    weights + gradients (fp32) + optimizer (moments, fp32 masters of bf16 weights)
    + activations of the micro-batches in flight + workspace of the part that needs most (head, a layer's backward)

Activations are what autograd keeps: counted from the code for Megatron's torch layers (CPU; compared with measured peaks by
`python -m benchmarks plan`), and, with the same formulas but flash attention and bf16 norms, for GPUs (not measured).
"""

from dataclasses import dataclass, fields

from k15.plan import model
from k15.plan.job import TrainJob

HEAD_TILE_BYTES = 3 * (8 << 20)  # tiles of logits, their factors and gradients (k15.kernels.logprob)
EXPERT_IMBALANCE = 1.1  # tokens of the fullest expert rank over the mean, with a router that is not balanced by a loss


@dataclass(frozen=True)
class Parts:
    """Bytes of one rank. `workspace` goes with `activations`, `step` is the optimizer's own; `moments_in_backward`: do moments
    meet activations?"""

    weights: float
    gradients: float
    moments: float
    masters: float
    activations: float
    workspace: float
    step: float
    moments_in_backward: bool

    @property
    def static(self) -> float:
        """Held through a training phase."""
        return self.weights + self.gradients + self.masters

    @property
    def peak(self) -> float:
        """The higher of the backward pass and the optimizer's step."""
        backward = self.activations + self.workspace + self.moments * self.moments_in_backward
        return self.static + max(backward, self.moments + self.step)

    def table(self) -> dict[str, float]:
        """Bytes by part, as they are printed."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "moments_in_backward"}


def trainer(job: TrainJob, stage: int) -> Parts:
    """What a rank of pipeline stage `stage` holds."""
    held, b = model.held(job.shape, job.parallel, stage), job.dtype_bytes
    dense, expert = float(held.dense), float(held.expert)
    if job.parallel.distributed_optimizer:  # each copy keeps the state of its part
        dense, expert = dense / (job.data * job.parallel.context), expert / job.expert_data
    own = dense + expert
    masters = 4 * own if b < 4 else 0.0
    return Parts(
        weights=held.total * b,
        gradients=4.0 * held.total,
        moments=8 * own,
        masters=masters,
        activations=activations(job, stage),
        workspace=_workspace(job, stage),
        step=_step(job, stage, own, held.total),
        moments_in_backward=not (job.reset and job.steps == 1),
    )


def _step(job: TrainJob, stage: int, own: float, held: int) -> float:
    """Temporary memory of the optimizer's step: torch's AdamW makes two of its largest matrix, and gloo copies what it
    gathers; fused optimizers and NCCL need none."""
    if not job.local:
        return 0.0
    gathered = job.dtype_bytes * held if job.parallel.distributed_optimizer else 0.0
    return max(8 * min(own, _largest_matrix(job, stage)), gathered)


def worst_stage(job: TrainJob) -> tuple[int, Parts]:
    """(pipeline stage, its parts) with the highest peak. Stages between the second and the last hold ever less."""
    last = job.parallel.pipeline - 1
    found = {stage: trainer(job, stage) for stage in {0, min(1, last), last}}
    return max(found.items(), key=lambda item: item[1].peak)


def in_flight(job: TrainJob, stage: int) -> int:
    """Micro-batches whose activations a stage keeps at once in the 1F1B schedule."""
    return min(job.parallel.pipeline - stage, job.micro_batches)


def activations(job: TrainJob, stage: int) -> float:
    """Bytes that autograd keeps for all micro-batches in flight."""
    p, s = job.parallel, job.shape
    layers = range(stage * s.layers // p.pipeline, (stage + 1) * s.layers // p.pipeline)
    kinds = [n in s.sparse for n in layers]
    whole = {kind: layer_activations(job, kind) for kind in set(kinds)}
    inputs = job.pack_here * s.hidden * job.dtype_bytes / _sequence(job)
    flying = in_flight(job, stage)
    if p.recompute:
        kept = flying * len(kinds) * inputs + max(whole.values())
    else:
        kept = flying * sum(whole[kind] for kind in kinds)
    if stage == p.pipeline - 1:
        kept += 2 * inputs + job.pack_here * _responses(job) * s.hidden * job.dtype_bytes  # last norm, rows of the head
    if stage > 0:
        kept += flying * inputs  # received from the stage before
    return kept


def layer_activations(job: TrainJob, sparse: bool) -> float:
    """Bytes that autograd keeps of one layer for one full micro-batch."""
    s, tp, b, tokens = job.shape, job.parallel.tensor, job.dtype_bytes, job.pack_here
    norm = _norm_bytes(job) * s.hidden / _sequence(job)
    per_token = 2 * norm + attention_activations(job) * b
    if sparse:
        per_token += 3 * s.shared_intermediate / tp * b
        per_token += _expert_tokens(job) * (_expert_numbers(job) * b) + 4 * 4 * s.experts / _sequence(job)
    else:
        per_token += 4 * s.intermediate / tp * b  # both halves, the gate after SiLU, their product
    return tokens * per_token


def attention_activations(job: TrainJob) -> float:
    """Numbers a token that one layer's attention keeps: projections, rotated queries and keys, output."""
    s, tp = job.shape, job.parallel.tensor
    copies = 2 if job.local else 1  # the output as the kernel and as the projection have it
    if s.latent is not None:
        latent = s.latent
        rank = 0 if latent.query_rank is None else 2 * latent.query_rank
        heads = s.heads / tp * (2 * s.head_dim + 2 * (latent.plain + latent.value) + copies * latent.value)
        return rank + 2 * latent.kv_rank + latent.rotated + heads
    queries, keys = s.heads * s.head_dim / tp, s.kv_heads * s.head_dim / tp
    normed = 2 * (queries + keys) if s.qk_norm else 0
    return (queries + 2 * keys) + normed + (queries + keys) + copies * queries


def _norm_bytes(job: TrainJob) -> float:
    """Bytes for each number of the hidden state that a norm keeps: input (in fp32), output, and its value before the weight
    (torch's own keeps that in fp32 too, a fused one in bf16)."""
    return 3 * 4 if job.dtype_bytes == 4 else 4 + (4 if job.local else 0) + 2 * job.dtype_bytes


def _expert_numbers(job: TrainJob) -> float:
    """Numbers a routed token keeps: before and after the all-to-all, and inside its expert."""
    return 2 * job.shape.hidden + 5 * job.shape.expert_intermediate


def _expert_tokens(job: TrainJob) -> float:
    """Routed tokens that a rank's experts meet, over its tokens."""
    uneven = EXPERT_IMBALANCE if job.parallel.expert > 1 else 1.0
    return job.shape.experts_per_token * uneven / _sequence(job)


def _workspace(job: TrainJob, stage: int) -> float:
    """What lives besides activations at the worst moment of the backward pass."""
    s, p, b, tokens = job.shape, job.parallel, job.dtype_bytes, job.pack_here
    widest = max(s.intermediate / p.tensor, _expert_tokens(job) * s.expert_intermediate if s.experts else 0)
    layer = tokens * (3 * widest + 4 * s.hidden) * b + _largest_layer_matrix(job) * b
    if p.sequence_parallel:
        layer += tokens * s.hidden * b  # gathered again
    if s.experts:
        layer += 2 * tokens * _expert_tokens(job) * s.hidden * b  # dispatch and combine
    if stage < p.pipeline - 1 or s.scalar:
        return layer
    head = _head_matrix(job) * b + tokens * _responses(job) * s.hidden * (4 + b) + HEAD_TILE_BYTES
    return layer + head if job.local else max(layer, head)  # torch's tiles are still there: measured


def _sequence(job: TrainJob) -> int:
    """Over how many ranks the hidden state between layers is split."""
    return job.parallel.tensor if job.parallel.sequence_parallel else 1


def _responses(job: TrainJob) -> float:
    return job.response / job.length


def _head_matrix(job: TrainJob) -> float:
    return model.padded_vocab(job.shape.vocab, job.parallel.tensor) / job.parallel.tensor * job.shape.hidden


def _largest_layer_matrix(job: TrainJob) -> float:
    s = job.shape
    return 2 * s.hidden * max(s.intermediate / job.parallel.tensor, s.expert_intermediate)


def _largest_matrix(job: TrainJob, stage: int) -> float:
    ends = stage in (0, job.parallel.pipeline - 1)
    return max(_largest_layer_matrix(job), _head_matrix(job) if ends else 0.0)
