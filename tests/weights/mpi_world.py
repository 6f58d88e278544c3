"""Two ranks under mpiexec: 0 holds segments, 1 reads them. `python mpi_world.py FOLDER`; see test_weights_mpi.py."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from mpi4py import MPI

from k15.weights.buffers import Workspace
from k15.weights.layout import Slice
from k15.weights.segments import Manifest, collect, publish, read_segment, write_segment
from k15.weights.transport import Sink, TransferError
from k15.weights.transport.mpi import Mpi


def slices(seed: int) -> list[Slice]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (1000, 0, 77777, 5)  # the third is of more than two blocks
    return [Slice(f"w{i}", (n, 33), (0, 0), torch.randn(n, 33, generator=generator)) for i, n in enumerate(sizes)]


class Told:
    """Steps of the two ranks in turn, over a communicator of their own."""

    def __init__(self) -> None:
        self.world = MPI.COMM_WORLD.Dup()

    def swap(self, word=None):
        return self.world.sendrecv(word, 1 - self.world.rank, source=1 - self.world.rank)


def hold(mpi: Mpi, folder: Path, told: Told) -> None:
    folder.mkdir()
    space = Workspace(folder)
    for version in (1, 2, 3):  # the third in the memory of the first
        manifest = write_segment(folder, version, 0, slices(version), workspace=space)
        told.swap((mpi.offer(folder, manifest), manifest.to_json()))
        told.swap()  # it has been read
        if version == 1:
            for thread in threading.enumerate():
                assert thread.name != "mpi holder" or thread.is_alive()
        collect(folder, [version], spare=True)
        mpi.forget()
    assert len(mpi._shown.table) == 2
    collect(folder, [], spare=False)
    mpi.forget()
    assert not mpi._shown.table
    told.swap()
    told.swap()
    space.close()


def copied(mpi: Mpi, folder: Path, offered: dict, manifest: Manifest, rank: int = 0) -> list[Slice]:
    """Read in two goes, into fresh memory."""
    target = folder / f"copy-{rank}"
    target.mkdir(exist_ok=True)
    space = Workspace(target, keep=False)
    with space.buffer(target / "tmp", rank) as buffer:
        sink = Sink(buffer, manifest, threading.Event())
        mpi.read(offered, sink, sink.left()[:1])
        assert len(sink.left()) == 3
        mpi.read(offered, sink, sink.left())
        assert not sink.left()
        path = publish(buffer, target, manifest)
    return list(read_segment(path, manifest, verify=True))


def refused(mpi: Mpi, folder: Path, offered: dict, manifest: Manifest, *, called_off: bool = False) -> str:
    space = Workspace(folder, keep=False)
    with space.buffer(folder / "refused", 9) as buffer:
        sink = Sink(buffer, manifest, threading.Event())
        if called_off:
            sink.stop.set()
        try:
            mpi.read(offered, sink, sink.left())
        except TransferError as error:
            return str(error)
    raise AssertionError("it was read")


def read(mpi: Mpi, folder: Path, told: Told) -> None:
    folder.mkdir()
    first = None
    for version in (1, 2, 3):
        offered, text = told.swap()
        manifest = Manifest.from_json(text)
        with ThreadPoolExecutor(3) as pool:
            for got in pool.map(lambda i, o=offered, m=manifest: copied(mpi, folder, o, m, i), range(3)):
                assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(got, slices(version), strict=True))
        if version == 1:
            first = offered, manifest
            assert "called off" in refused(mpi, folder, offered, manifest, called_off=True)
            assert "does not show" in refused(mpi, folder, {**offered, "key": 1}, manifest)
        if version == 3:
            assert first is not None and offered == first[0], "the memory of the first version"
            assert "is damaged" in refused(mpi, folder, *first), "it holds another version by now"
        told.swap()
    told.swap()
    assert "does not show" in refused(mpi, folder, offered, manifest), "it was collected"
    told.swap()


if __name__ == "__main__":
    mpi, told = Mpi(nodes=2), Told()
    rank = told.world.rank
    (hold, read)[rank](mpi, Path(sys.argv[1]) / str(rank), told)
    assert not [request for request in mpi._kept if not request.Test()], "requests are left"
    mpi.close()
    told.world.Barrier()
    print(("holder", "reader")[rank] + ": right", flush=True)
