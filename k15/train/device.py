"""The device layer: the one place where CPU and CUDA differ. On CUDA it adds one name to Megatron-core, `te_general_gemm`.

Megatron-core 0.16.1 names CUDA in literals (`device="cuda"`, `torch.cuda.current_device()`, "torch.cuda.FloatTensor").
On CPU, the modules listed in `_CUDA_MODULES` get a stand-in for their global `torch`: the same functions, except that
the tensor factories they call with a CUDA device make CPU tensors, and that `torch.cuda` is a small namespace of
no-ops. Nothing else in the process sees it, and no tensor operation pays for it.
"""

import datetime
import functools
import importlib
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

from k15.errors import ConfigError, unknown_name

_CUDA_MODULES = (
    "utils",
    "distributed.param_and_grad_buffer",
    "models.common.language_module.language_module",
    "optimizer.clip_grads",
    "optimizer.distrib_optimizer",
    "optimizer.optimizer",
    "pipeline_parallel.p2p_communication",
    "pipeline_parallel.schedules",
    "tensor_parallel.layers",
    "tensor_parallel.mappings",
    "tensor_parallel.random",
    "transformer.moe.experts",
    "transformer.moe.router",
    "transformer.moe.token_dispatcher",
)
_FACTORIES = ("empty", "full", "ones", "tensor", "zeros")
_patched = False


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """auto | cpu | cuda -> the device of this rank; auto takes CUDA where torch sees one."""
    if name not in ("auto", "cpu", "cuda"):
        raise unknown_name("cluster.device", name, ("auto", "cpu", "cuda"))
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("cluster.device is cuda, but torch sees no CUDA device. Use auto or cpu.")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"trainer rank {local_rank} of this node has no CUDA device of its own: torch sees {torch.cuda.device_count()}. "
            "Lower parallel.ranks_per_node or ask for more GPUs a node."
        )
    return torch.device("cuda", local_rank)


def init_distributed(device: torch.device, rank: int, world: int, master: str | None, timeout_s: float = 1800.0) -> None:
    """Start torch.distributed (gloo on CPU, NCCL on CUDA) and make Megatron-core usable without Transformer Engine and, on
    CPU, without CUDA.

    `master` is "host:port" of rank 0; None is allowed for a world of one. On CPU the interface is gloo's choice unless
    GLOO_SOCKET_IFNAME names one.
    """
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron's order of compute and communication
    _name_missing_gemm()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        patch_megatron_for_cpu()
    if dist.is_initialized():
        return
    timeout = datetime.timedelta(seconds=timeout_s)
    if master is None:
        if world != 1:
            raise ConfigError(f"a world of {world} ranks needs the address host:port of rank 0")
        store: dist.Store = dist.HashStore()
    else:
        host, port = master.rsplit(":", 1)
        store = dist.TCPStore(host, int(port), world, is_master=rank == 0, timeout=timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def patient_group() -> dist.ProcessGroup:
    """A group of all ranks to wait in, on the host, for commands and for each other's files: longer than a collective may take.
    Collective."""
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7))


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that host clocks measure it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def optimizer_types(device: torch.device):
    """Context for building a Megatron optimizer: it sorts parameters by the names of CUDA tensor types."""
    return nullcontext() if device.type == "cuda" else _cuda_type_names()


def _name_missing_gemm() -> None:
    """Megatron's router reads `te_general_gemm`, which only an import of Transformer Engine binds; None: torch's product."""
    from megatron.core.transformer.moe import moe_utils

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def patch_megatron_for_cpu() -> None:
    """Idempotent. Must run before the first Megatron object is built; raises nothing that is not a missing module."""
    global _patched
    if _patched:
        return
    stand_in = _torch_on_cpu()
    for name in _CUDA_MODULES:
        importlib.import_module(f"megatron.core.{name}").torch = stand_in
    _patch_functions()
    _patched = True


def _torch_on_cpu() -> types.ModuleType:
    """A module with torch's names, whose listed factories ignore a CUDA device and whose `cuda` does nothing."""
    stand_in = types.ModuleType("torch")
    stand_in.__dict__.update(torch.__dict__)
    stand_in.__getattr__ = lambda name: getattr(torch, name)  # lazily imported submodules
    for name in _FACTORIES:
        setattr(stand_in, name, _on_cpu(getattr(torch, name)))
    stand_in.cuda = _cuda_on_cpu()
    return stand_in


def _on_cpu(factory):
    @functools.wraps(factory)
    def make(*args, device=None, **kwargs):
        # pin_memory and the like pass through; only the device is ours.
        return factory(*args, device="cpu" if device is not None else None, **kwargs)

    return make


def _cuda_on_cpu() -> types.SimpleNamespace:
    def nothing(*_args, **_kwargs) -> None:
        return None

    class Stream:
        def wait_stream(self, _other) -> None: ...

        def synchronize(self) -> None: ...

        def record_event(self) -> "Stream":
            return self

    stream = Stream()
    return types.SimpleNamespace(
        current_device=lambda: torch.device("cpu"),
        synchronize=nothing,
        empty_cache=nothing,
        set_device=nothing,
        manual_seed=torch.manual_seed,
        get_rng_state=lambda *_: torch.get_rng_state(),
        Stream=lambda *_, **__: stream,
        current_stream=lambda *_: stream,
        default_stream=lambda *_: stream,
        stream=lambda *_: nullcontext(),
        is_available=lambda: False,
        is_current_stream_capturing=lambda: False,
        nvtx=types.SimpleNamespace(range_push=nothing, range_pop=nothing),
        OutOfMemoryError=torch.OutOfMemoryError,
    )


def _patch_functions() -> None:
    from megatron.core.optimizer import optimizer
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer.moe import token_dispatcher

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    optimizer.clip_grad_by_total_norm_fp32 = _clip_grads
    dispatcher = token_dispatcher.MoEAlltoAllTokenDispatcher
    original = dispatcher._maybe_dtoh_and_synchronize
    dispatcher._maybe_dtoh_and_synchronize = _splits_as_lists(original)
    # Called by LanguageModule on the tied embedding; there is no CUDA to move it to.
    torch.Tensor.cuda = lambda self, *_, **__: self


def _splits_as_lists(original):
    """gloo's all_to_all_single takes split sizes as lists of int only; CUDA builds get them from a copy to the host."""

    @functools.wraps(original)
    def convert(self, point, tokens_per_expert=None):
        tokens_per_expert = original(self, point, tokens_per_expert)
        for name in ("input_splits", "output_splits"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value.tolist())
        return tokens_per_expert

    return convert


def _clip_grads(parameters, max_norm: float, total_norm: float, use_decoupled_grad: bool = False) -> None:
    """Megatron's `clip_grad_by_total_norm_fp32` without its assertion that gradients are CUDA tensors."""
    assert not use_decoupled_grad, "the precision-aware optimizer needs Transformer Engine"
    scale = max_norm / (total_norm + 1.0e-6)
    if scale < 1.0:
        grads = [p.grad for p in ([parameters] if isinstance(parameters, Tensor) else parameters) if p.grad is not None]
        if grads:
            torch._foreach_mul_(grads, scale)


@contextmanager
def _cuda_type_names() -> Iterator[None]:
    """`Tensor.type()` says "torch.cuda.X" for a CPU tensor's "torch.X" while an optimizer is built."""
    original = torch.Tensor.type

    def type_name(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        return found.replace("torch.", "torch.cuda.") if isinstance(found, str) else found

    torch.Tensor.type = type_name
    try:
        yield
    finally:
        torch.Tensor.type = original
