"""Every transport moves the same bytes between two processes; the choice is by measurement."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from k15.errors import WeightsError
from k15.weights.buffers import Workspace
from k15.weights.segments import Manifest, publish, read_segment
from k15.weights.transport import Sink, TransferError, spans
from k15.weights.transport import choice as choice_module
from k15.weights.transport.choice import Choice, open_transports
from k15.weights.transport.mooncake import Mooncake

HOLDER = """
import json, pathlib, sys, torch
from k15.weights.layout import Slice
from k15.weights.segments import write_segment
from k15.weights.transport.mooncake import Mooncake
folder = pathlib.Path(sys.argv[1])
torch.manual_seed(1)
slices = [Slice(f"w{i}", (n, 33), (0, 0), torch.randn(n, 33)) for i, n in enumerate((1000, 0, 77777, 5))]
manifest = write_segment(folder, 1, 0, slices, node="far")
mooncake = Mooncake("127.0.0.1", [])
print(json.dumps(mooncake.offer(folder, manifest)), flush=True)
sys.stdin.read()
mooncake.close()
"""


@pytest.fixture(scope="module")
def holder(tmp_path_factory):
    """(its folder, its manifest, what it offers over Mooncake) of another process."""
    import json

    folder = tmp_path_factory.mktemp("holder")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line = next(line for line in process.stdout if line.startswith("{"))
    yield folder, Manifest.from_json((folder / "v1-r0.json").read_text()), json.loads(line)
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def mooncake():
    made = Mooncake("127.0.0.1", [])
    yield made
    made.close()


def test_mooncake_reads_another_process_memory(holder, mooncake, tmp_path):
    far, manifest, offered = holder
    space = Workspace(tmp_path)
    with space.buffer(tmp_path / "tmp", 0, mapped_bytes=manifest.nbytes) as buffer:
        sink = Sink(buffer, manifest, threading.Event())
        mooncake.read(offered, sink, sink.left()[:1])
        assert len(sink.left()) == 3
        mooncake.read(offered, sink, sink.left())
        assert not sink.left()
        path = publish(buffer, tmp_path, manifest, verified=True)
    for near, there in zip(read_segment(path, manifest, verify=True), read_segment(far / manifest.file, manifest), strict=True):
        assert torch.equal(near.tensor, there.tensor)
    assert mooncake.offer(tmp_path, manifest) == mooncake.offer(tmp_path, manifest), "registered once"
    path.unlink()
    mooncake.forget()
    assert not mooncake._shown.table
    space.close()


def test_mooncake_faults_are_named(holder, mooncake, tmp_path):
    _, manifest, offered = holder
    space = Workspace(tmp_path)
    with space.buffer(tmp_path / "tmp", 0, mapped_bytes=manifest.nbytes) as buffer:
        sink = Sink(buffer, manifest, threading.Event())
        with pytest.raises(TransferError, match=r"w0 at .* is damaged"):  # another place in the peer's memory
            mooncake.read(offered | {"address": offered["address"] + 64}, sink, sink.left()[:1])
        with pytest.raises(TransferError, match="failed with code"):
            mooncake.read(offered | {"session": "127.0.0.1:9"}, sink, sink.left()[:1])
        sink.stop.set()
        with pytest.raises(TransferError, match="called off"):
            mooncake.read(offered, sink, sink.left())
    space.close()


class Timed:
    """A transport of known speed over memory of this process."""

    needs_mapping = False

    def __init__(self, name: str, seconds: float, works: bool = True) -> None:
        self.name, self.seconds, self.works, self.asked = name, seconds, works, []

    def read(self, offered, sink, entries) -> None:
        if not self.works:
            raise TransferError("no route")
        threading.Event().wait(self.seconds)
        for entry in entries:
            sink.buffer.write(entry.offset, memoryview(offered)[entry.offset : entry.offset + entry.nbytes])
            sink.arrived(entry, entry.checksum, self.name)
        self.asked.append(len(entries))


def test_the_fastest_transport_is_used_and_named(holder, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    far, manifest, _ = holder
    monkeypatch.setattr(choice_module, "PROBE_BYTES", 1000)
    raw = (far / manifest.file).read_bytes()
    slow, fast, broken = Timed("slow", 0.2), Timed("fast", 0.0), Timed("broken", 0.0, works=False)
    choice = Choice([slow, broken, fast])
    space = Workspace(tmp_path, keep=False)
    for _ in range(2):
        with space.buffer(tmp_path / "tmp", 0) as buffer:
            sink = Sink(buffer, manifest, threading.Event())
            assert not choice.serves({"pigeon": raw}) and choice.serves({"pigeon": raw, "fast": raw})
            choice.read({"slow": raw, "fast": raw, "broken": raw}, sink)
            assert not sink.left()
    assert slow.asked == [1] and sum(fast.asked) == 2 * len(manifest.entries) - 1
    assert "broken does not serve here: no route" in caplog.text and "weights transport: fast (" in caplog.text


def test_a_transport_that_was_left_nothing_to_be_timed_on_is_timed_later(holder, tmp_path):
    """A segment below PROBE_BYTES: the first transport takes it whole."""
    far, manifest, _ = holder
    raw, choice = (far / manifest.file).read_bytes(), Choice([Timed("first", 0.05), Timed("second", 0.0)])
    space = Workspace(tmp_path, keep=False)
    for speeds in ({"first"}, {"first", "second"}):
        with space.buffer(tmp_path / "tmp", 0) as buffer:
            sink = Sink(buffer, manifest, threading.Event())
            choice.read({"first": raw, "second": raw}, sink)
            assert not sink.left() and choice.speeds.keys() == speeds


def test_what_is_asked_for_and_cannot_serve_is_an_error(monkeypatch):
    assert open_transports("auto", "t", "http://127.0.0.1:1").names == ["http"]
    monkeypatch.setitem(sys.modules, "mooncake.engine", None)
    monkeypatch.delitem(sys.modules, "k15.weights.transport.mooncake")
    with pytest.raises(WeightsError, match=r"weights\.transport=mooncake.*libibverbs1.*weights\.transport=http"):
        open_transports("mooncake", "t", "http://127.0.0.1:1")
    monkeypatch.setattr(choice_module, "rdma_devices", lambda: ["mlx5_0"])
    assert open_transports("auto", "t", "http://127.0.0.1:1").names == ["http"], "RDMA without Mooncake goes over HTTP"


def test_spans_are_even_and_in_order(holder):
    _, manifest, _ = holder
    for count in (1, 2, 3, 9):
        runs = list(spans(list(manifest.entries), count))
        assert [e for run in runs for e in run] == list(manifest.entries) and len(runs) <= count + 1


def test_a_segment_beyond_shared_memory_is_refused_before_a_byte_moves():
    room = os.statvfs("/dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pytest-k15-") as folder:
        space = Workspace(Path(folder))
        nbytes = 2 * room.f_blocks * room.f_frsize
        with pytest.raises(WeightsError, match="Enlarge shared memory"), space.buffer(Path(folder, "t"), 0, mapped_bytes=nbytes):
            pass
        assert os.listdir(folder) == []
        space.close()
