"""Moonshot's own `checkpoint-engine` (0.4.2) on the same weights: rank 0 trains, rank 1 is another node; both fill an engine.

As shipped it is for CUDA. The adapter below gives it gloo, the CPU as device, a buffer in shared memory in place of an IPC
handle, and Mooncake over TCP; what it does is otherwise its own. Run as `python -m benchmarks.handoff.moonshot GIGABYTES DTYPE`.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.handoff.transfer import GateError
from benchmarks.handoff.weights import Trainer, shape_of
from benchmarks.machine import for_modules

ROUNDS = 4
BUCKET_GB = "0.25"
MISSING = "checkpoint-engine is not installed: pip install --no-deps checkpoint-engine==0.4.2"


def measure(gigabytes: float, dtype: str) -> dict[str, Any]:
    """Best seconds of several rounds by part, or why there are none. Raises GateError for wrong weights."""
    if importlib.util.find_spec("checkpoint_engine") is None:
        return {"skipped": MISSING}
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PS_MAX_BUCKET_SIZE_GB": BUCKET_GB,
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "LOGURU_LEVEL": "ERROR",
    }  # fmt: skip
    argv = [sys.executable, "-m", "benchmarks.handoff.moonshot", str(gigabytes), dtype]
    ranks = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **for_modules(**env, RANK=str(r))) for r in (0, 1)]
    try:
        outputs = [p.communicate(timeout=400)[0] for p in ranks]
    finally:
        for p in ranks:
            p.kill()
    if any(p.returncode for p in ranks):
        raise GateError(f"checkpoint-engine ended with codes {[p.returncode for p in ranks]}")
    lines = [json.loads(next(line for line in out.splitlines() if line.startswith("{"))) for out in outputs]
    return {key: min(run[key] for run in lines[1]["rounds"]) for key in lines[1]["rounds"][0]} | {
        "register_s": min(run["register_s"] for run in lines[0]["rounds"]), "bytes": lines[0]["bytes"],
    }  # fmt: skip


class Devices:
    """What checkpoint-engine asks of CUDA, answered for the CPU."""

    device_type, backend, transfer_engine_protocol = "cpu", "gloo", "tcp"

    def __init__(self) -> None:
        rank = os.environ["RANK"]
        nothing = dict.fromkeys(("set_device", "empty_cache", "synchronize", "ipc_collect"), lambda *_: None)
        self.device_module = SimpleNamespace(
            **nothing, device_count=lambda: 1, memory_allocated=lambda: 0, memory_reserved=lambda: 0,
            get_device_properties=lambda _: SimpleNamespace(uuid=f"{os.environ['MASTER_PORT']}-{rank}"),
            mem_get_info=lambda: (3 << 30, 8 << 30),
        )  # fmt: skip

    def rdma_device(self, rank: int) -> str:
        return ""


def share(buffer: torch.Tensor) -> tuple[Any, tuple]:
    """A handle by which another process maps `buffer`."""
    buffer.share_memory_()
    return rebuild, buffer.untyped_storage()._share_filename_cpu_()


def rebuild(manager: bytes, handle: bytes, size: int) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared_filename_cpu(manager, handle, size))


def adapt() -> Any:
    """checkpoint_engine.ps with the CPU's answers."""
    from checkpoint_engine import p2p_store, ps, worker

    torch.multiprocessing.set_sharing_strategy("file_system")
    for module in (ps, worker, p2p_store):
        module.DeviceManager = Devices
    for module in (ps, p2p_store):
        module.get_ip = lambda: "127.0.0.1"
    ps.reduce_tensor = share
    empty = torch.empty
    torch.empty = lambda *args, pin_memory=False, **kwargs: empty(*args, **kwargs)  # there is no device to pin for
    torch._C._host_emptyCache = lambda: None
    return ps


def rank_main(gigabytes: float, dtype: str) -> None:
    """One rank: register, gather, update by broadcast, update of rank 1 alone by Mooncake."""
    import zmq

    ps = adapt()
    from checkpoint_engine.worker import update_weights_from_ipc

    rank = int(os.environ["RANK"])
    trainer = Trainer(shape_of(gigabytes, getattr(torch, dtype)), getattr(torch, dtype))
    engine = {piece.name: torch.zeros_like(piece.tensor) for piece in trainer.slices()}
    server = ps.ParameterServer(auto_pg=False)
    server.init_process_group()
    context = zmq.Context()

    def load(weights: list[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            engine[name].copy_(tensor)

    def ask(paths: list[tuple[str, str]]) -> None:
        mine = next(path for uuid, path in paths if uuid.endswith(f"-{rank}"))
        update_weights_from_ipc(context, mine, None, run=load)

    rounds = []
    for i in range(ROUNDS):
        trainer.step()
        torch.distributed.barrier()
        start = time.perf_counter()
        if rank == 0:
            named = {piece.name: piece.tensor for piece in trainer.slices()}
            server.register_checkpoint(f"v{i}", named_tensors=named, use_shared_memory_pool=True)
        registered = time.perf_counter()
        server.gather_metas(f"v{i}")
        gathered = time.perf_counter()
        server.update(f"v{i}", ask)
        broadcast = time.perf_counter()
        _check(engine, trainer)
        for tensor in engine.values():
            tensor.zero_()
        torch.distributed.barrier()
        start_p2p = time.perf_counter()
        server.update(f"v{i}", ask, ranks=[1])
        torch.distributed.barrier()  # its own holds rank 0 back at the first update only
        ended = time.perf_counter()
        if rank == 1:
            _check(engine, trainer)
        if rank == 0:
            server.unregister_checkpoint(f"v{i}")
        rounds.append({
            "register_s": registered - start, "gather_s": gathered - registered, "broadcast_update_s": broadcast - gathered,
            "mooncake_update_s": ended - start_p2p,
        })  # fmt: skip
    print(json.dumps({"rounds": rounds, "bytes": sum(t.nbytes for t in engine.values())}), flush=True)


def _check(engine: dict[str, torch.Tensor], trainer: Trainer) -> None:
    for piece in trainer.slices():
        if not torch.equal(engine[piece.name], piece.tensor):
            raise GateError(f"{piece.name} arrived wrong")


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank_main(float(sys.argv[1]), sys.argv[2])
