"""The global metadata service (report 2.6.3) in etcd: which weight versions exist, where their segments are, who lives.

    <prefix>/weights/<version>/<rank>            head: {"chunks": n, "bytes": m}, written last, so that it commits
    <prefix>/weights/<version>/<rank>/<chunk>    the manifest, compressed, in pieces below etcd's request limit
    <prefix>/weights/<version>/<rank>/at/<node>  a node that holds the segment, and how peers read it there
    <prefix>/weights/<version>/<rank>/to/<node>  a node that is sending it now: one copy at a time, so that copies spread

What is registered under a node's lease is gone with the node: a version whose owners are dead disappears by itself.

Keys given to a Store are relative to its prefix. Calls are synchronous; from asyncio use `asyncio.to_thread`.
"""

import json
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import ConnectionFailedError, ConnectionTimeoutError, Etcd3Exception
from etcd3gw.lease import Lease

from k15.errors import ClusterError, WeightsError
from k15.log import get_logger
from k15.weights.etcd_session import Session
from k15.weights.segments import Manifest

log = get_logger("store")
CHUNK_BYTES = 512 * 1024  # etcd refuses requests above 1.5 MB


class Held:
    """A key under a lease that a thread keeps alive; the key vanishes within `ttl_s` of this process's death."""

    def __init__(self, store: "Store", key: str, value: str | bytes, ttl_s: int) -> None:
        self._store = store
        self.lost = threading.Event()  # set when the lease could not be renewed in time: others take us for dead
        self._stop = threading.Event()
        self._lease = store.lease(ttl_s)
        store.put(key, value, self._lease)
        self._thread = threading.Thread(target=self._renew, args=(ttl_s,), name=f"lease {key}", daemon=True)
        self._thread.start()

    def _renew(self, ttl_s: int) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(ttl_s / 4):
            try:
                if self._lease.refresh() <= 0:
                    self.lost.set()
                    return
                renewed = time.monotonic()
            except Exception as error:  # whatever it is: this thread must live, or say that the lease is lost
                log.warning("a lease was not renewed: %r", error)
                if time.monotonic() - renewed > ttl_s:
                    self.lost.set()
                    return

    def close(self) -> None:
        """Give the lease up; its keys are deleted at once."""
        self._stop.set()
        self._thread.join()
        if not self.lost.is_set():
            with self._store._errors("revoke a lease"):
                self._lease.revoke()


