"""Which code a kernel call runs: Triton where there is a GPU, else the chunked PyTorch path, and it is said once."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext

import torch

BACKENDS = ("auto", "triton", "torch")
_said: set[tuple[str, str, str]] = set()


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter (TRITON_INTERPRET=1 when triton was imported): CPU tensors work then."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def choose(backend: str, device: torch.device, op: str) -> str:
    """ "triton" or "torch" for `op` on `device`. `auto`: triton on a GPU where it imports, else torch; logged once.

    Raises ValueError for an unknown name, and for `triton` where it cannot run.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, which is not known. Allowed: {', '.join(BACKENDS)}.")
    why_not = _triton_missing(device)
    if backend == "triton" and why_not is not None:
        raise ValueError(f"backend is 'triton' for {op}, but {why_not}. Use 'auto' or 'torch' here.")
    chosen = "torch" if backend == "torch" or why_not is not None or (backend == "auto" and device.type != "cuda") else "triton"
    if (op, device.type, chosen) not in _said:
        _said.add((op, device.type, chosen))
        reason = f" ({why_not})" if backend == "auto" and why_not is not None else ""
        logging.getLogger("k15.kernels").info("%s on %s: %s%s", op, device.type, chosen, reason)
    return chosen


def architecture(device: torch.device) -> str:
    """ "sm_90", "gfx942" ...: the key of the launch tables; "interpreter" for tensors that are not on a GPU."""
    if device.type != "cuda":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def on_device(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _triton_missing(device: torch.device) -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    if device.type != "cuda" and not interpreted():
        return f"the tensors are on {device.type}, where Triton runs only in its interpreter (TRITON_INTERPRET=1)"
    return None
