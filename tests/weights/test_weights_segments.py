"""Segments: bitwise round trip, damage, atomicity, collection; and whose directory is it?"""

import itertools
import os
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ClusterError, WeightsError
from k15.weights import owner, segments
from k15.weights.assemble import Pieces
from k15.weights.buffers import Workspace
from k15.weights.layout import Slice

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9)), max_size=6),
    dtype=st.sampled_from(DTYPES),
    transpose=st.booleans(),
)
def test_round_trip(tmp_path_factory, shapes, dtype, transpose):
    folder = tmp_path_factory.mktemp("seg")
    tensors = [torch.randn(s).to(dtype) for s in shapes]
    tensors = [t.t() if transpose else t for t in tensors]  # not contiguous
    slices = [Slice(f"t{i}", (99, 99), (i, 0), t) for i, t in enumerate(tensors)]
    written = segments.write_segment(folder, 4, 2, iter(slices), iteration=3, node="n1")
    path = folder / "v4-r2.seg"
    manifest = segments.load_manifest(path)
    assert manifest == written and (manifest.version, manifest.rank, manifest.iteration, manifest.node) == (
        4,
        2,
        3,
        "n1",
    )
    assert all(e.offset % 64 == 0 for e in manifest.entries)
    for want, found in itertools.zip_longest(slices, segments.read_segment(path, manifest)):
        assert (want.name, want.shape, want.starts) == (found.name, found.shape, found.starts)
        assert found.tensor.dtype == dtype and torch.equal(want.tensor, found.tensor)
    assert sorted(p.name for p in folder.iterdir()) == ["v4-r2.json", "v4-r2.seg"]


def one(value: float, rows: int = 100) -> list[Slice]:
    return [Slice("w", (rows, 4), (0, 0), torch.full((rows, 4), value))]


def test_views_outlive_the_file_and_never_write_to_it(tmp_path):
    manifest = segments.write_segment(tmp_path, 1, 0, one(1.0))
    path = tmp_path / manifest.file
    [view] = segments.read_segment(path, manifest)
    view.tensor.fill_(7.0)
    [again] = segments.read_segment(path, manifest)  # its checksum still holds
    assert (again.tensor == 1.0).all()
    segments.write_segment(tmp_path, 1, 0, one(2.0))  # rewritten under a reader
    segments.collect(tmp_path, ())
    assert (again.tensor == 1.0).all()


@pytest.mark.parametrize("position", [0, 799, 1599])
def test_a_flipped_bit_is_found(tmp_path, position):
    manifest = segments.write_segment(tmp_path, 1, 0, one(1.0))
    path = tmp_path / manifest.file
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match=r"w at .* is damaged"):
        list(segments.read_segment(path, manifest))
    path.write_bytes(raw[:-1])
    with pytest.raises(WeightsError, match="1599 bytes, its manifest says 1600"):
        list(segments.read_segment(path, manifest))


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def failing():
        yield from one(1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segments.write_segment(tmp_path, 1, 0, failing())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WeightsError, match="no manifest"):
        segments.load_manifest(tmp_path / "v1-r0.seg")


def test_a_full_shared_memory_is_explained(tmp_path):
    (tmp_path / f"v1-r0.seg.tmp{os.getpid()}").symlink_to("/dev/full")  # every write fails with ENOSPC
    with pytest.raises(WeightsError, match="Enlarge shared memory"):
        segments.write_segment(tmp_path, 1, 0, one(1.0))
    assert list(tmp_path.iterdir()) == []


def test_collect_keeps_what_is_asked_and_what_is_in_the_making(tmp_path):
    for version in (1, 2, 3, 5):
        segments.write_segment(tmp_path, version, 0, one(1.0))
    (tmp_path / "v6-r0.seg.tmp77").write_bytes(b"half")
    (tmp_path / "v1-r1.seg.tmp77").write_bytes(b"left by a dead writer")
    (tmp_path / "owner").write_text("1")
    segments.collect(tmp_path, [2, 3])
    assert {p.name.split("-")[0] for p in tmp_path.iterdir()} == {"v2", "v3", "v5", "v6", "owner"}
    segments.collect(tmp_path, [])
    assert [p.name for p in tmp_path.iterdir()] == ["owner"]


