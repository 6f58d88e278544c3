"""The metadata store on a real etcd."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from k15.errors import ClusterError, WeightsError
from k15.weights import etcd as etcd_module
from k15.weights import etcd_session
from k15.weights.etcd import etcd_binary, join_etcd, start_etcd
from k15.weights.segments import Entry, Manifest
from k15.weights.store import CHUNK_BYTES, Store


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    running = start_etcd(tmp_path_factory.mktemp("etcd") / "data", "127.0.0.1")
    yield running
    running.stop()


@pytest.fixture
def store(etcd, request):
    return Store(etcd.endpoint, f"/k15/{request.node.name}", etcd.password)


def manifest(version: int, rank: int, entries: int) -> Manifest:
    random.seed(rank)
    made = (
        Entry(f"model.layers.{i}.w", "float32", (1, 2), (0, 0), (1, 2), i * 64, 8, random.getrandbits(32)) for i in range(entries)
    )
    return Manifest(version, 1, rank, f"n{rank}", entries * 64, tuple(made))


def test_manifests_above_the_request_limit(store):
    assert store.versions() == []
    big = manifest(3, 0, 130_000)
    made = [big, manifest(3, 2, 1), manifest(3, 10, 1)]
    for m in reversed(made):
        store.register_manifest(3, m)
    store.register_manifest(12, manifest(12, 0, 0))
    parts = [v for k, v in store.prefix("weights/3/0/").items()]
    assert sum(map(len, parts)) > 1_500_000 and max(map(len, parts)) <= CHUNK_BYTES
    assert store.manifests(3) == made
    assert store.versions() == [3, 12]
    store.delete("weights/3/0/1")
    with pytest.raises(WeightsError, match="torn"):
        store.manifests(3)
    store.forget_version(3)
    assert store.versions() == [12]
    with pytest.raises(WeightsError, match=r"no segment of weights 3 is registered; known versions: \[12\]"):
        store.manifests(3)


def test_others_can_neither_read_nor_write(etcd, store):
    store.put("secret", "x")
    for password in (None, "guess"):
        other = Store(etcd.endpoint, store.prefix_path, password)
        for attempt in (lambda s: s.get("secret"), lambda s: s.put("secret", "y"), lambda s: s.delete_prefix("")):
            with pytest.raises(ClusterError, match="refused"):
                attempt(other)
    lease = store.lease(60)
    store.put("agents/n1", "here", lease)
    for path in ("auth/disable", "auth/user/list", "lease/revoke"):
        assert requests.post(f"{etcd.endpoint}/v3/{path}", json={"ID": lease.id}).status_code != 200, path
    assert store.get("agents/n1") == b"here"
    assert store.get("secret") == b"x"


def test_an_expired_token_is_renewed(store):
    store.put("a", "1")
    store._client.session.headers["Authorization"] = "expired.7"
    assert store.get("a") == b"1"


def test_held_keys_live_and_die_with_their_lease(store):
    held = store.hold("agents/n1", b"here", ttl_s=2)
    store.put("agents/n2", "gone soon", store.lease(1))
    time.sleep(4.5)
    assert store.prefix("agents/") == {"agents/n1": b"here"} and not held.lost.is_set()
    held.close()
    assert store.get("agents/n1") is None


def test_what_fails_says_why(tmp_path, monkeypatch):
    with pytest.raises(ClusterError, match="must look like"):
        Store("localhost", "/k15/x")
    gone = start_etcd(tmp_path / "data", "127.0.0.1")
    store = Store(gone.endpoint, "/k15/x", gone.password)
    held = store.hold("k", "v", ttl_s=1)
    gone.stop()
    with pytest.raises(ClusterError, match="cannot be reached"):
        store.get("a")
    assert held.lost.wait(10), "a holder must learn that others take it for dead"
    with pytest.raises(ClusterError, match="etcd ended with code"):
        start_etcd(tmp_path / "other", "203.0.113.1", client_port=1234, peer_port=1235)  # not an address of this host
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(etcd_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match="apt-get install etcd-server"):
        etcd_binary()


def test_one_of_three_members_may_be_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(etcd_session, "FAILOVER_S", 5.0)
    first = start_etcd(tmp_path / "0" / "data", "127.0.0.1", joinable=True)
    members = [first]
    try:
        with ThreadPoolExecutor(
            2
        ) as pool:  # both at once: they take turns. (The members die with their threads: both live on here.)
            joining = [
                pool.submit(join_etcd, tmp_path / str(i) / "data", "127.0.0.1", first.endpoint, first.password) for i in (1, 2)
            ]
            members += [j.result() for j in joining]
            store = Store(first.endpoint, "/k15/x", first.password)
            store.put("a", "1")
            held = store.hold("agents/0", "here", ttl_s=4)
            first.process.kill()  # the one that everybody talks to
            first.process.wait()
            started = time.monotonic()
            store.put("a", "2")
            assert store.get("a") == b"2" and time.monotonic() - started < 10
            assert not store.create("a", "3") and store.create("b", "3")
            time.sleep(5)
            assert not held.lost.is_set() and store.get("agents/0") == b"here", "leases are kept alive at another member"
            members[1].process.kill()
            with pytest.raises(ClusterError, match="etcd at http://127.0.0.1"):
                store.put("a", "4")
            assert held.lost.wait(40)
    finally:
        for member in members:
            member.stop()
