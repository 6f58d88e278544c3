"""Segments over the agents' HTTP service: ranges in parallel, received where they belong, hashed while they are in the cache."""

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import xxhash

from k15.weights.segments import Entry, Manifest
from k15.weights.transport import STALL_S, Sink, TransferError, spans

STREAMS = 2  # connections a segment; a node copies several segments at once
BLOCK_BYTES = 4 << 20
_CONNECT_S = 10.0
_LOOK_S = 0.5  # how often a waiting receiver looks whether it is still wanted


class Http:
    """`GET <url>/weights/<file>` with the job's `token`; every agent offers it."""

    name = "http"
    needs_mapping = False

    def __init__(self, token: str, url: str, streams: int = STREAMS) -> None:
        self._token, self._url, self._streams = token, url, streams

    def offer(self, directory: Path, manifest: Manifest) -> str:
        return self._url

    def read(self, offered: str, sink: Sink, entries: list[Entry]) -> None:
        """Raises TransferError with the first stream's fault; what other streams brought counts."""
        runs = list(spans(entries, self._streams))
        if len(runs) == 1:
            self._stream(offered, sink, runs[0])
            return
        with ThreadPoolExecutor(len(runs), thread_name_prefix="pull") as pool:
            for done in [pool.submit(self._stream, offered, sink, run) for run in runs]:
                done.result()

    def _stream(self, url: str, sink: Sink, run: list[Entry]) -> None:
        """One connection, one range."""
        source = f"{url.rstrip('/')}/weights/{sink.manifest.file}"
        first, last = run[0].offset, run[-1].offset + run[-1].nbytes
        if last == first:
            for entry in run:
                sink.arrived(entry, xxhash.xxh3_64_intdigest(b""), source)
            return
        try:
            with _Connection(source, self._token, sink) as peer:
                peer.request(first, last)
                scratch = memoryview(bytearray(BLOCK_BYTES))
                at = first
                for entry in run:
                    peer.skip(entry.offset - at, scratch)
                    sink.arrived(entry, _receive(peer, sink, entry, scratch), source)
                    at = entry.offset + entry.nbytes
        except OSError as error:
            raise TransferError(f"{source}: {error!r}") from error

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


def _receive(peer: "_Connection", sink: Sink, entry: Entry, scratch: memoryview) -> int:
    """One entry's bytes into the sink; returns their checksum."""
    digest = xxhash.xxh3_64()
    for start in range(0, entry.nbytes, BLOCK_BYTES):
        size = min(BLOCK_BYTES, entry.nbytes - start)
        window = sink.buffer.window(entry.offset + start, size)
        block = window if window is not None else scratch[:size]
        peer.fill(block)
        digest.update(block)
        if window is None:
            sink.buffer.write(entry.offset + start, block)
    return digest.intdigest()


class _Connection:
    """A blocking socket with the answer's head taken off."""

    def __init__(self, source: str, token: str, sink: Sink) -> None:
        self._source, self._token, self._sink = urlsplit(source), token, sink

    def __enter__(self) -> "_Connection":
        host, port = self._source.hostname, self._source.port
        assert host is not None and port is not None, self._source
        self._socket = socket.create_connection((host, port), timeout=_CONNECT_S)
        self._socket.settimeout(None)  # the kernel's time limit instead, under which MSG_WAITALL still fills whole blocks
        limit = struct.pack("ll", int(_LOOK_S), int(_LOOK_S % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, first: int, last: int) -> None:
        """Ask for bytes [first, last). Raises TransferError unless exactly these are coming."""
        self._socket.sendall(
            f"GET {self._source.path} HTTP/1.1\r\nHost: {self._source.netloc}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Range: bytes={first}-{last - 1}\r\nConnection: close\r\n\r\n".encode()
        )
        head = self._head()
        status = head.split(" ", 2)[1]
        length = next(
            (line.split(":")[1].strip() for line in head.split("\r\n") if line.lower().startswith("content-length:")), "?"
        )
        if status != "206":
            why = bytes(self._some(int(length)))[:300].decode(errors="replace") if length.isdigit() and int(length) < 4096 else ""
            raise TransferError(f"{self._source.geturl()} answered {status}: {why}")
        if length != str(last - first):
            raise TransferError(f"{self._source.geturl()} sends {length} bytes where {last - first} were asked for")

    def _head(self) -> str:
        """The answer's head; the body stays in the socket."""
        started = time.monotonic()
        while True:
            try:
                seen = self._socket.recv(16384, socket.MSG_PEEK)
            except BlockingIOError:
                seen = None
            if seen and b"\r\n\r\n" in seen:
                return self._socket.recv(seen.index(b"\r\n\r\n") + 4).decode("latin-1")
            if seen == b"":
                raise TransferError(f"{self._source.geturl()} closed the connection")
            self._check(started)
            time.sleep(0.001)

    def _some(self, nbytes: int) -> memoryview:
        block = memoryview(bytearray(nbytes))
        self.fill(block)
        return block

    def fill(self, block: memoryview) -> None:
        """Receive exactly len(block) bytes. Raises TransferError at the connection's end or after a stall."""
        done, heard = 0, time.monotonic()
        while done < len(block):
            try:
                count = self._socket.recv_into(block[done:], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                self._check(heard)
                continue
            if count == 0:
                raise TransferError(f"{self._source.geturl()} ended early")
            done, heard = done + count, time.monotonic()
        self._sink.check_wanted()

    def skip(self, nbytes: int, scratch: memoryview) -> None:
        """Drop bytes: the padding between entries, and entries that are there already."""
        while nbytes > 0:
            self.fill(scratch[: min(nbytes, len(scratch))])
            nbytes -= min(nbytes, len(scratch))

    def _check(self, heard: float) -> None:
        self._sink.check_wanted()
        if time.monotonic() - heard > STALL_S:
            raise TransferError(f"{self._source.geturl()} sent nothing for {STALL_S:.0f} s")
