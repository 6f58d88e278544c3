"""Multi-head latent attention (DeepSeek-V2 report 2.1) over packed sequences, under Megatron's parameter names.

Shapes: T packed tokens (of this rank, with context or sequence parallelism), N heads of this tensor-parallel rank, P and R
unrotated and rotated entries of a query or key head, V of a value head, KL and QL compressed key-value and query.

    hidden ─ kv_down ─┬─ norm ─ kv_up ─▶ key [N, P], value [N, V]        hidden ─ q_proj, or q_down ─ norm ─ q_up ─▶ query
                      └─ rotated key [R], one for all heads

Megatron's own module rotates by the position in the pack, not in the sequence, and with its local linear layers leaves the
rotated key's gradient unsummed over tensor-parallel ranks; hence this one. The down projections are whole on every rank.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import parallel_state as mpu
from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region, gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import MLATransformerConfig
from torch import Tensor

from .attention import PackedLayout, attend, rotate
from .context import gather_heads, gather_tokens

NORM_EPS = 1e-6
"""Of the two inner norms, whatever rms_norm_eps is: DeepSeek's own code and transformers leave it at this default."""


@dataclass(frozen=True)
class LatentSubmodules:
    """The backend's split linear layers, and the norm."""

    column: type
    row: type
    norm: type


class Replicated(torch.nn.Linear):
    """A linear layer whole on every tensor-parallel rank; its gradient is summed where ranks see different tokens."""

    def __init__(self, config: MLATransformerConfig, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class LatentAttention(MegatronModule):
    """Stands where Megatron's MLASelfAttention would. `softmax_scale`: yarn's scale included."""

    def __init__(
        self,
        config: MLATransformerConfig,
        layer_number: int,
        submodules: LatentSubmodules,
        softmax_scale: float,
        pg_collection=None,
        **_unused,
    ) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale
        self.heads = config.num_attention_heads // config.tensor_model_parallel_size
        query = config.num_attention_heads * (config.qk_head_dim + config.qk_pos_emb_head_dim)
        shared = {"config": config, "skip_bias_add": True, "is_expert": False, "tp_group": mpu.get_tensor_model_parallel_group()}
        column = {"init_method": config.init_method, "bias": False, "gather_output": False, **shared}
        hidden, rank = config.hidden_size, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.linear_q_proj = submodules.column(hidden, query, **column)
        else:
            self.linear_q_down_proj = Replicated(config, hidden, config.q_lora_rank)
            self.q_layernorm = submodules.norm(config, config.q_lora_rank, eps=NORM_EPS)
            self.linear_q_up_proj = submodules.column(config.q_lora_rank, query, **column)
        self.linear_kv_down_proj = Replicated(config, hidden, rank + config.qk_pos_emb_head_dim)
        self.kv_layernorm = submodules.norm(config, rank, eps=NORM_EPS)
        outputs = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
        self.linear_kv_up_proj = submodules.column(rank, outputs, **column)
        row = {"init_method": config.output_layer_init_method, "bias": False, "input_is_parallel": True, **shared}
        self.linear_proj = submodules.row(config.num_attention_heads * config.v_head_dim, hidden, **row)

    def forward(self, hidden: Tensor, attention_mask=None, *, packed_seq_params: PackedLayout, **_unused):
        """hidden [T, 1, H] -> (output [T, 1, H], no bias)."""
        layout, group = packed_seq_params, mpu.get_context_parallel_group()
        q, k, v = (gather_tokens(x, group) for x in self._project(hidden))
        value = v.shape[-1]
        q, k = self._rotated(q, layout), self._rotated(k, layout)
        v = F.pad(v, (0, k.shape[-1] - value))  # flash kernels want one size; the padding's output is dropped
        out = gather_heads(attend(q, k, v, layout, self.softmax_scale)[..., :value], group)
        return self.linear_proj(out.reshape(out.shape[0], 1, -1))

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unrotated query [T, N, P + R], key [T, N, P + R] and value [T, N, V]; T of all of a sequence-parallel group."""
        c = self.config
        if c.q_lora_rank is None:
            q, _ = self.linear_q_proj(hidden)
        else:
            q, _ = self.linear_q_up_proj(self.q_layernorm(self.linear_q_down_proj(hidden)))
        compressed, turning = self.linear_kv_down_proj(hidden).split([c.kv_lora_rank, c.qk_pos_emb_head_dim], dim=-1)
        # Each rank uses the rotated key for its own heads only: its gradient is the sum over the ranks.
        group = mpu.get_tensor_model_parallel_group()
        if c.sequence_parallel:
            turning = gather_from_sequence_parallel_region(turning, group=group)
        else:
            turning = copy_to_tensor_model_parallel_region(turning, group=group)
        kv, _ = self.linear_kv_up_proj(self.kv_layernorm(compressed))
        k, v = kv.view(-1, self.heads, c.qk_head_dim + c.v_head_dim).split([c.qk_head_dim, c.v_head_dim], dim=-1)
        k = torch.cat((k, turning.expand(-1, self.heads, -1)), dim=-1)
        return q.view(-1, self.heads, q.shape[-1] // self.heads), k, v

    def _rotated(self, x: Tensor, layout: PackedLayout) -> Tensor:
        """x [T, N, P + R] with its last R entries rotated; checkpoints pair neighbours, not halves."""
        plain, turning = x.split([self.config.qk_head_dim, self.config.qk_pos_emb_head_dim], dim=-1)
        halves = torch.cat((turning[..., 0::2], turning[..., 1::2]), dim=-1)
        return torch.cat((plain, rotate(halves, layout.cos, layout.sin)), dim=-1)
