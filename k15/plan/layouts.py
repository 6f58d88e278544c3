"""All layouts of the trainer that the model and the number of ranks allow, those that fit ranked by the time of a step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from k15.config.schema import ParallelConfig
from k15.errors import ConfigError
from k15.plan.job import TrainJob
from k15.plan.memory import Parts, worst_stage
from k15.plan.step import Machine, train_seconds
from k15.train.shape import ModelShape, check_layout


@dataclass(frozen=True)
class Layout:
    """One layout: the fullest rank's parts, and seconds of an iteration's training."""

    parallel: ParallelConfig
    parts: Parts
    seconds: float

    def words(self) -> str:
        """The settings that give it."""
        p = self.parallel
        named = {"tensor": p.tensor, "pipeline": p.pipeline, "expert": p.expert, "context": p.context}
        found = [f"parallel.{k}={v}" for k, v in named.items() if v > 1 or k == "tensor"]
        found += [f"parallel.{k}=true" for k in ("sequence_parallel", "recompute") if getattr(p, k)]
        return " ".join(found)


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def layouts(shape: ModelShape, ranks: int, like: ParallelConfig) -> Iterator[ParallelConfig]:
    """Every allowed TP x PP x EP x CP x recompute on `ranks` ranks; the rest is as in `like`. Tensor parallelism stays
    within a node, and is sequence-parallel where there is any."""
    for tensor in divisors(shape.kv_heads):
        if tensor > like.ranks_per_node:
            continue
        for pipeline in divisors(shape.layers):
            for context in divisors(shape.kv_heads // tensor):
                if ranks % (tensor * pipeline * context):
                    continue
                for expert in divisors(shape.experts) if shape.experts else (1,):
                    found = replace(like, tensor=tensor, pipeline=pipeline, context=context, expert=expert,
                                    sequence_parallel=tensor > 1, recompute=False)  # fmt: skip
                    try:
                        check_layout(shape, found, ranks)
                    except ConfigError:
                        continue
                    yield found
                    yield replace(found, recompute=True)


def ranked(job: TrainJob, machine: Machine, room: float) -> list[Layout]:
    """Layouts whose peak is at most `room` bytes, the quickest first; a rank must have work in every step."""
    found = []
    for parallel in layouts(job.shape, job.ranks, job.parallel):
        here = replace(job, parallel=parallel)
        if here.idle > 1:
            continue
        _, parts = worst_stage(here)
        if parts.peak <= room:
            found.append(Layout(parallel, parts, sum(train_seconds(here, machine).values())))
    return sorted(found, key=lambda layout: layout.seconds)
