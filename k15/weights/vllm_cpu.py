"""Two things that vLLM's layer-wise reload (0.32) forgets on the CPU, both silent: weights that compute in packed form.

* A ParallelLMHead tied to the embedding keeps the packed copy of its old weights.
* Expert weights (unquantised MoE) are packed at the first load only; after a reload the kernel reads plain weights as
  if they were packed.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def repacking(model: Any) -> Iterator[None]:
    """Reload `model`'s weights inside this context and every packed copy is renewed. Elsewhere it does nothing."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        yield
        return
    with ExitStack() as stack:
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, UnquantizedFusedMoEMethod) and method.moe_kernel is not None:
                stack.enter_context(_packing_experts(method))
        yield
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)


@contextmanager
def _packing_experts(method: Any) -> Iterator[None]:
    """`method` packs its layer's experts at every set-up, before the reload copies them to their final place."""
    experts = method.moe_kernel.fused_experts
    setup: Callable[..., None] = method._setup_kernel
    pack: Callable[[Any], None] = experts.process_weights_after_loading
    packed: list[Any] = []

    def pack_once(layer: Any) -> None:
        packed.append(layer)
        pack(layer)

    def setup_and_pack(*, layer: Any, w13: Any, w2: Any) -> None:
        packed.clear()
        setup(layer=layer, w13=w13, w2=w2)
        if not packed:  # a vLLM that does it itself must not be doubled
            pack(layer)

    experts.process_weights_after_loading = pack_once
    method._setup_kernel = setup_and_pack
    try:
        yield
    finally:
        del experts.process_weights_after_loading, method._setup_kernel  # back to the class's own
