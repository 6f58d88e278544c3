"""Which quantised engines can take plain weights: those that quantise them themselves, as they load."""

from typing import Any

from k15.errors import WeightsError


def refuse_quantised(vllm_config: Any) -> None:
    """WeightsError where the engine's parameters are a checkpoint's quantised ones, which plain weights cannot fill.

    vLLM's online quantisation (`--quantization fp8_per_tensor` over a plain checkpoint, and its kin) keeps the plain layout
    for loading and quantises each layer again in the layer-wise reload, so that it takes a hand-off like any other engine.
    """
    found = vllm_config.quant_config
    if found is None:
        return
    from vllm.model_executor.layers.quantization.online.base import OnlineQuantizationConfig

    if not isinstance(found, OnlineQuantizationConfig):
        raise WeightsError(
            f"the engine runs a checkpoint quantised with {found.get_name()!r}, whose scales a hand-off of plain weights does "
            "not have. Serve the plain checkpoint; for fp8, with vLLM's own quantisation: --quantization fp8_per_tensor."
        )
