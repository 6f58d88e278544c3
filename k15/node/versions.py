"""Weight versions on this node: which segments make one whole, fetching those that are elsewhere, serving them on (2.6.3)."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from k15.errors import ClusterError, WeightsError
from k15.weights.buffers import Workspace
from k15.weights.pull import Copier, is_here, nearest, twins
from k15.weights.segments import Manifest, collect, verify_segment
from k15.weights.store import Store
from k15.weights.transport.choice import Choice, open_transports

COPIES = 3  # segments that a node pulls at once


class Versions:
    """This node's segments in `directory`. `read_peers` gives the base URL of every living agent by node name.

    `transport`, `spare`: see `WeightsConfig`. `nodes`: how many agents the job has, where all start together; they `open`.
    """

    def __init__(
        self, store: Store, node: str, directory: Path, token: str, read_peers: Callable[[], dict[str, str]], *,
        transport: str = "auto", spare: bool = True, nodes: int | None = None,
    ) -> None:  # fmt: skip
        self._store, self._node, self._directory, self._token = store, node, directory, token
        self._read_peers, self._transport, self._spare, self._nodes = read_peers, transport, spare, nodes
        self._workspace = Workspace(directory, keep=spare)
        self._choice: Choice | None = None  # once this node's own URL is known
        # Not the loop's own threads: peers that wait for each other's files need those.
        self._puller = ThreadPoolExecutor(1, thread_name_prefix="versions")

    def open(self, url: str) -> None:
        """Start the transports, as the agent at `url`; else the first pull does. Waits for the other agents where a transport
        is made by all together. Raises WeightsError where the one that was asked for does not serve."""
        self._choice = open_transports(self._transport, self._token, url, self._nodes)

    async def pull(self, version: int) -> dict[str, object]:
        """Make `version` whole here, every checksum looked at: {"paths": local segment files, "bytes_pulled": from peers,
        "bytes_from": by peer}.

        Raises WeightsError when the version is not registered or no peer can give a part of it.
        """
        stop = threading.Event()  # a cancelled call must not leave threads that wait for a dead peer
        try:
            return await asyncio.get_running_loop().run_in_executor(self._puller, self._pull, version, stop)
        finally:
            stop.set()

    def _pull(self, version: int, stop: threading.Event) -> dict[str, object]:
        peers = self._read_peers()
        if self._node not in peers:
            raise ClusterError(f"node {self._node} is not registered any more: others take it for dead, so it takes no weights")
        if self._choice is None:
            self.open(peers[self._node])
        choice = self._choice
        assert choice is not None
        lease = self._store.lease_of(f"agents/{self._node}")
        copier = Copier(self._store, self._node, self._workspace, choice, peers, lease, stop)
        groups = [nearest(same, self._node, self._directory) for same in twins(self._store.manifests(version))]
        turn = sum(self._node.encode()) % len(groups)

        def one(same: list[Manifest]) -> tuple[Manifest, int]:
            manifest, nbytes = self._one(copier, same)
            if nbytes > 0 or choice.names != ["http"]:  # who wrote a segment is known to offer it over HTTP
                record = choice.offer(self._directory, manifest)
                self._store.add_holder(version, manifest.rank, self._node, record, lease)
            return manifest, nbytes

        with ThreadPoolExecutor(COPIES, thread_name_prefix="segments") as pool:
            futures = [pool.submit(one, same) for same in groups[turn:] + groups[:turn]]
            try:
                got = [f.result() for f in futures]
            except BaseException:
                stop.set()  # the others' work is of no use any more
                pool.shutdown(cancel_futures=True)
                raise
        got.sort(key=lambda g: g[0].rank)
        paths = [str(self._directory / m.file) for m, _ in got]
        return {"paths": paths, "bytes_pulled": sum(n for _, n in got), "bytes_from": dict(copier.received)}

    def _one(self, copier: Copier, same: list[Manifest]) -> tuple[Manifest, int]:
        """One of these twins is here and right afterwards; (which, bytes copied)."""
        if is_here(same[0], self._node, self._directory):
            verify_segment(self._directory / same[0].file, same[0])
            return same[0], 0
        faults = []
        for manifest in same:
            try:
                return manifest, copier.copy(manifest)
            except WeightsError as error:
                faults.append(str(error))
        raise WeightsError("; ".join(faults))

    def collect(self, keep: Iterable[int]) -> None:
        """Drop all versions but `keep`."""
        collect(self._directory, keep, spare=self._spare)
        if self._choice is not None:
            self._choice.forget()

    def close(self) -> None:
        """Let go of all memory; the files stay. Nothing pulls any more."""
        self._puller.shutdown()
        if self._choice is not None:
            self._choice.close()
        self._workspace.close()
