"""Predictions beside measurements: memory as it is; step time with two machine constants fitted on half of the cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k15.config.schema import ParallelConfig
from k15.plan import memory, step
from k15.plan.job import TrainJob
from k15.train.shape import read_shape

_COUNTED = step.Machine(1.0, 1.0, float("inf"), float("inf"), 1)  # of one operation, one byte a second


@dataclass(frozen=True)
class Row:
    """One rank of one case. Seconds are of processor time at the mean speed of the reference product (`load` times it was
    slower here); `fitted`: the constants come from it."""

    case: str
    rank: int
    peak: float
    predicted_peak: float
    seconds: float | None
    predicted_seconds: float | None
    fitted: bool


def job_of(record: Mapping[str, Any]) -> TrainJob:
    """The planner's view of a measured case."""
    return TrainJob(
        read_shape(record["model"]), ParallelConfig(**record["parallel"]), record["world"], record["world"],
        4 if record["dtype"] == "float32" else 2, record["micro_batch_tokens"], record["sequences"], record["length"],
        record["length"] - record["prompt"], reset=False, local=True,
    )  # fmt: skip


def compare(records: Sequence[Mapping[str, Any]]) -> tuple[list[Row], dict[str, float]]:
    """All ranks, and the constants: share of the reference product's rate that a step's products reach, and bytes/s."""
    timed = [r for r in records if r["timed"]]
    mean = sum(k["reference_tflops"] for r in timed for k in r["ranks"]) / sum(len(r["ranks"]) for r in timed)
    points = {(r["name"], i): _point(r, k, mean) for r in timed for i, k in enumerate(r["ranks"])}
    fitting = {r["name"] for r in timed[::2]}
    per_operation, per_byte = _two_constants([p for (name, _), p in points.items() if name in fitting])
    rows = []
    for record in records:
        job = job_of(record)
        for i, rank in enumerate(record["ranks"]):
            point = points.get((record["name"], i))
            rows.append(Row(
                record["name"], i, rank["peak_bytes"], memory.trainer(job, rank["stage"]).peak,
                None if point is None else point[2],
                None if point is None else point[0] * per_operation + point[1] * per_byte, record["name"] in fitting,
            ))  # fmt: skip
    return rows, {"share": 1 / per_operation / (mean * 1e12), "bytes_s": 1 / per_byte, "reference_tflops": mean}


def _point(record: Mapping[str, Any], rank: Mapping[str, Any], mean: float) -> tuple[float, float, float]:
    """(operations, bytes beside them, processor seconds at the mean speed)."""
    job, stage = job_of(record), rank["stage"]
    moved = step.traffic(job, stage) + step.optimizer_seconds(job, _COUNTED, stage)
    done = step.compute_seconds(job, step.Machine(1.0, float("inf"), float("inf"), float("inf"), 1), stage)
    return done, moved, rank["cpu_s"]


def _two_constants(points: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Seconds an operation and a byte, with the least squared relative error."""
    rows = [(done / seconds, moved / seconds) for done, moved, seconds in points]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(r[i] for r in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    return (a * bb - b * ab) / determinant, (b * aa - a * ab) / determinant
