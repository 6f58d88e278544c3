"""What the machine can do, measured beside what it does: one core's memory copy, and the link between two processes."""

import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import torch

STREAMS = (1, 2)
REPEATS = 3

SENDER = """
import os, socket, sys
nbytes, address, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
fd = os.open(path, os.O_RDONLY)
server = socket.create_server((address, 0))
print(server.getsockname()[1], flush=True)
while True:
    peer, _ = server.accept()
    if os.fork() == 0:
        at = 0
        while at < nbytes:
            at += os.sendfile(peer.fileno(), fd, at, nbytes - at)
        os._exit(0)
    peer.close()
"""


def memory_copy(nbytes: int) -> float:
    """GB/s of one core's memcpy between two buffers larger than the caches; the best of a few."""
    source, target = torch.ones(nbytes, dtype=torch.uint8), torch.zeros(nbytes, dtype=torch.uint8)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        ctypes.memmove(target.data_ptr(), source.data_ptr(), nbytes)
        best = min(best, time.perf_counter() - start)
    return nbytes / best / 1e9


def link(nbytes: int, address: str = "127.0.0.1") -> float:
    """GB/s of plain TCP from a process that sends shared memory with sendfile to one that throws it away, the best of one and
    two connections: nothing is checked and nothing is stored."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="bench-link-") as file:
        for _ in range(0, nbytes, 1 << 20):
            file.write(os.urandom(1024) * 1024)
        file.flush()
        sender = subprocess.Popen(
            [sys.executable, "-c", SENDER, str(nbytes), address, file.name],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert sender.stdout is not None
            port = int(sender.stdout.readline())
            return max(_receive(address, port, nbytes, streams) for streams in STREAMS for _ in range(REPEATS))
        finally:
            sender.kill()
            sender.wait()


def _receive(address: str, port: int, nbytes: int, streams: int) -> float:
    def one(_: int) -> None:
        block = memoryview(bytearray(4 << 20))
        with socket.create_connection((address, port)) as peer:
            left = nbytes
            while left > 0:
                left -= peer.recv_into(block, min(left, len(block)), socket.MSG_WAITALL)

    start = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(one, range(streams)))
    return streams * nbytes / (time.perf_counter() - start) / 1e9