def test_only_directories_of_dead_jobs_are_removed(tmp_path):
    live, dead, foreign = (owner.job_directory(j, tmp_path) for j in ("live", "dead", "young"))
    foreign.mkdir()  # no owner file yet: may be in the making
    (tmp_path / "k15-file").write_text("not a directory")
    code = (
        "import sys, time, pathlib; from k15.weights import owner\n"
        "c = owner.claim(pathlib.Path(sys.argv[1])); print('claimed', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(dead)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    segments.write_segment(dead, 1, 0, one(1.0))
    mine = owner.claim(live)
    segments.write_segment(live, 1, 0, one(1.0))
    assert owner.remove_stale(tmp_path) == []
    with pytest.raises(ClusterError, match="owned by a living process"):
        owner.claim(dead)
    with pytest.raises(ClusterError, match="owned by a living process"):
        owner.claim(live)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert owner.remove_stale(tmp_path) == [dead]
    assert live.exists() and foreign.exists() and not dead.exists()
    os.utime(foreign, (0, 0))
    assert owner.remove_stale(tmp_path) == [foreign]
    mine.release()
    assert not live.exists()


def test_a_requeued_job_takes_over_what_its_dead_self_left(tmp_path):
    directory = owner.job_directory("7", tmp_path)
    first = owner.claim(directory)
    segments.write_segment(directory, 1, 0, one(1.0))
    os.close(first._fd)  # as the kernel does at a kill
    second = owner.claim(directory)
    assert [p.name for p in directory.iterdir()] == ["owner"]
    assert directory.stat().st_mode & 0o777 == 0o700
    second.release()


@pytest.mark.parametrize(
    ("slices", "fault"),
    [
        ([("w", 0, 2)], "w has 8 of 16 elements"),
        ([("w", 0, 3), ("w", 2, 2)], "covered twice"),
        ([("w", 0, 2), ("w", 3, 2)], "outside"),
        ([("w", 0, 4), ("x", 0, 4)], "x is not in the model"),
        ([], "w is missing"),
    ],
)
def test_pieces_refuse_anything_but_an_exact_cover(slices, fault):
    pieces = Pieces(Slice(name, (4, 4), (start, 0), torch.zeros(rows, 4)) for name, start, rows in slices)
    with pytest.raises(WeightsError, match=fault):
        pieces.check({"w": (4, 4)})


def read_all(folder, manifest) -> torch.Tensor:
    [piece] = segments.read_segment(folder / manifest.file, manifest)
    return piece.tensor


def test_retired_memory_is_written_again_but_never_under_a_reader(tmp_path):
    space = Workspace(tmp_path)
    inodes = []
    for version, rows in ((1, 3000), (2, 3000), (3, 3000), (4, 5000), (5, 100)):  # same size, larger (beyond the map), smaller
        manifest = segments.write_segment(tmp_path, version, 0, one(version, rows), workspace=space)
        inodes.append((tmp_path / manifest.file).stat().st_ino)
        assert (read_all(tmp_path, manifest) == version).all() and read_all(tmp_path, manifest).shape == (rows, 4)
        segments.collect(tmp_path, [version], spare=True)
    assert len(set(inodes)) == 2 and inodes[0] == inodes[2] == inodes[4], "two versions take turns in the same memory"
    assert {p.name for p in tmp_path.iterdir()} == {"v5-r0.seg", "v5-r0.json", "spare-r0.seg"}

    late = read_all(tmp_path, manifest)  # an engine that still maps version 5
    segments.write_segment(tmp_path, 6, 0, one(6.0), workspace=space)
    segments.collect(tmp_path, [6], spare=True)
    again = segments.write_segment(tmp_path, 7, 0, one(7.0), workspace=space)
    assert (tmp_path / again.file).stat().st_ino not in inodes and (late == 5).all()
    assert (read_all(tmp_path, again) == 7).all()
    segments.collect(tmp_path, [7])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v7-r0.json", "v7-r0.seg"], "without spares nothing stays"
    space.close()


def test_a_spare_goes_back_to_the_system_when_it_is_not_kept(tmp_path):
    space = Workspace(tmp_path, keep=False)
    before = len(os.listdir("/proc/self/fd"))
    for version in range(5):
        segments.write_segment(tmp_path, version, 0, one(1.0), workspace=space)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_segment_is_verified_once_a_node(tmp_path):
    manifest = segments.write_segment(tmp_path, 1, 0, one(1.0))
    path = tmp_path / manifest.file
    segments.verify_segment(path, manifest)
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)  # what happens after the check is not seen by later readers, unless they ask
    assert len(list(segments.read_segment(path, manifest))) == 1
    with pytest.raises(WeightsError, match="damaged"):
        list(segments.read_segment(path, manifest, verify=True))
    other = segments.write_segment(tmp_path, 1, 0, one(2.0))  # the same version again: the old verdict says nothing about it
    path.write_bytes(bytes(raw))
    with pytest.raises(WeightsError, match="damaged"):
        segments.verify_segment(path, other)
    with pytest.raises(WeightsError, match="damaged"):
        list(segments.read_segment(path, other))
    replaced = segments.read_segment(path, manifest)
    path.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        next(replaced)


def test_tensors_that_are_not_contiguous_go_straight_into_retired_memory(tmp_path):
    space = Workspace(tmp_path)
    for version in (1, 2, 3):
        matrix = torch.randn(64, 96, generator=torch.Generator().manual_seed(version)).to(torch.bfloat16).t()
        whole = [Slice("w", (96, 64), (0, 0), matrix), Slice("s", (), (), torch.tensor(float(version)))]
        manifest = segments.write_segment(tmp_path, version, 0, whole, workspace=space)
        found = list(segments.read_segment(tmp_path / manifest.file, manifest))
        assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(whole, found, strict=True))
        del found
        segments.collect(tmp_path, [version], spare=True)
    space.close()


def test_a_directory_of_another_user_is_not_claimed(tmp_path, monkeypatch):
    (tmp_path / "k15-1").mkdir(mode=0o777)
    owner.claim(tmp_path / "k15-1").release()
    (tmp_path / "k15-1").mkdir(mode=0o777)
    monkeypatch.setattr(owner.os, "getuid", lambda: 12345)
    with pytest.raises(ClusterError, match="not this user's folder"):
        owner.claim(tmp_path / "k15-1")
