"""Move tensors' storage off the device and back in place, so that every view of it (parameter, bucket) stays valid."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Offloaded:
    """Storages emptied by `offload`; `restore` puts them back, bit for bit, or zeroed where nothing was kept."""

    def __init__(self, keep: Iterable[Tensor], drop: Iterable[Tensor]) -> None:
        self._stores: list[tuple[torch.UntypedStorage, int, torch.UntypedStorage | None]] = []
        seen: set[int] = set()
        for tensors, kept in ((keep, True), (drop, False)):
            for tensor in tensors:
                store = tensor.untyped_storage()
                if store.nbytes() == 0 or store.data_ptr() in seen:
                    continue
                seen.add(store.data_ptr())
                self._stores.append((store, store.nbytes(), store.cpu() if kept else None))
        for store, _, _ in self._stores:
            store.resize_(0)

    @property
    def freed_bytes(self) -> int:
        return sum(size for _, size, _ in self._stores)

    def restore(self) -> None:
        for store, size, kept in self._stores:
            store.resize_(size)
            if kept is None:
                store.fill_(0)
            else:
                store.copy_(kept)
