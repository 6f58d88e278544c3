"""Global parameter names of this rank, who exports which, and filling parameters from Hugging Face tensors."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from megatron.core import parallel_state as mpu
from torch import Tensor

from k15.weights import layout


def named_parameters(model) -> Iterator[tuple[str, Tensor]]:
    """(global name, this rank's shard) of every parameter, the last stage's copy of a tied embedding included; and of the
    routers' expert biases, which are weights of the model but buffers of Megatron's."""
    config = model.config
    layers = config.num_layers // config.pipeline_model_parallel_size
    experts = (config.num_moe_experts or 0) // config.expert_model_parallel_size
    first_layer = mpu.get_pipeline_model_parallel_rank() * layers
    first_expert = mpu.get_expert_model_parallel_rank() * experts
    biases = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith("router.expert_bias"))
    for name, parameter in chain(model.named_parameters(), biases):
        yield layout.global_name(name, first_layer, first_expert), parameter


def shard_of(name: str) -> tuple[int, int]:
    """(rank, size) of the group that splits this parameter: tensor parallel, or 0 of 1 for an expert."""
    if layout.is_expert(name):
        return 0, 1
    return mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()


def owns(name: str) -> bool:
    """Is this rank the one, among data-parallel copies of the parameter's shard, that exports it?"""
    if layout.is_expert(name):
        return mpu.get_expert_data_parallel_rank() == 0
    return mpu.get_data_parallel_rank(with_context_parallel=True) == 0


@torch.no_grad()
def fill(model, config: Mapping[str, Any], read: Callable[[str], Tensor], vocab_rows: int) -> None:
    """Set every parameter of this rank from `read`, which returns a full Hugging Face tensor by name."""
    for name, parameter in named_parameters(model):
        rank, size = shard_of(name)
        parameter.copy_(layout.from_hf(config, name, read, rank, size, vocab_rows))


def random_reader(config: Mapping[str, Any], seed: int) -> Callable[[str], Tensor]:
    """A `read` for a model that does not exist yet: normal(0, initializer_range) as in transformers, norms 1, biases 0.

    Each tensor has a generator of its own, seeded by the tensor's name: the same whatever the layout.
    """
    shapes = layout.hf_shapes(config)
    std = config.get("initializer_range", 0.02)

    def read(name: str) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name])
        if name.endswith("bias"):
            return torch.zeros(shapes[name])
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(shapes[name], generator=generator) * std

    return read
