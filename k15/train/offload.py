"""Move tensors' storage off the device and back in place, so that every view of it (parameter, bucket) stays valid."""

import ctypes
import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Tree = TypeVar("Tree")


class Offloaded:
    """Storages emptied on construction; `restore` puts them back, bit for bit, or zeroed where nothing was kept.

    `stay`: tensors whose storage is left alone, whatever else lies in it.
    """

    def __init__(self, keep: Iterable[Tensor], drop: Iterable[Tensor], stay: Iterable[Tensor] = ()) -> None:
        self._stores: list[tuple[torch.UntypedStorage, int, torch.UntypedStorage | None]] = []
        seen = {tensor.untyped_storage().data_ptr() for tensor in stay}
        for tensors, kept in ((keep, True), (drop, False)):
            for tensor in tensors:
                store = tensor.untyped_storage()
                if store.nbytes() == 0 or store.data_ptr() in seen:
                    continue
                seen.add(store.data_ptr())
                self._stores.append((store, store.nbytes(), _copy(store) if kept else None))
        for store, _, _ in self._stores:
            store.resize_(0)
        give_back()

    @property
    def freed_bytes(self) -> int:
        return sum(size for _, size, _ in self._stores)

    def on_host(self, tree: Tree) -> Tree:
        """The same dicts and lists with each emptied tensor replaced by a view of what was kept of it, so that it can be saved
        while others have the device."""
        kept = {store._cdata: copy for store, _, copy in self._stores}

        def one(tensor: Tensor) -> Tensor:
            number = tensor.untyped_storage()._cdata
            if number not in kept:
                return tensor
            copy = kept[number]
            assert copy is not None, "a tensor of which nothing was kept"
            view = torch.empty(0, dtype=tensor.dtype)
            return view.set_(copy, tensor.storage_offset(), tensor.shape, tensor.stride())

        return tree_map_only(Tensor, one, tree)

    def restore(self) -> None:
        for store, size, kept in self._stores:
            store.resize_(size)
            if kept is None:
                store.fill_(0)
            else:
                store.copy_(kept)


def _copy(store: torch.UntypedStorage) -> torch.UntypedStorage:
    return store.clone() if store.device.type == "cpu" else store.cpu()  # cpu() of what is there already is no copy


def give_back() -> None:
    """Return what allocators keep for later to the device and to the system."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc; a freed block below its mmap threshold stays in the heap otherwise
        libc.malloc_trim(0)


def used_bytes(device: torch.device) -> int:
    """Memory in use: of the whole CUDA device, or resident memory of this process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
