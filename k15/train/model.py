"""Build a Megatron-core GPT model from a Hugging Face config, whose forward ends at the hidden states.

Parameter names are those of Megatron's local layer spec on every device (with Transformer Engine only the linear layers
are replaced, and norms stay separate), so that one table maps them to Hugging Face names.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state as mpu
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from k15.config.schema import ParallelConfig
from k15.weights.layout import is_expert

from .attention import PackedAttention, PackedLayout
from .latent import LatentAttention, LatentSubmodules
from .libraries import why_no_transformer_engine
from .shape import ModelShape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RMSNorm(torch.nn.Module):
    """Root mean square norm in fp32; Megatron's own torch norm refuses sequence parallelism.

    Marks its weight so that Megatron sums the gradient over a sequence-parallel group.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_unused) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden_size] -> the same shape and type."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return self.weight * F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)


class HiddenModel(GPTModel):
    """Megatron's GPT without rotary, logits and loss: packed tokens in, hidden states out.

    Rotary embedding is applied inside `PackedAttention`; logits are never made (see `loss.py`).
    """

    def forward(self, tokens: Tensor, layout: PackedLayout) -> Tensor:
        """tokens [T] -> hidden [T, 1, H] of this pipeline stage; [T / tensor, 1, H] with sequence parallelism
        (T here is this rank's share where there is context parallelism)."""
        hidden = self.embedding(input_ids=tokens[None], position_ids=None) if self.pre_process else None
        return self.decoder(hidden_states=hidden, attention_mask=None, packed_seq_params=layout)

    def output_weight(self) -> Tensor:
        """This rank's rows of the vocabulary projection [V_padded / tensor, H]; on the last pipeline stage."""
        assert self.post_process, "only the last pipeline stage has the output weight"
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.output_layer.weight


def padded_vocab(shape: ModelShape, tensor: int) -> int:
    """Vocabulary rows that Megatron allocates: the next multiple of the tensor-parallel size."""
    return math.ceil(shape.vocab / tensor) * tensor


def build_model(
    shape: ModelShape, parallel: ParallelConfig, *, dtype: torch.dtype, device: torch.device, seed: int
) -> HiddenModel:
    """This rank's part of the model, uninitialised apart from norms (load or `init_random` fills it).

    Megatron's process groups must exist (`initialise_model_parallel`).
    """
    model_parallel_cuda_manual_seed(seed)
    config = transformer_config(shape, parallel, dtype=dtype, device=device)
    model = HiddenModel(
        config=config,
        transformer_layer_spec=_block_spec(shape, config, device),
        vocab_size=padded_vocab(shape, parallel.tensor),
        max_sequence_length=1,  # only learned positions would use it
        pre_process=mpu.is_pipeline_first_stage(),
        post_process=mpu.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=shape.tied,
        position_embedding_type="none",
    )
    if shape.scalar and model.post_process:
        _scalar_head(model)
    _mark_parameters(model)
    return model.to(device)


def _scalar_head(model: HiddenModel) -> None:
    """One number a token in place of the vocabulary: `score`, replicated over tensor-parallel ranks."""
    model.output_layer = None
    model.score = torch.nn.Linear(model.config.hidden_size, 1, bias=False, dtype=model.config.params_dtype)


def _mark_parameters(model: HiddenModel) -> None:
    """Tell Megatron which parameters are replicated, as its own initialisation (switched off) would.

    Without the marks the gradient norm leaves out the shards of all tensor-parallel ranks but the first, and experts
    without expert parallelism miss the sum over the tensor-parallel ranks that hold copies of them.
    """
    for name, parameter in model.named_parameters():
        if is_expert(name):
            parameter.allreduce = False  # reduced over expert-data-parallel ranks, not data-parallel ones
        parameter.tensor_model_parallel = not any(word in name for word in ("norm", "router", "score", "down_proj"))


def initialise_model_parallel(parallel: ParallelConfig) -> None:
    """Megatron's process groups over all ranks; once a process. Experts are not split by tensor parallelism."""
    mpu.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=1,
        create_gloo_process_groups=False,
    )


