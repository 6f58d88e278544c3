"""Which code the layers, the log-probs and the loss run, said before the first step; kernels are compiled then, so that no step
waits for a compiler."""

import time

import torch
from megatron.core import parallel_state as mpu

from k15.config.schema import AlgoConfig
from k15.errors import ConfigError
from k15.kernels import pmd
from k15.kernels.backend import choose
from k15.kernels.logprob import warm_up
from k15.log import get_logger

from .libraries import why_no_flash, why_no_transformer_engine
from .model import padded_vocab
from .shape import ModelShape

log = get_logger("train")


def say_layers(dtype: torch.dtype, device: torch.device) -> None:
    """One line on CUDA, where a library that does not import costs time and nothing else would tell."""
    if device.type != "cuda":
        return
    chosen = (
        ("attention", "flash-attn", "PyTorch's", why_no_flash(device, dtype)),
        ("linear layers", "Transformer Engine's", "Megatron-core's", why_no_transformer_engine(device, dtype)),
    )
    log.info("; ".join(f"{what}: {best if why is None else f'{other} ({why})'}" for what, best, other, why in chosen))


def prepare_kernels(shape: ModelShape, algo: AlgoConfig, tensor: int, dtype: torch.dtype, device: torch.device) -> str:
    """ "triton" or "torch": what `algo.kernels` means on this device; Triton's kernels are compiled on a GPU.

    Raises ConfigError where `algo.kernels` is unknown or cannot run here.
    """
    try:
        path = choose(algo.kernels, device, "log-probs and loss")
    except ValueError as error:
        raise ConfigError(f"algo.kernels={algo.kernels}: {error}") from None
    start = time.perf_counter()
    compiled = path == "triton" and device.type == "cuda" and mpu.is_pipeline_last_stage()
    if compiled:
        rows = padded_vocab(shape, tensor) // tensor
        valid = min(rows, shape.vocab - mpu.get_tensor_model_parallel_rank() * rows)
        warm_up(device, dtype, shape.hidden, valid, backend=algo.kernels)
        pmd.warm_up(device, backend=algo.kernels)
    took = f"; compiled in {time.perf_counter() - start:.1f} s" if compiled else ""
    log.info("kernels of log-probs and loss: %s on %s (algo.kernels=%s)%s", path, device.type, algo.kernels, took)
    return path
