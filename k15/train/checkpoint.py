"""One file a rank, written atomically; loads bitwise into the same layout only. The caller marks completeness."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from k15.errors import TrainerError

FORMAT = 1


def rank_file(folder: Path, rank: int) -> Path:
    """The file of one rank in a checkpoint folder."""
    return folder / f"rank_{rank:05d}.pt"


def save_rank(folder: Path, rank: int, layout: dict[str, Any], state: dict[str, Any]) -> None:
    """Write state to `rank_file`; a file with that name is always whole (temporary name, fsync, rename). Raises FileNotFoundError
    where the checkpoint that `folder` belongs to has been removed meanwhile: made again, it would lack other ranks' files."""
    folder.mkdir(exist_ok=True)
    target = rank_file(folder, rank)
    temporary = target.with_suffix(".pt.tmp")
    with open(temporary, "wb") as file:
        torch.save({"format": FORMAT, "layout": layout, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, target)


def load_rank(folder: Path, rank: int, layout: dict[str, Any]) -> dict[str, Any]:
    """The state that `save_rank` wrote; TrainerError if it is missing or of another layout or model."""
    target = rank_file(folder, rank)
    if not target.is_file():
        raise TrainerError(f"checkpoint file {target} is missing; the checkpoint is incomplete or has fewer ranks")
    saved = torch.load(target, map_location="cpu", weights_only=True)
    if saved["format"] != FORMAT:
        raise TrainerError(f"{target} has format {saved['format']}; this version reads {FORMAT}")
    different = {k: (saved["layout"].get(k), v) for k, v in layout.items() if saved["layout"].get(k) != v}
    if different:
        pairs = ", ".join(f"{k}: saved {a!r}, now {b!r}" for k, (a, b) in different.items())
        raise TrainerError(
            f"checkpoint {folder} was written by another layout ({pairs}). Resume with the same one, or start from the "
            "Hugging Face export with model.path"
        )
    return saved["state"]


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The generators of the host and, on CUDA, of the device."""
    on_device = {"rng_cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"rng": torch.get_rng_state(), **on_device}


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """The generators as `random_state` found them. A run that was begun on CPU has none of a device, which goes on as it was
    seeded: nothing in training draws from it (no dropout, no jitter of the router)."""
    torch.set_rng_state(state["rng"])
    if device.type == "cuda" and "rng_cuda" in state:
        torch.cuda.set_rng_state(state["rng_cuda"], device)
