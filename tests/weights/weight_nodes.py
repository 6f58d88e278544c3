"""Nodes in one process: agents and folders of their own, one store, a wire before each agent that can be cut."""

import contextlib
import socket
import threading
import time

import torch

from k15.errors import ClusterError
from k15.node.agent import Agent
from k15.node.versions import Versions
from k15.weights.layout import Slice
from k15.weights.segments import load_manifest, read_segment, write_segment

TOKEN = "job-token"


class Wire(threading.Thread):
    """A TCP relay before an agent that cuts or stalls the connections in `faults` after so many bytes; counts what it sends."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.faults: list[tuple[str, int]] = []
        self.sent = 0
        self.target = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                fault = self.faults.pop(0) if self.faults else ("", 1 << 60)
                threading.Thread(target=self.relay, args=(near, *fault), daemon=True).start()

    def relay(self, near: socket.socket, fault: str, after: int) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(self.target) as far:
            far.sendall(near.recv(65536))
            passed = 0
            while block := far.recv(1 << 20):
                near.sendall(block[: max(after - passed, 0)])
                passed += len(block)
                self.sent += len(block)
                if passed > after and fault == "stall":
                    time.sleep(6)
                if passed > after:
                    return


class Cluster:
    """Nodes with agents and folders of their own, one store, a wire before each agent."""

    def __init__(self, folder, store, **settings) -> None:
        self.folder, self.store, self.settings = folder, store, settings
        self.versions, self.wires, self.agents, self.held = {}, {}, [], {}

    async def add(self, node: str) -> Versions:
        directory = self.folder / node
        directory.mkdir()
        versions = Versions(
            self.store, node, directory, TOKEN, lambda: {n: w.url for n, w in self.wires.items()}, **self.settings
        )
        agent = Agent(node_rank=len(self.agents), address="127.0.0.1", token=TOKEN, log_dir=self.folder / "logs",
                      segment_dir=directory, pull=versions.pull, collect=versions.collect)  # fmt: skip
        self.agents.append(agent)
        self.wires[node] = Wire(await agent.start())
        self.held[node] = self.store.hold(f"agents/{node}", "{}", ttl_s=3)
        self.versions[node] = versions
        return versions

    def write(self, node: str, version: int, rank: int, seed: int = 0, rows: int = 50):
        manifest = write_segment(self.folder / node, version, rank, slices(rank + seed, rows), node=node)
        self.store.register_manifest(version, manifest, self.store.lease_of(f"agents/{node}"))
        return manifest

    async def close(self) -> None:
        for held in self.held.values():
            with contextlib.suppress(ClusterError):
                held.close()
        for versions in self.versions.values():
            versions.close()
        for agent in self.agents:
            await agent.close()
        for wire in self.wires.values():
            wire.listener.close()


def slices(seed: int, rows: int = 50):
    generator = torch.Generator().manual_seed(seed)
    names = [f"r{seed % 10}.w{i}" for i in range(3)]
    return [Slice(n, (rows, 40), (0, 0), torch.randn(rows, 40, generator=generator)) for n in names]


def same(directory, manifest, seed: int = 0, rows: int = 50) -> bool:
    found = read_segment(directory / manifest.file, load_manifest(directory / manifest.file), verify=True)
    want = slices(manifest.rank + seed, rows)
    return all(torch.equal(a.tensor, b.tensor) for a, b in zip(want, found, strict=True))
