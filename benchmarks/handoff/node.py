"""One virtual node as a process: an agent, its segments in shared memory, commands as JSON lines on stdin.

python -m benchmarks.handoff.node NAME FOLDER ETCD PASSWORD TRANSPORT NODES
Over MPI all nodes are one world, started together; each then has two named pipes in place of stdin and stdout (`Node.PIPES`).
"""

import asyncio
import errno
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.machine import for_modules
from k15.node.agent import Agent
from k15.node.versions import Versions
from k15.weights.store import Store

TOKEN = "benchmark-token-of-one-run"
START_S = 180.0  # of all ranks of a world


async def serve(name: str, folder: Path, etcd: str, password: str, transport: str, nodes: int) -> None:
    store = Store(etcd, "/k15/handoff", password)

    def peers() -> dict[str, str]:
        return {key.rsplit("/", 1)[1]: json.loads(value)["url"] for key, value in store.prefix("agents/").items()}

    versions = Versions(store, name, folder, TOKEN, peers, transport=transport, nodes=nodes)
    agent = Agent(node_rank=int(name), address="127.0.0.1", token=TOKEN, log_dir=folder.parent / "logs", segment_dir=folder,
                  pull=versions.pull, collect=versions.collect)  # fmt: skip
    url = await agent.start()
    held = store.hold(f"agents/{name}", json.dumps({"url": url}), 15)
    await asyncio.to_thread(versions.open, url)
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
    """The parent's side of one node: what goes in, what comes out, and the process (of MPI: that of all nodes)."""

    PIPES = ("commands", "answers")

    def __init__(self, name: str, into: IO[str], out: IO[str], process: subprocess.Popen) -> None:
        self.name, self.into, self.out, self.process = name, into, out, process

    def tell(self, **command: Any) -> None:
        self.into.write(json.dumps(command) + "\n")
        self.into.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises RuntimeError when the node has ended."""
        while line := self.out.readline():
            if line.startswith("{"):  # Mooncake's library writes to the same place
                return json.loads(line)
        raise RuntimeError(f"node {self.name} ended with code {self.process.wait()}")


def end(nodes: list[Node]) -> None:
    """All together: those over MPI share a process."""
    for node in nodes:
        node.into.close()
    for node in nodes:
        try:
            node.process.wait(20)
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait()


def start(root: Path, count: int, etcd: str, password: str, transport: str) -> list[Node]:
    """`count` nodes with folders in `root`, ready."""
    for i in range(count):
        (root / str(i)).mkdir()
    words = [
        [sys.executable, "-m", "benchmarks.handoff.node", str(i), str(root / str(i)), etcd, password, transport, str(count)]
        for i in range(count)
    ]
    nodes = _world(root, words) if transport == "mpi" else [_alone(i, argv) for i, argv in enumerate(words)]
    for node in nodes:
        node.answer()
    return nodes


def _alone(number: int, argv: list[str]) -> Node:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **for_modules())
    assert process.stdin is not None and process.stdout is not None
    return Node(str(number), process.stdin, process.stdout, process)


def _world(root: Path, words: list[list[str]]) -> list[Node]:
    """All ranks of one mpiexec, which passes stdin to the first alone: hence named pipes. Raises RuntimeError when it ends, or
    START_S are over, before all ranks have opened theirs."""
    launcher = mpiexec()
    if launcher is None:
        raise RuntimeError("there is no mpiexec beside Python nor on the path; install it (pip install mpich)")
    for i in range(len(words)):
        for pipe in Node.PIPES:
            os.mkfifo(root / str(i) / pipe)
    argv = [launcher]
    for i, rank in enumerate(words):
        argv += [*([":"] if i else []), "-n", "1", *rank]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, **for_modules())
    pipes = [[root / str(i) / pipe for pipe in Node.PIPES] for i in range(len(words))]
    try:
        return opened(pipes, process, START_S)
    except RuntimeError:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def mpiexec() -> str | None:
    """The one of this Python's environment, else the machine's."""
    return shutil.which(str(Path(sys.executable).with_name("mpiexec"))) or shutil.which("mpiexec")


def opened(pipes: list[list[Path]], process: subprocess.Popen, limit_s: float) -> list[Node]:
    """This side of the ranks' [commands, answers]. A rank opens its two one after the other, and a plain open would wait for one
    that has died. Raises RuntimeError when `process` ends, or limit_s are over, first."""
    end_s = time.monotonic() + limit_s

    def look(rank: int) -> None:
        if process.poll() is not None:
            raise RuntimeError(f"mpiexec ended with code {process.returncode} before rank {rank} had started")
        if time.monotonic() > end_s:
            raise RuntimeError(f"rank {rank} has not started within {limit_s:.0f} s")

    answers = [os.open(pair[1], os.O_RDONLY | os.O_NONBLOCK) for pair in pipes]
    commands: list[int] = []
    try:
        while len(commands) < len(pipes):
            try:
                commands.append(os.open(pipes[len(commands)][0], os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody reads it yet
                    raise
                look(len(commands))
                time.sleep(0.05)
        for rank, fd in enumerate(answers):  # before its first byte, a read would take a pipe without writer for ended
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            while not waiting.poll(200):
                look(rank)
    except RuntimeError:
        for fd in [*answers, *commands]:
            os.close(fd)
        raise
    for fd in [*answers, *commands]:
        os.set_blocking(fd, True)
    return [
        Node(str(i), os.fdopen(w, "w"), os.fdopen(r), process) for i, (w, r) in enumerate(zip(commands, answers, strict=True))
    ]


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[4] == "mpi":
        sys.stdin, sys.stdout = ((Path(words[1]) / p).open(mode) for p, mode in zip(Node.PIPES, "rw", strict=True))
    asyncio.run(serve(words[0], Path(words[1]), *words[2:5], int(words[5])))
