"""Ranks of a gloo group, forked where that is safe: none imports torch and triton again, which takes longer than the test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from triton_mode import INTERPRET


def on_ranks(size: int, function: Callable[[int, dist.ProcessGroup], Any], folder: Path) -> list[Any]:
    """[function(0, group), function(1, group), ...]; `function` at the top of a module. Fails if a rank does."""
    # The threads of autograd do not outlive a fork; on the CPU there are none.
    mp.start_processes(_rank, (size, function, folder), nprocs=size, start_method="fork" if INTERPRET else "spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def _rank(rank: int, size: int, function: Callable[[int, dist.ProcessGroup], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.save(function(rank, dist.group.WORLD), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
