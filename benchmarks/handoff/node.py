"""One virtual node as a process: an agent, its segments in shared memory, commands as JSON lines on stdin.

python -m benchmarks.handoff.node NAME FOLDER ETCD PASSWORD TRANSPORT
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import for_modules
from k15.node.agent import Agent
from k15.node.versions import Versions
from k15.weights.store import Store

TOKEN = "benchmark-token-of-one-run"


async def serve(name: str, folder: Path, etcd: str, password: str, transport: str) -> None:
    store = Store(etcd, "/k15/handoff", password)

    def peers() -> dict[str, str]:
        return {key.rsplit("/", 1)[1]: json.loads(value)["url"] for key, value in store.prefix("agents/").items()}

    versions = Versions(store, name, folder, TOKEN, peers, transport=transport)
    agent = Agent(node_rank=int(name), address="127.0.0.1", token=TOKEN, log_dir=folder.parent / "logs", segment_dir=folder,
                  pull=versions.pull, collect=versions.collect)  # fmt: skip
    held = store.hold(f"agents/{name}", json.dumps({"url": await agent.start()}), 15)
    print(json.dumps({"ready": True}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        start = time.perf_counter()
        if "pull" in command:
            answer = await versions.pull(command["pull"])
        else:
            versions.collect(command["collect"])
            answer = {}
        print(json.dumps({**answer, "seconds": time.perf_counter() - start}), flush=True)
    held.close()
    await agent.close()
    versions.close()


class Node:
    """The parent's side of one node."""

    def __init__(self, name: str, folder: Path, etcd: str, password: str, transport: str) -> None:
        self.name, self.folder = name, folder
        folder.mkdir()
        argv = [sys.executable, "-m", "benchmarks.handoff.node", name, str(folder), etcd, password, transport]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **for_modules())
        self.answer()

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises RuntimeError when the node has ended."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):  # Mooncake's library writes to the same place
                return json.loads(line)
        raise RuntimeError(f"node {self.name} ended with code {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


if __name__ == "__main__":
    words = sys.argv[1:]
    asyncio.run(serve(words[0], Path(words[1]), *words[2:]))
