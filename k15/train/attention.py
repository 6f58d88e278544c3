"""Attention over packed sequences: exact, causal, never across sequences; linear layers see no padding.

Shapes: T packed tokens, S sequences, N heads, G key-value heads, D head size, R entries of a head that are rotated.

Megatron's attention layer projects [T, 1, H] and hands query, key and value to `PackedAttention`, which rotates them
by each token's position in its own sequence and attends. On CUDA with flash-attn that is one variable-length call.
Elsewhere sequences of similar length form a bucket [S_b, L_b] padded on the RIGHT, where a causal mask alone is exact:
a real token never sees the padding after it. The layout is made once a micro-batch and shared by all layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import parallel_state as mpu
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from .context import gather_heads, gather_tokens
from .libraries import flash_attn_varlen_func, why_no_flash
from .shape import ModelShape, yarn_mscale

SHORTEST_IN_BUCKET = 0.75
"""A bucket's sequences are at least this fraction of its longest, so padding is below a quarter of attention's work."""
WHOLE_HEADS = ("cuda",)
"""Where grouped fp32 heads are copied: all that PyTorch has for them as they are stores [rows, N, L, L] on these devices."""


@dataclass(frozen=True)
class Bucket:
    """Tokens start..stop of the pack as [rows, width]; `slots` [stop-start] are their places in the flat bucket.

    `slots` is None where all sequences have the same length, so that a view is enough.
    """

    start: int
    stop: int
    rows: int
    width: int
    slots: Tensor | None


@dataclass(frozen=True)
class PackedLayout:
    """Where sequences lie in a pack and how their tokens are rotated. Travels as Megatron's `packed_seq_params`."""

    cu_seqlens: Tensor  # int32 [S+1]
    longest: int
    cos: Tensor  # fp32 [T, 1, R/2]
    sin: Tensor
    buckets: tuple[Bucket, ...]  # empty where flash-attn takes the pack as it is
    qkv_format: str = "packed"  # not "thd": Megatron must leave [T, 1, N, D] as it is


class Rotary:
    """Rotary angles as transformers computes them (default, linear, llama3, yarn), for any positions."""

    def __init__(self, shape: ModelShape, device: torch.device) -> None:
        exponent = torch.arange(0, shape.rotary_dim, 2, dtype=torch.int64).float() / shape.rotary_dim
        inv_freq = 1.0 / (shape.rope_theta**exponent)
        if shape.rope["rope_type"] == "linear":
            inv_freq = inv_freq / shape.rope["factor"]
        elif shape.rope["rope_type"] == "llama3":
            inv_freq = _llama3(inv_freq, shape.rope)
        self.scale = 1.0
        if shape.rope["rope_type"] == "yarn":
            inv_freq, self.scale = _yarn(inv_freq, shape)
        self.inv_freq = inv_freq.to(device)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [T] -> (cos, sin), each fp32 [T, 1, R/2]."""
        angle = positions.float()[:, None, None] * self.inv_freq
        return angle.cos() * self.scale, angle.sin() * self.scale


def _llama3(inv_freq: Tensor, rope) -> Tensor:
    """Llama 3.1's scaling: low frequencies divided by `factor`, high ones kept, a smooth step between."""
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    old = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / inv_freq
    smooth = (old / wavelength - low) / (high - low)
    middle = (1 - smooth) * inv_freq / factor + smooth * inv_freq
    scaled = torch.where(wavelength > old / low, inv_freq / factor, inv_freq)
    return torch.where((wavelength <= old / low) & (wavelength >= old / high), middle, scaled)


