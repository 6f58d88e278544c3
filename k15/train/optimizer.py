"""Megatron's AdamW (distributed over data-parallel ranks or not), with a reset and a state saved per rank."""

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from torch import Tensor

from k15.config.schema import AlgoConfig, ParallelConfig

from .device import optimizer_types
from .model import HiddenModel


def wrap_ddp(model: HiddenModel, parallel: ParallelConfig) -> DistributedDataParallel:
    """Gradient buffers in fp32, SUMMED over data-parallel ranks (the loss is weighted already)."""
    config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
        use_distributed_optimizer=parallel.distributed_optimizer,
        average_in_collective=False,
    )
    return DistributedDataParallel(model.config, config, model)


class PolicyOptimizer:
    """AdamW over the parameters of a DDP-wrapped model; biases and norms are not decayed."""

    def __init__(self, model: DistributedDataParallel, algo: AlgoConfig, parallel: ParallelConfig, device: torch.device) -> None:
        dtype, self._weight_decay = model.config.params_dtype, algo.weight_decay
        config = OptimizerConfig(
            optimizer="adam",
            lr=algo.lr,
            weight_decay=algo.weight_decay,
            adam_beta1=algo.beta1,
            adam_beta2=algo.beta2,
            adam_eps=algo.eps,
            # Infinity clips nothing, but the norm is still measured.
            clip_grad=algo.clip_grad if algo.clip_grad > 0 else float("inf"),
            params_dtype=dtype,
            bf16=dtype == torch.bfloat16,
            use_distributed_optimizer=parallel.distributed_optimizer,
        )
        with optimizer_types(device):
            self._megatron = get_megatron_optimizer(config, [model], use_gloo_process_groups=False)

    @property
    def inner(self) -> list[torch.optim.Optimizer]:
        """The torch optimizers that hold this rank's moments: one for dense, one for expert parameters."""
        return [o.optimizer for o in self._megatron.chained_optimizers if not o.is_stub_optimizer]

    def zero_grad(self) -> None:
        self._megatron.zero_grad()

    def step(self, lr: float) -> float:
        """Clip, update, and gather the parameters; the gradient norm over the whole model, before clipping."""
        for group in self._megatron.param_groups:
            group["lr"] = lr
            # Megatron marks what is not decayed, but leaves it to its scheduler of the learning rate, which is not ours.
            group["weight_decay"] = self._weight_decay * group["wd_mult"]
        done, norm, _ = self._megatron.step()
        assert done, "only an fp16 loss scale makes Megatron skip a step, and there is none"
        return float(norm)

    def reset(self) -> None:
        """Forget moments and step counts, as the report does at every iteration; parameters stay.

        AdamW makes its state anew at the next step, so that step is a fresh optimizer's. Implementations that count
        steps in the parameter group (Transformer Engine's, Apex's) start again at none.
        """
        for optimizer in self.inner:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group.pop("step", None)

    def reload_parameters(self) -> None:
        """Take over parameters that were set from outside (fp32 masters and shards)."""
        self._megatron.reload_model_params()

    def tensors(self) -> list[Tensor]:
        """Moments and masters on this rank."""
        found = [t for o in self.inner for state in o.state.values() for t in state.values() if isinstance(t, Tensor)]
        return found + self._masters()

    def _masters(self) -> list[Tensor]:
        return [p.data for o in self.inner for group in o.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Moments, step counts and master parameters of this rank."""
        return {"inner": [o.state_dict() for o in self.inner], "masters": self._masters()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict` for the same layout."""
        for optimizer, saved in zip(self.inner, state["inner"], strict=True):
            optimizer.load_state_dict(saved)
        for mine, saved in zip(self._masters(), state["masters"], strict=True):
            mine.copy_(saved)
