"""Global parameter names of this rank, who exports which, and filling parameters from Hugging Face tensors."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from megatron.core import parallel_state as mpu
from torch import Tensor

from k15.weights import layout

_LAYER = re.compile(r"(?<=decoder\.layers\.)(\d+)(?=\.)")
_EXPERT = re.compile(r"(?<=local_experts\.)(\d+)(?=\.)")


def global_name(name: str, layers_here: int, experts_here: int) -> str:
    """A module's parameter name with the layer and expert numbers of the whole model."""
    first_layer = mpu.get_pipeline_model_parallel_rank() * layers_here
    first_expert = mpu.get_expert_model_parallel_rank() * experts_here
    name = _LAYER.sub(lambda m: str(int(m[1]) + first_layer), name)
    return _EXPERT.sub(lambda m: str(int(m[1]) + first_expert), name)


def named_parameters(model) -> Iterator[tuple[str, Tensor]]:
    """(global name, this rank's shard) of every parameter, the last stage's copy of a tied embedding included."""
    config = model.config
    layers = config.num_layers // config.pipeline_model_parallel_size
    experts = (config.num_moe_experts or 0) // config.expert_model_parallel_size
    for name, parameter in model.named_parameters():
        yield global_name(name, layers, experts), parameter


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
        if name.endswith(".bias"):
            return torch.zeros(shapes[name])
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(shapes[name], generator=generator) * std

    return read