class Store:
    """A view of etcd below `prefix`. `endpoint`: http://host:port; `password`: of etcd's root user, None without auth.

    Every method raises ClusterError where etcd cannot be reached or refuses.
    """

    def __init__(self, endpoint: str, prefix: str, password: str | None = None, timeout_s: float = 10.0) -> None:
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or url.hostname is None or url.port is None:
            raise ClusterError(f"the etcd endpoint is {endpoint!r}; it must look like http://host:port")
        self.endpoint, self.prefix_path = endpoint.rstrip("/"), prefix.rstrip("/")
        self._password, self._timeout_s = password, timeout_s
        self._client = Etcd3Client(
            host=url.hostname,
            port=url.port,
            protocol=url.scheme,
            timeout=timeout_s,
            api_path="/v3/",
            session=Session(self.endpoint, password, timeout_s),
        )

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (ConnectionFailedError, ConnectionTimeoutError, requests.RequestException) as error:
            raise ClusterError(
                f"etcd at {self.endpoint} cannot be reached ({doing}): {getattr(error, 'detail_text', None) or error}"
            ) from error
        except Etcd3Exception as error:
            raise ClusterError(f"etcd at {self.endpoint} refused ({doing}): {error.detail_text or error}") from error

    def _path(self, key: str) -> str:
        return f"{self.prefix_path}/{key.lstrip('/')}"

    def put(self, key: str, value: str | bytes, lease: Lease | None = None) -> None:
        raw = value.encode() if isinstance(value, str) else value
        with self._errors(f"put {key}"):
            self._client.put(self._path(key), raw, lease)

    def get(self, key: str) -> bytes | None:
        with self._errors(f"get {key}"):
            found = self._client.get(self._path(key))
        return found[0] if found else None

    def prefix(self, key: str) -> dict[str, bytes]:
        """All keys that start with `key`, relative to the store's prefix. For small values: one request fetches all."""
        with self._errors(f"list {key}"):
            found = self._client.get_prefix(self._path(key))
        skip = len(self.prefix_path) + 1
        return {meta["key"].decode()[skip:]: value for value, meta in found}

    def delete(self, key: str) -> None:
        with self._errors(f"delete {key}"):
            self._client.delete(self._path(key))

    def delete_prefix(self, key: str) -> None:
        with self._errors(f"delete {key}*"):
            self._client.delete_prefix(self._path(key))

    def lease(self, ttl_s: int) -> Lease:
        """A lease of `ttl_s` seconds; `.refresh()` renews, `.revoke()` ends it and deletes its keys."""
        with self._errors("lease"):
            return self._client.lease(ttl_s)

    def hold(self, key: str, value: str | bytes, ttl_s: int = 10) -> Held:
        """`put` under a lease that is kept alive by a thread with a connection of its own."""
        with self._errors(f"hold {key}"):
            return Held(Store(self.endpoint, self.prefix_path, self._password, self._timeout_s), key, value, ttl_s)

    # Weight versions

    def lease_of(self, key: str) -> Lease | None:
        """The lease that `key` was put under, for keys that are to live as long; None where it has none or is missing."""
        with self._errors(f"get {key}"):
            found = self._client.get(self._path(key), metadata=True)
        number = int(found[0][1].get("lease", 0)) if found else 0
        return Lease(number, self._client) if number != 0 else None

    def create(self, key: str, value: str | bytes, lease: Lease | None = None) -> bool:
        """`put`, unless the key exists: False then."""
        raw = value.encode() if isinstance(value, str) else value
        with self._errors(f"create {key}"):
            return bool(self._client.create(self._path(key), raw, lease))

    def register_manifest(self, version: int, manifest: Manifest, lease: Lease | None = None) -> None:
        """Make a finished segment known for as long as `lease` lives. Registering the same rank again replaces it."""
        assert version == manifest.version, (version, manifest.version)
        packed = zlib.compress(manifest.to_json().encode(), 1)
        key = f"weights/{version}/{manifest.rank}"
        chunks = [packed[i : i + CHUNK_BYTES] for i in range(0, len(packed), CHUNK_BYTES)]
        for i, chunk in enumerate(chunks):
            self.put(f"{key}/{i}", chunk, lease)
        self.put(key, json.dumps({"chunks": len(chunks), "bytes": len(packed)}), lease)

    def manifests(self, version: int) -> list[Manifest]:
        """All registered manifests of a version, by rank. Raises WeightsError if there is none or one is torn."""
        ranks = self._keys(f"weights/{version}/", depth=1)
        if not ranks:
            raise WeightsError(f"no segment of weights {version} is registered; known versions: {self.versions()}")
        return [self._manifest(f"weights/{version}/{rank}") for rank in sorted(ranks, key=int)]

    def _manifest(self, key: str) -> Manifest:
        head = json.loads(self.get(key) or "{}")
        parts = [self.get(f"{key}/{i}") for i in range(head.get("chunks", 0))]
        packed = b"".join(part for part in parts if part is not None)
        if not parts or None in parts or len(packed) != head["bytes"]:
            raise WeightsError(f"the manifest {key} is torn: was it deleted or replaced just now?")
        return Manifest.from_json(zlib.decompress(packed))

    def holders(self, version: int, rank: int) -> dict[str, dict[str, Any]]:
        """Which nodes hold a rank's segment: node -> its record (see `k15.weights.transport`)."""
        found = self.prefix(f"weights/{version}/{rank}/at/")
        return {key.rsplit("/", 1)[1]: json.loads(value) for key, value in found.items()}

    def add_holder(self, version: int, rank: int, node: str, record: dict[str, Any], lease: Lease | None = None) -> None:
        self.put(f"weights/{version}/{rank}/at/{node}", json.dumps(record), lease)

    def _keys(self, key: str, depth: int) -> set[str]:
        """Names directly (depth 1) below `key`, without their values."""
        path = self._path(key)
        with self._errors(f"list {key}"):
            end = path[:-1] + chr(ord(path[-1]) + 1)
            found = self._client.get(path, metadata=True, range_end=end, keys_only=True)
        names = (meta["key"].decode()[len(path) :].split("/") for _, meta in found)
        return {"/".join(name) for name in names if len(name) == depth}

    def versions(self) -> list[int]:
        """Versions with at least one registered segment, ascending."""
        return sorted({int(name.split("/")[0]) for name in self._keys("weights/", depth=2)})

    def forget_version(self, version: int) -> None:
        self.delete_prefix(f"weights/{version}/")
