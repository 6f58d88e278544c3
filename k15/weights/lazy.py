"""A Hugging Face tensor that is not there as a whole: views of it are only noted down, and bytes move when one is copied.

vLLM's weight loaders take a full tensor, narrow it to what their worker keeps and copy that into a parameter. Given a
`Lazy`, they read from the pieces (memory maps of shared segments) exactly the box that they keep; no worker holds a full
tensor, whatever layouts trainer and engine have. An operation that is no view of a box reads the box as it stands then.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from k15.weights.layout import Slice

aten = torch.ops.aten


@dataclass
class Meter:
    """Bytes that were read through all `Lazy` tensors of one load, and the seconds that their copying took."""

    bytes_read: int = 0
    copy_s: float = 0.0

    @contextmanager
    def copying(self, nbytes: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.bytes_read += nbytes
        self.copy_s += time.perf_counter() - start


@dataclass(frozen=True)
class _View:
    """The box [starts, starts + sizes) of the whole tensor, and what the view's dimensions are: `axes[i]` is a dimension
    of the whole, or None for one of size 1 that was put in. A dimension of the whole not in `axes` was selected away."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    axes: tuple[int | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(1 if axis is None else self.sizes[axis] for axis in self.axes)

    def sliced(self, dim: int, start: int, stop: int) -> "_View | None":
        """[start, stop) of the view's dimension `dim`, bounds as in Python; None for no entry of one that was put in."""
        axis = self.axes[dim]
        start, stop, _ = slice(start, stop).indices(self.shape[dim])
        if axis is None:
            return self if start < stop else None
        starts, sizes = list(self.starts), list(self.sizes)
        starts[axis] += start
        sizes[axis] = max(stop - start, 0)
        return replace(self, starts=tuple(starts), sizes=tuple(sizes))

    def arranged(self, axes: Sequence[int | None]) -> "_View":
        return replace(self, axes=tuple(axes))

    def of(self, piece: Slice) -> tuple[tuple[slice, ...], Tensor] | None:
        """Where in the view `piece` lies, and its part there in the view's own arrangement; None if it does not."""
        where, part = [], piece.tensor
        for axis, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            low = max(start, piece.starts[axis])
            high = min(start + size, piece.starts[axis] + piece.tensor.shape[axis])
            if low >= high:
                return None
            where.append(slice(low - start, high - start))
            part = part.narrow(axis, low - piece.starts[axis], high - low)
        kept = [axis for axis in self.axes if axis is not None]
        gone = [axis for axis in range(len(self.sizes)) if axis not in kept]
        part = part.permute(*kept, *gone)[(..., *[0] * len(gone))]
        part = part[tuple(None if axis is None else slice(None) for axis in self.axes)]
        return tuple(slice(0, 1) if axis is None else where[axis] for axis in self.axes), part


class Lazy(Tensor):
    """See the module's head. Made by `lazy`; it has the shape, type and (CPU) device of the tensor that it stands for."""

    @staticmethod
    def __new__(cls, pieces: Sequence[Slice], view: _View, meter: Meter) -> "Lazy":
        made = Tensor._make_wrapper_subclass(cls, view.shape, dtype=pieces[0].tensor.dtype, device="cpu")
        made.pieces, made.view_, made.meter = pieces, view, meter
        return made

    def __repr__(self) -> str:
        return f"Lazy(shape={tuple(self.shape)}, dtype={self.dtype}, pieces={len(self.pieces)})"

    def parts(self) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """(where in this tensor, what stands there) of every piece that it touches."""
        return (found for found in map(self.view_.of, self.pieces) if found is not None)

    def read(self) -> Tensor:
        """An ordinary tensor with its values, contiguous as this one says it is; without a copy where one piece holds them so."""
        parts = list(self.parts())
        with self.meter.copying(sum(part.nbytes for _, part in parts)):
            if len(parts) == 1:
                return parts[0][1].contiguous()
            full = torch.empty(self.shape, dtype=self.dtype)
            for where, part in parts:
                full[where] = part
            return full

    def read_into(self, target: Tensor) -> None:
        """Copy into a tensor of the same shape, piece by piece."""
        for where, part in self.parts():
            with self.meter.copying(part.nbytes):
                target[where].copy_(part)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs if kwargs is not None else {}
        if func is aten.copy_.default and isinstance(args[1], cls) and not isinstance(args[0], cls):
            target, source = args[0], args[1]
            if target.shape == source.shape:
                if target.device.type != "meta":  # vLLM first counts elements on meta parameters
                    source.read_into(target)
                return target
        elif func in _VIEWS and isinstance(args[0], cls):
            view = _VIEWS[func](args[0].view_, *args[1:], **kwargs)
            if isinstance(view, list):
                return [cls(args[0].pieces, v, args[0].meter) for v in view]
            if view is not None:
                return cls(args[0].pieces, view, args[0].meter)
        args, kwargs = tree_map_only(cls, cls.read, (args, kwargs))
        return func(*args, **kwargs)


def lazy(pieces: Sequence[Slice], meter: Meter) -> Lazy:
    """The whole tensor that `pieces` cover exactly once (`Pieces.check`)."""
    shape = pieces[0].shape
    return Lazy(pieces, _View((0,) * len(shape), tuple(shape), tuple(range(len(shape)))), meter)


# What each view operation makes of a view: another, a list of them, or None where the box must be read.


def _slice(view: _View, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> _View | None:
    start, end = 0 if start is None else start, view.shape[dim] if end is None else end
    return view.sliced(dim, start, end) if step == 1 else None


def _select(view: _View, dim: int, index: int) -> _View:
    dim, index = dim % len(view.axes), index % view.shape[dim]
    chosen = view.sliced(dim, index, index + 1)
    assert chosen is not None, "one entry is never none"
    return chosen.arranged(view.axes[:dim] + view.axes[dim + 1 :])


def _split(view: _View, size: int, dim: int = 0) -> list[_View] | None:
    found = [view.sliced(dim, start, start + size) for start in range(0, view.shape[dim], size)] if size > 0 else [None]
    return None if None in found else found


def _unbind(view: _View, dim: int = 0) -> list[_View]:
    return [_select(view, dim, index) for index in range(view.shape[dim])]


def _unsqueeze(view: _View, dim: int) -> _View:
    dim = dim % (len(view.axes) + 1)
    return view.arranged((*view.axes[:dim], None, *view.axes[dim:]))


def _permute(view: _View, dims: Sequence[int]) -> _View:
    return view.arranged([view.axes[d] for d in dims])


def _transpose(view: _View, one: int, other: int) -> _View:
    axes = list(view.axes)
    axes[one], axes[other] = axes[other], axes[one]
    return view.arranged(axes)


_VIEWS: dict[Any, Any] = {
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split.Tensor: _split,
    aten.unbind.int: _unbind,
    aten.unsqueeze.default: _unsqueeze,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: lambda view: view if len(view.axes) < 2 else _transpose(view, 0, 1),
    aten.alias.default: lambda view: view,
    aten.detach.default: lambda view: view,
}
