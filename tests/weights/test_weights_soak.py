"""200 hand-offs in a row through the real store, segments and transport leak nothing."""

import gc
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from weight_nodes import Cluster, slices

from k15.weights.buffers import Workspace
from k15.weights.etcd import start_etcd
from k15.weights.segments import load_manifest, read_segment, write_segment
from k15.weights.store import Store

HAND_OFFS = 200


class Used:
    """What could leak: memory, descriptors, threads, mappings of segments, files, keys."""

    def __init__(self, cluster: Cluster) -> None:
        gc.collect()
        process = psutil.Process()
        self.rss_mb = process.memory_info().rss / 1e6
        self.fds = process.num_fds()
        # The loop's own pool grows to its limit as it likes.
        self.threads = sum(not t.name.startswith("asyncio_") for t in threading.enumerate())
        with open("/proc/self/maps") as maps:
            self.mapped = sum(".seg" in line for line in maps)
        self.files = {node: sorted(p.name.split("-")[-1] for p in (cluster.folder / node).iterdir()) for node in cluster.versions}
        self.bytes = sum(p.stat().st_size for node in cluster.versions for p in (cluster.folder / node).glob("*.seg"))
        self.keys = len(cluster.store.prefix(""))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_two_hundred_hand_offs_leak_nothing(tmp_path):
    memory = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pytest-k15-")  # as in a job: no disk to wait for
    etcd = start_etcd(Path(memory.name) / "etcd" / "data", "127.0.0.1")
    cluster = Cluster(tmp_path, Store(etcd.endpoint, "/k15/soak", etcd.password))
    try:
        nodes = [await cluster.add("a"), await cluster.add("b")]
        trainer = Workspace(tmp_path / "a")  # as the rank's process has it
        before = None
        for version in range(HAND_OFFS + 1):
            manifest = write_segment(tmp_path / "a", version, 0, slices(version, rows=5_000), node="a", workspace=trainer)
            cluster.store.register_manifest(version, manifest, cluster.store.lease_of("agents/a"))
            for node in nodes:
                await node.pull(version)
            for name in "ab":
                path = tmp_path / name / manifest.file
                found = list(read_segment(path, load_manifest(path)))
                assert found[0].name == f"r{version % 10}.w0" and len(found) == 3
                del found
            for node in nodes:
                node.collect([version])
            for old in cluster.store.versions():
                if old != version:
                    cluster.store.forget_version(old)
            if version == 20:  # connections, threads and both versions' memory are there now
                before = Used(cluster)
        after = Used(cluster)
        assert before is not None
        print(f"resident {before.rss_mb:.0f} -> {after.rss_mb:.0f} MB, {after.fds} descriptors, {after.keys} keys")
        assert after.files == before.files == {n: ["r0.json", "r0.ok", "r0.seg", "r0.seg"] for n in "ab"}
        for what in ("threads", "mapped", "keys", "bytes"):
            assert getattr(after, what) <= getattr(before, what), what
        assert after.fds <= before.fds + 2  # a connection that is being closed
        assert after.rss_mb <= before.rss_mb + 15
        trainer.close()
    finally:
        await cluster.close()
        etcd.stop()
        memory.cleanup()