def _yarn(inv_freq: Tensor, shape: ModelShape) -> tuple[Tensor, float]:
    """Yarn (arXiv 2309.00071, sections 3.2-3.4): slow entries interpolated, fast ones kept, a ramp between; and the factor
    on cos and sin."""
    rope, dim = shape.rope, shape.rotary_dim

    def entry(turns: float) -> float:
        """The entry that turns so often over the context that the model was first trained for."""
        old = rope["original_max_position_embeddings"]
        return dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(shape.rope_theta))

    low = max(math.floor(entry(rope.get("beta_fast") or 32)), 0)
    high = min(math.ceil(entry(rope.get("beta_slow") or 1)), dim - 1)
    ramp = ((torch.arange(dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    scale, mscale, every = rope.get("attention_factor"), rope.get("mscale"), rope.get("mscale_all_dim")
    if scale is None and mscale and every:
        scale = yarn_mscale(rope["factor"], mscale) / yarn_mscale(rope["factor"], every)
    elif scale is None:
        scale = yarn_mscale(rope["factor"], 1.0)
    return inv_freq / rope["factor"] * ramp + inv_freq * (1 - ramp), scale


def make_layout(lengths: Sequence[int], rotary: Rotary, device: torch.device, dtype: torch.dtype = torch.float32) -> PackedLayout:
    """The layout of sequences of these lengths (>= 1), packed in this order (longest first packs best)."""
    sizes = torch.tensor(lengths, dtype=torch.int64)
    ends = sizes.cumsum(0)
    starts = ends - sizes
    positions = torch.arange(int(ends[-1])) - starts.repeat_interleave(sizes)
    cos, sin = rotary(positions.to(device))
    cu_seqlens = F.pad(ends, (1, 0)).to(device, torch.int32)
    buckets = () if why_no_flash(device, dtype) is None else _buckets(lengths, starts, positions, sizes, device)
    return PackedLayout(cu_seqlens, max(lengths), cos, sin, buckets)


def _buckets(lengths, starts: Tensor, positions: Tensor, sizes: Tensor, device: torch.device) -> tuple[Bucket, ...]:
    buckets = []
    first = 0
    while first < len(lengths):
        longest = shortest = lengths[first]
        last = first + 1
        while last < len(lengths):
            high, low = max(longest, lengths[last]), min(shortest, lengths[last])
            if low < SHORTEST_IN_BUCKET * high:
                break
            longest, shortest, last = high, low, last + 1
        start, stop = int(starts[first]), int(starts[last - 1]) + lengths[last - 1]
        slots = None
        if shortest < longest:
            row = torch.arange(last - first).repeat_interleave(sizes[first:last])
            slots = (row * longest + positions[start:stop]).to(device)
        buckets.append(Bucket(start, stop, last - first, longest, slots))
        first = last
    return tuple(buckets)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, N, D], halves paired as in transformers; computed in fp32, returned in x's type."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class PackedAttention(MegatronModule):
    """Megatron's core attention for packed sequences; see the module's head. Holds no parameters."""

    def __init__(self, config, layer_number, attn_mask_type, attention_type, softmax_scale=None, **_groups) -> None:
        super().__init__(config=config)
        assert attention_type == "self" and softmax_scale is None, "only plain self-attention is built here"

    def forward(self, query, key, value, attention_mask, /, *, packed_seq_params: PackedLayout, **_unused) -> Tensor:
        """query [T, 1, N, D], key and value [T, 1, G, D] -> [T, 1, N * D]; T/C each with context parallelism."""
        layout, group = packed_seq_params, mpu.get_context_parallel_group()
        q, k, v = (gather_tokens(x.squeeze(1), group) for x in (query, key, value))
        q, k = rotate(q, layout.cos, layout.sin), rotate(k, layout.cos, layout.sin)
        out = gather_heads(attend(q, k, v, layout), group)
        return out.reshape(out.shape[0], 1, -1)


def attend(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scale: float | None = None) -> Tensor:
    """Rotated q [T, N, D], k and v [T, G, D] -> [T, N, D]. `scale` of the softmax; None: D ** -0.5."""
    if not layout.buckets:
        cu, longest = layout.cu_seqlens, layout.longest
        return flash_attn_varlen_func(q, k, v, cu, cu, longest, longest, causal=True, softmax_scale=scale)
    parts = [_bucket_attention(q, k, v, bucket, scale) for bucket in layout.buckets]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _bucket_attention(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float | None) -> Tensor:
    """[T, N, D], [T, G, D] -> the bucket's tokens [stop-start, N, D]."""

    def spread(x: Tensor) -> Tensor:
        x = x[bucket.start : bucket.stop]
        if bucket.slots is not None:
            x = x.new_zeros(bucket.rows * bucket.width, *x.shape[1:]).index_copy(0, bucket.slots, x)
        return x.view(bucket.rows, bucket.width, *x.shape[1:]).transpose(1, 2)

    grouped = q.shape[1] != k.shape[1]
    if grouped and q.dtype == torch.float32 and q.device.type in WHOLE_HEADS:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        grouped = False
    out = F.scaled_dot_product_attention(spread(q), spread(k), spread(v), is_causal=True, enable_gqa=grouped, scale=scale)
    out = out.transpose(1, 2).reshape(bucket.rows * bucket.width, *q.shape[1:])
    return out if bucket.slots is None else out.index_select(0, bucket.slots)
