"""Run a model over micro-batches with Megatron's schedule (1F1B, or none without pipeline stages)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from .batch import MicroBatch

LossFn = Callable[[MicroBatch, Tensor], tuple[Tensor, Any]]
"""(micro-batch, hidden states) -> (loss scalar, anything to collect); called on the last pipeline stage only."""


def install_hooks(ddp) -> None:
    """Tell Megatron's schedule how to finish gradients: sum over ranks, no division by tokens."""

    def finalize(model, _num_tokens, **groups) -> None:
        finalize_model_grads(model, None, **groups)

    ddp.config.no_sync_func = ddp.no_sync
    ddp.config.finalize_model_grads_func = finalize


def run(ddp, micro_batches: Sequence[MicroBatch], loss_fn: LossFn, *, forward_only: bool) -> list[Any]:
    """What `loss_fn` collected for each micro-batch, on the last pipeline stage; [] on the others. Collective."""

    def forward_step(batches, model):
        micro = next(batches)
        hidden = model(micro.tokens, micro.layout)

        def loss(output):
            value, collected = loss_fn(micro, output)
            return value, torch.zeros((), dtype=torch.int), collected

        return hidden, loss

    with torch.set_grad_enabled(not forward_only):
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(micro_batches),
            model=[ddp],
            num_microbatches=len(micro_batches),
            seq_length=1,  # unused: packs announce their sizes (variable_seq_lengths)
            micro_batch_size=1,
            forward_only=forward_only,
        )