def transformer_config(
    shape: ModelShape, parallel: ParallelConfig, *, dtype: torch.dtype, device: torch.device
) -> TransformerConfig:
    """Megatron's settings: no fusion that needs a build, no dropout, no auxiliary loss, gradients summed."""
    recompute = {}
    if parallel.recompute:
        recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    kind = TransformerConfig if shape.latent is None else MLATransformerConfig
    return kind(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        ffn_hidden_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_query_groups=shape.kv_heads,
        kv_channels=shape.head_dim,
        layernorm_epsilon=shape.norm_eps,
        normalization="RMSNorm",
        qk_layernorm=shape.qk_norm,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=1,
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        variable_seq_lengths=parallel.pipeline > 1,  # packs differ in size
        moe_token_dispatcher_type="alltoall",
        calculate_per_token_loss=True,  # losses are already weighted: sum over micro-batches and ranks
        use_cpu_initialization=device.type == "cpu",
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        deallocate_pipeline_outputs=True,
        **_expert_settings(shape),
        **_latent_settings(shape),
        **recompute,
    )


def _expert_settings(shape: ModelShape) -> dict[str, Any]:
    if shape.experts == 0:
        return {}
    router = shape.router
    settings: dict[str, Any] = {
        "num_moe_experts": shape.experts,
        "moe_ffn_hidden_size": shape.expert_intermediate,
        "moe_shared_expert_intermediate_size": shape.shared_intermediate if shape.shared_intermediate > 0 else None,
        "moe_router_topk": shape.experts_per_token,
        # Softmax over the chosen experts equals transformers' norm_topk_prob; over all experts equals its absence.
        "moe_router_pre_softmax": not router.normalise,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
    }
    if router.sigmoid:
        # The bias balanced the experts' load in pretraining; here it stays as it is, so that the engine's never differs.
        bias = {"moe_router_enable_expert_bias": True, "moe_router_bias_update_rate": 0.0}
        settings |= {"moe_router_score_function": "sigmoid", "moe_router_topk_scaling_factor": router.scale, **bias}
        settings["moe_router_pre_softmax"] = False  # sigmoid scores are normalised over the chosen ones
    if router.groups > 0:
        settings |= {"moe_router_num_groups": router.groups, "moe_router_group_topk": router.groups_chosen}
    return settings


def _latent_settings(shape: ModelShape) -> dict[str, Any]:
    if shape.latent is None:
        return {}
    latent = shape.latent
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_head_dim": latent.plain,
        "qk_pos_emb_head_dim": latent.rotated,
        "v_head_dim": latent.value,
        "rope_type": "rope",  # unused: `LatentAttention` rotates
    }


def _block_spec(shape: ModelShape, config: TransformerConfig, device: torch.device) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage."""
    if why_no_transformer_engine(device, config.params_dtype) is None:
        from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

        backend = TESpecProvider()
    else:
        backend = LocalSpecProvider()
    column, row = backend.column_parallel_linear(), backend.row_parallel_linear()
    linears = MLPSubmodules(linear_fc1=column, linear_fc2=row)
    experts = MoESubmodules(
        experts=ModuleSpec(module=SequentialMLP, submodules=linears),
        shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=linears),
    )
    dense, sparse = ModuleSpec(module=MLP, submodules=linears), ModuleSpec(module=MoELayer, submodules=experts)
    attention = _attention_spec(shape, column, row)
    count = config.num_layers // config.pipeline_model_parallel_size
    first = mpu.get_pipeline_model_parallel_rank() * count
    layers = [_layer_spec(attention, sparse if n in shape.sparse else dense) for n in range(first, first + count)]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def _attention_spec(shape: ModelShape, column: type, row: type) -> ModuleSpec:
    if shape.latent is not None:
        parts = LatentSubmodules(column=column, row=row, norm=RMSNorm)
        return ModuleSpec(module=LatentAttention, params={"softmax_scale": shape.softmax_scale}, submodules=parts)
    qk_norm = RMSNorm if shape.qk_norm else IdentityOp
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=column,
            core_attention=PackedAttention,
            linear_proj=row,
            q_layernorm=qk_norm,
            k_layernorm=qk_norm,
        ),
    )


def _layer_spec(attention: ModuleSpec, mlp: ModuleSpec) -> ModuleSpec:
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
