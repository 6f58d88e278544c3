"""Peak memory and processor time of real trainer ranks on CPU, one configuration after another.

Memory: peak resident memory of a rank (VmHWM, reset before the trainer is built) minus what was resident then, after a tiny
trainer of the same layout had run (libraries, process groups). glibc gets a fixed mmap threshold, so that freed tensors are
given back at once and resident memory is tensor bytes. Time: processor time of a rank's second step, on one thread, and of a
reference matrix product right before and after it, since the machine may be shared.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_REFERENCE = (512, 512, 1408)  # rows, inner size, columns of the reference product


@dataclass(frozen=True)
class Case:
    """One configuration: `model` is a config.json; `sequences` of `length` tokens, `prompt` of which are the prompt's."""

    name: str
    model: dict[str, Any]
    parallel: dict[str, Any] = field(default_factory=dict)
    world: int = 1
    micro_batch_tokens: int = 512
    sequences: int = 8
    length: int = 256
    prompt: int = 32
    dtype: str = "float32"
    timed: bool = True


def dense(hidden: int, layers: int, intermediate: int, vocab: int = 8192, heads: int = 8, kv_heads: int = 2, **more: Any) -> dict:
    """A Qwen2-shaped config.json."""
    return {
        "model_type": "qwen2", "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": intermediate,
        "vocab_size": vocab, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": False,
        "max_position_embeddings": 4096, "hidden_act": "silu",
    } | more  # fmt: skip


def sparse(hidden: int, layers: int, expert: int, experts: int = 8, chosen: int = 2) -> dict:
    """A Qwen3-MoE-shaped config.json."""
    return dense(hidden, layers, expert) | {
        "model_type": "qwen3_moe", "head_dim": hidden // 8, "num_experts": experts, "num_experts_per_tok": chosen,
        "moe_intermediate_size": expert, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip


_BASE, _WIDE, _DEEP = dense(512, 8, 1408), dense(768, 4, 2048), dense(384, 12, 1024)
CASES = (
    Case("base", _BASE),
    Case("recompute", _BASE, {"recompute": True}),
    Case("large packs", _BASE, micro_batch_tokens=1024),
    Case("wide", _WIDE),
    Case("deep", _DEEP),
    Case("large vocabulary", dense(384, 4, 1024, vocab=32768)),
    Case("long sequences", dense(512, 4, 1408), micro_batch_tokens=1024, sequences=2, length=1024),
    Case("tensor 2", _BASE, {"tensor": 2}, 2),
    Case("tensor 2, sequence parallel", _WIDE, {"tensor": 2, "sequence_parallel": True}, 2),
    Case("pipeline 2", _DEEP, {"pipeline": 2}, 2),
    Case("pipeline 2, recompute", _BASE, {"pipeline": 2, "recompute": True}, 2),
    Case("data 2", _DEEP, world=2),
    Case("data 2, whole optimizer", _WIDE, {"distributed_optimizer": False}, 2),
    Case("experts", sparse(384, 4, 512)),
    Case("experts 2", sparse(384, 4, 512), {"expert": 2}, 2),
    Case("bfloat16", dense(384, 6, 1024), dtype="bfloat16", sequences=2, timed=False),
)  # fmt: skip
SMALL = Case("small", dense(512, 3, 1408, vocab=4096), sequences=4)  # for the test; by name only


def measure(case: Case, folder: Path) -> list[dict[str, Any]]:
    """What each rank measured: peak_bytes, cpu_s of a step, reference_tflops around it, parameters, stage."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    import k15.train.trainer  # noqa: F401  before the fork, once for all ranks and cases

    started = multiprocessing.get_context("fork")
    ranks = [started.Process(target=_rank, args=(case, rank, port, folder)) for rank in range(case.world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"a rank of {case.name!r} failed: exit codes {[p.exitcode for p in ranks]}")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(case.world)]


def _rank(case: Case, rank: int, port: int, folder: Path) -> None:
    import torch
    from megatron.core import parallel_state as mpu

    from k15.train.device import init_distributed

    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 16)
    torch.set_num_threads(1)
    init_distributed(torch.device("cpu"), rank, case.world, f"127.0.0.1:{port}", timeout_s=600)
    tiny = case.model | {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 128}
    tiny |= {"head_dim": 8, "moe_intermediate_size": 64} if "num_experts" in tiny else {}
    _steps(_trainer(tiny, case), case, 1)
    _reference()
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _status("VmRSS")
    trainer = _trainer(case.model, case)
    _steps(trainer, case, 1)
    references = [_reference()]
    cpu_s = _steps(trainer, case, 1)
    references.append(_reference())
    found = {
        "peak_bytes": _status("VmHWM") - before, "cpu_s": cpu_s, "reference_tflops": sum(references) / 2,
        "parameters": sum(p.numel() for p in trainer.model.parameters()), "stage": mpu.get_pipeline_model_parallel_rank(),
    }  # fmt: skip
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()


def _trainer(model: dict[str, Any], case: Case):
    import torch

    from k15.config.schema import AlgoConfig, ParallelConfig
    from k15.train.trainer import Trainer

    trainer = Trainer(
        model, parallel=ParallelConfig(**case.parallel), algo=AlgoConfig(micro_batch_tokens=case.micro_batch_tokens),
        dtype=case.dtype, device=torch.device("cpu"), seed=0,
    )  # fmt: skip
    trainer.init_random(1)
    return trainer


def _steps(trainer, case: Case, count: int) -> float:
    """Processor seconds of `count` supervised steps on this rank."""
    from random import Random

    from k15.types import Sample

    random, vocab = Random(0), trainer.shape.vocab
    response = case.length - case.prompt
    samples = [
        Sample(tuple(random.randrange(vocab) for _ in range(case.length)), case.prompt, (1,) * response, group=i)
        for i in range(case.sequences)
    ]
    started = time.process_time()
    for _ in range(count):
        trainer.sft_step(samples, 1e-4)
    return time.process_time() - started


def _reference(seconds: float = 0.5) -> float:
    """TFLOP/s of processor time of the reference matrix product on this thread."""
    import torch

    m, k, n = _REFERENCE
    a, b = torch.ones(m, k), torch.ones(k, n)
    count, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        torch.mm(a, b)
        count += 1
    return count * 2e-12 * m * k * n / (time.process_time() - started)


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def as_record(case: Case) -> dict[str, Any]:
    """The configuration for a result file."""
    return asdict(case)


def main(words: list[str], out: Path) -> None:
    """Measure the cases named in `words` (all without) and append a line of JSON for each to `out`."""
    import tempfile

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for case in (*CASES, SMALL):
        if case.name not in words if words else case is SMALL:
            continue
        with tempfile.TemporaryDirectory() as folder, out.open("a") as lines:
            row = as_record(case) | {"ranks": measure(case, Path(folder))}
            lines.write(json.dumps(row) + "\n")
        print(f"  {case.name:28s} {[round(r['peak_bytes'] / 1e6) for r in row['ranks']]} MB, "
              f"{[round(r['cpu_s'], 1) for r in row['ranks']]} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    import sys

    main(sys.argv[2:], Path(sys.argv[1]))
