"""Versions travel between nodes: real agents' HTTP services, a real etcd, real sockets that are cut."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest
from weight_nodes import Cluster, same, slices

from k15.errors import WeightsError
from k15.weights import pull
from k15.weights.etcd import start_etcd
from k15.weights.pull import nearest, twins
from k15.weights.segments import manifest_path, write_segment
from k15.weights.store import Store
from k15.weights.transport import http


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    running = start_etcd(tmp_path_factory.mktemp("etcd") / "data", "127.0.0.1")
    yield running
    running.stop()


@pytest.fixture
async def cluster(tmp_path, etcd, request):
    made = Cluster(tmp_path, Store(etcd.endpoint, f"/k15/{request.node.name}", etcd.password))
    yield made
    await made.close()


async def test_what_is_missing_arrives_whole(cluster, monkeypatch):
    monkeypatch.setattr(pull, "BACKOFF_S", 0.0)
    near, _ = await cluster.add("near"), await cluster.add("far")
    far = [cluster.write("far", 5, rank) for rank in (0, 1)]
    own = cluster.write("near", 5, 2)
    mine = cluster.folder / "near"
    cluster.wires["far"].faults = [("cut", 900), ("cut", 20_000), ("cut", 0)]
    got = await near.pull(5)
    assert got["paths"] == [str(mine / m.file) for m in (*far, own)]
    assert got["bytes_pulled"] == far[0].nbytes + far[1].nbytes
    assert got["bytes_from"] == {"far": sum(e.nbytes for m in far for e in m.entries)}
    assert all(same(mine, m) for m in (*far, own)) and not cluster.wires["far"].faults
    assert (await near.pull(5))["bytes_pulled"] == 0
    rewritten = cluster.write("far", 5, 0, seed=70)  # same file name, other weights
    assert (await near.pull(5))["bytes_pulled"] == rewritten.nbytes and same(mine, rewritten, seed=70)

    damaged = cluster.write("far", 5, 0, seed=20)
    path = cluster.folder / "far" / damaged.file
    raw = bytearray(path.read_bytes())
    raw[100] ^= 4
    path.write_bytes(raw)
    before = sorted(p.name for p in mine.iterdir())
    with pytest.raises(WeightsError, match=r"from any of nodes.*r0\.w0.*far.*is damaged"):
        await near.pull(5)
    assert sorted(p.name for p in mine.iterdir()) == before, "nothing half-done is left"
    assert same(mine, rewritten, seed=70), "the old segment was not touched"
    manifest_path(mine / own.file).unlink()
    with pytest.raises(WeightsError, match=r"v5-r2\.seg is registered as this node's \(near\)"):
        await near.pull(5)
    with pytest.raises(WeightsError, match="no segment of weights 6 is registered"):
        await near.pull(6)


async def test_who_has_not_the_token_gets_nothing(cluster, monkeypatch):
    monkeypatch.setattr(pull, "BACKOFF_S", 0.0)
    near, _ = await cluster.add("near"), await cluster.add("far")
    cluster.write("far", 1, 0)
    near._token = "guess"
    with pytest.raises(WeightsError, match="401"):
        await near.pull(1)


async def test_a_silent_holder_is_left_for_another(cluster, monkeypatch):
    """Cut and stalled connections at two holders; what arrived from one is not asked for again at the next."""
    monkeypatch.setattr(http, "STALL_S", 1.0)
    nodes = {n: await cluster.add(n) for n in "abc"}
    manifest = cluster.write("a", 1, 0, rows=50_000)
    await nodes["b"].pull(1)
    assert set(cluster.store.holders(1, 0)) == {"b"}
    cluster.wires["a"].sent = cluster.wires["b"].sent = 0
    cluster.wires["b"].faults = [("stall", 9_000_000), ("stall", 9_000_000)]
    started = time.monotonic()
    await nodes["c"].pull(1)
    assert same(cluster.folder / "c", manifest, rows=50_000) and time.monotonic() - started < 5
    assert 0 < cluster.wires["a"].sent < manifest.nbytes, "b had already given a part"
    assert cluster.store.prefix("weights/1/0/to/") == {}


async def test_copies_spread_over_all_that_have_one(cluster):
    """Eight nodes want one segment at once: the node that wrote it sends about log2 of that, not eight."""
    writer = await cluster.add("n0")
    others = [await cluster.add(f"n{i}") for i in range(1, 9)]
    manifest = cluster.write("n0", 1, 0, rows=30_000)
    await asyncio.gather(writer.pull(1), *(v.pull(1) for v in others))
    assert all(same(cluster.folder / f"n{i}", manifest, rows=30_000) for i in range(9))
    sent = {node: wire.sent / manifest.nbytes for node, wire in cluster.wires.items()}
    assert 8 <= sum(sent.values()) < 8.1
    assert sent["n0"] < 5.1 and sum(copies > 0.9 for copies in sent.values()) >= 3, sent


async def test_a_version_is_gone_with_the_nodes_that_held_it(cluster):
    for node in "ab":
        await cluster.add(node)
    cluster.write("a", 1, 0)
    cluster.write("b", 1, 1)
    cluster.write("b", 2, 0)
    assert cluster.store.versions() == [1, 2] and len(cluster.store.manifests(1)) == 2
    cluster.held.pop("b")._stop.set()  # b dies: nobody renews its lease
    for _ in range(100):
        if cluster.store.versions() == [1]:
            break
        await asyncio.sleep(0.1)
    assert cluster.store.versions() == [1] and [m.node for m in cluster.store.manifests(1)] == ["a"]


async def test_a_cancelled_pull_ends_its_threads(cluster):
    near, _ = await cluster.add("near"), await cluster.add("far")
    cluster.write("far", 1, 0)
    cluster.wires["far"].faults = [("stall", 100)] * 9
    task = asyncio.create_task(near.pull(1))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(50):
        if not [t for t in threading.enumerate() if t.name.startswith(("pull", "segments"))]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(threading.enumerate())


def test_twins_are_taken_once_and_from_near(tmp_path):
    folders = {n: tmp_path / n for n in ("a", "b", "c")}
    for folder in folders.values():
        folder.mkdir()
    held = [write_segment(folders[n], 1, 2 * i + r, slices(r), node=n) for i, n in enumerate("ab") for r in (0, 1)]
    for node, expected in (("a", [0, 1]), ("b", [2, 3])):
        assert [nearest(t, node, folders[node])[0].rank for t in twins(held)] == expected
    assert {nearest(t, node, folders["c"])[0].node for node in ("c", "d") for t in twins(held)} == {"a", "b"}
    drifted = [replace(held[2], entries=tuple(replace(e, checksum=e.checksum ^ (e.name == "r0.w1")) for e in held[2].entries))]
    with pytest.raises(WeightsError, match=r"ranks 0 and 2 hold different values of r0\.w1"):
        twins([*held[:2], *drifted, held[3]])


async def test_mooncake_waits_for_the_other_node_to_offer(cluster):
    """Both nodes pull at once, as in a hand-off: the one that wrote offers its memory while the other looks for it."""
    cluster.settings["transport"] = "mooncake"
    near, far = await cluster.add("near"), await cluster.add("far")
    for version in (1, 2, 3):  # in memory that is written again and stays registered
        manifest = cluster.write("far", version, 0, seed=10 * version, rows=5_000)
        got, _ = await asyncio.gather(near.pull(version), far.pull(version))
        assert got["bytes_from"] == {"far": sum(e.nbytes for e in manifest.entries)}
        assert same(cluster.folder / "near", manifest, seed=10 * version, rows=5_000)
        assert cluster.wires["far"].sent == 0, "nothing went over HTTP"
        for node in (near, far):
            node.collect([version])


async def test_a_transport_that_nobody_offers_is_named(cluster, monkeypatch):
    monkeypatch.setattr(pull, "OFFER_S", 0.3)
    await cluster.add("far")  # over HTTP only
    cluster.settings["transport"] = "mooncake"
    near = await cluster.add("near")
    cluster.write("far", 1, 0)
    with pytest.raises(WeightsError, match=r"any of nodes far: none offers mooncake"):
        await near.pull(1)
