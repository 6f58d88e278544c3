"""Which code the log-probs and the loss run, said and compiled before the first step, so that no step waits for a compiler."""

import time

import torch
from megatron.core import parallel_state as mpu

from k15.config.schema import AlgoConfig
from k15.errors import ConfigError
from k15.kernels import pmd
from k15.kernels.backend import choose
from k15.kernels.logprob import warm_up
from k15.log import get_logger

from .model import padded_vocab
from .shape import ModelShape

log = get_logger("train")


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
