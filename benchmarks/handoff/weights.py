"""Synthetic weights of a Qwen2.5-0.5B shape in Megatron's layout, and their slices under Hugging Face names."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from k15.weights import layout
from k15.weights.layout import Slice

SHAPE: dict[str, Any] = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "rope_theta": 1000000.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "torch_dtype": "float32",
}  # fmt: skip


def shape_of(gigabytes: float | None, dtype: torch.dtype) -> dict[str, Any]:
    """The 0.5 B shape, or with as many of its layers (and as much of its vocabulary) as `gigabytes` hold."""
    if gigabytes is None:
        return dict(SHAPE)
    elements = gigabytes * 1e9 / dtype.itemsize
    per_layer = _elements({**SHAPE, "num_hidden_layers": 1}) - _elements({**SHAPE, "num_hidden_layers": 0})
    vocab = min(SHAPE["vocab_size"], max(1024, int(elements / 4 / SHAPE["hidden_size"]) // 128 * 128))
    layers = max(1, round((elements - vocab * SHAPE["hidden_size"]) / per_layer))
    return {**SHAPE, "num_hidden_layers": layers, "vocab_size": vocab}


def _elements(config: dict[str, Any]) -> int:
    return sum(math.prod(shape) for shape in layout.hf_shapes(config).values())


class Trainer:
    """One tensor-parallel rank's parameters, as Megatron holds them (fused QKV and gate-up)."""

    def __init__(self, config: dict[str, Any], dtype: torch.dtype, tp_rank: int = 0, tp_size: int = 1, seed: int = 0) -> None:
        self.config, self.tp = config, (tp_rank, tp_size)
        shapes = layout.hf_shapes(config)
        generator = torch.Generator().manual_seed(seed)

        def read(name: str) -> torch.Tensor:
            if name.endswith("norm.weight"):
                return torch.ones(shapes[name], dtype=dtype)
            return torch.empty(shapes[name], dtype=dtype).normal_(0.0, 0.02, generator=generator)

        multiple = 8 * tp_size
        padded = -(-config["vocab_size"] // multiple) * multiple
        names = layout.megatron_names(config)
        self.parameters = {name: layout.from_hf(config, name, read, tp_rank, tp_size, padded) for name in names}

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.parameters.values())

    def slices(self) -> Iterator[Slice]:
        for name, tensor in self.parameters.items():
            yield from layout.to_hf(self.config, name, tensor, *self.tp)

    def step(self) -> None:
        """Change every parameter, so that a stale byte shows."""
        for tensor in self.parameters.values():
            tensor.add_(0.001)
