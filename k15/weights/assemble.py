"""Whole Hugging Face tensors out of slices. Nothing is handed out before all are known to be whole."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import torch

from k15.errors import WeightsError
from k15.weights.layout import Slice
from k15.weights.lazy import Lazy, Meter, lazy

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def _order(name: str) -> tuple[int, str]:
    """Layers by number, so that an engine finishes one before the next; the rest afterwards."""
    match = _LAYER.search(name)
    return (int(match[1]) if match is not None else 1 << 30), name


class Pieces:
    """Slices grouped by tensor. It holds references only (memory maps, as a rule); tensors are assembled one by one."""

    def __init__(self, slices: Iterable[Slice]) -> None:
        self._by_name: dict[str, list[Slice]] = {}
        for piece in slices:
            self._by_name.setdefault(piece.name, []).append(piece)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: pieces[0].shape for name, pieces in self._by_name.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: pieces[0].tensor.dtype for name, pieces in self._by_name.items()}

    def names(self) -> list[str]:
        """In the order of `tensors`."""
        return sorted(self._by_name, key=_order)

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Every tensor of `expected`, none else, each element exactly once and of one type. Raises WeightsError."""
        faults = [f"{name} is missing" for name in expected if name not in self._by_name]
        faults += [f"{name} is not in the model" for name in self._by_name if name not in expected]
        for name, pieces in self._by_name.items():
            if name in expected:
                faults += _faults(name, pieces, tuple(expected[name]))
        if faults:
            more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise WeightsError(f"the weights are not whole: {'; '.join(faults[:5])}{more}")

    def lazy(self, meter: Meter) -> Iterator[tuple[str, Lazy]]:
        """(name, a stand-in for the full tensor that reads what is copied out of it) in layer order. Call `check` first."""
        return ((name, lazy(self._by_name[name], meter)) for name in self.names())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, full CPU tensor) in layer order; a view of the slice where one slice is all. Call `check` first."""
        return ((name, _whole(self._by_name[name])) for name in self.names())  # the generator keeps none alive


def _whole(pieces: list[Slice]) -> torch.Tensor:
    if len(pieces) == 1:
        return pieces[0].tensor
    full = torch.empty(pieces[0].shape, dtype=pieces[0].tensor.dtype)
    for piece in pieces:
        full[tuple(map(slice, piece.starts, _ends(piece)))] = piece.tensor
    return full


def _ends(piece: Slice) -> tuple[int, ...]:
    return tuple(a + n for a, n in zip(piece.starts, piece.tensor.shape, strict=True))


def _faults(name: str, pieces: list[Slice], shape: tuple[int, ...]) -> list[str]:
    """Boxes inside `shape`, pairwise disjoint, with its volume: together an exact cover."""
    for piece in pieces:
        if tuple(piece.shape) != shape:
            return [f"{name} has shape {piece.shape}, not {shape}"]
        if piece.tensor.ndim != len(shape) or any(not 0 <= a <= b <= n for a, b, n in zip(piece.starts, _ends(piece), shape)):
            return [f"{name} has a slice at {piece.starts} of {tuple(piece.tensor.shape)} outside {shape}"]
    if len({piece.tensor.dtype for piece in pieces}) > 1:
        return [f"{name} has slices of several types"]
    for i, a in enumerate(pieces):
        for b in pieces[:i]:
            if all(s < f and t < e for s, e, t, f in zip(a.starts, _ends(a), b.starts, _ends(b))):
                return [f"{name} is covered twice at {a.starts}"]
    have = sum(piece.tensor.numel() for piece in pieces)
    return [] if have == math.prod(shape) else [f"{name} has {have} of {math.prod(shape)} elements"]
