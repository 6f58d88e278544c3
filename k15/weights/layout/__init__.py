"""Names and shapes: Megatron-core parameters <-> Hugging Face tensors, one declarative table a model family.

tables   the rules           dims   a model's sizes           convert   shards into slices, and back
"""

from .convert import Slice, from_hf, global_name, hf_shapes, is_expert, megatron_names, to_hf
from .dims import Dims, read_dims
from .tables import FAMILIES, Rule

__all__ = [
    "FAMILIES",
    "Dims",
    "Rule",
    "Slice",
    "from_hf",
    "global_name",
    "hf_shapes",
    "is_expert",
    "megatron_names",
    "read_dims",
    "to_hf",
]
