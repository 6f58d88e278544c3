"""flash-attn and Transformer Engine: whether the layers use them here, and if not, why. Both are builds for GPU machines."""

import torch
from megatron.core.extensions.transformer_engine import HAVE_TE

try:
    from flash_attn import flash_attn_varlen_func

    FLASH_MISSING = None
except ImportError as error:  # not installed, or built for another torch: the text says which
    flash_attn_varlen_func, FLASH_MISSING = None, str(error)


def why_no_flash(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where attention is flash-attn's."""
    if device.type != "cuda":
        return f"flash-attn does not run on {device.type}"
    return "flash-attn has no float32" if dtype == torch.float32 else FLASH_MISSING


def why_no_transformer_engine(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where linear layers are Transformer Engine's."""
    if device.type != "cuda":
        return f"Transformer Engine does not run on {device.type}"
    if dtype == torch.float32:
        return "Transformer Engine multiplies float32 in TF32"
    return None if HAVE_TE else _import_error()


def _import_error() -> str:
    """Why Megatron-core, which keeps no reason, did without Transformer Engine."""
    try:
        from transformer_engine.pytorch.fp8 import FP8GlobalStateManager  # noqa: F401  what Megatron-core tries
    except ImportError as error:
        return str(error)
    return "Megatron-core could not use it when it was imported"
