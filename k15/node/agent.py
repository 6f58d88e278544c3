"""The agent, one a node: the report's checkpoint-engine sidecar (2.6.3). It owns the node's processes and weight segments.

    POST   /processes            {name, module, args, env, devices}   start a child (modules of ALLOWED only)
    GET    /processes            all children: pid, alive, returncode, log
    GET    /processes/NAME/log   the last lines of its log
    DELETE /processes/NAME       stop it (SIGTERM, SIGKILL, whole group)
    GET    /ports                {"port": a free one}
    POST   /weights/pull         {version} -> {"paths": [...], "bytes_pulled": n}   make all segments of a version local
    POST   /weights/collect      {keep: [versions]}          drop other versions
    GET    /weights/FILE         a segment or manifest of this node, for peers
    GET    /health               identity of the node
    POST   /shutdown             end: stop the children, leave nothing behind

Every route demands `Authorization: Bearer <the job's token>`.
"""

import asyncio
import glob
import hmac
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from k15.errors import ClusterError, K15Error, unknown_name
from k15.node.children import Children, log_tail
from k15.node.network import free_port, interface_of

ALLOWED = ("k15.runs.controller", "k15.runs.trainer_rank", "k15.sandbox.cli", "vllm.entrypoints.openai.api_server")

Puller = Callable[[int], Awaitable[dict[str, object]]]
Collector = Callable[[list[int]], None]


class Agent:
    """HTTP service over `Children` and this node's weight segments.

    `pull` and `collect` come from the composition (they need the metadata store); `segment_dir` is served to peers.
    """

    def __init__(
        self,
        *,
        node_rank: int,
        address: str,
        token: str,
        log_dir: Path,
        segment_dir: Path,
        pull: Puller,
        collect: Collector,
    ) -> None:
        self.node_rank = node_rank
        self.address = address
        self.token = token
        self.segment_dir = segment_dir
        self.children = Children(log_dir)
        self.shutdown = asyncio.Event()
        self._pull = pull
        self._collect = collect
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> str:
        """Listen on a free port of the node's address; returns the base URL."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 24)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ports", self._ports),
                web.get("/processes", self._list),
                web.post("/processes", self._start_child),
                web.get("/processes/{name}/log", self._log),
                web.delete("/processes/{name}", self._stop_child),
                web.post("/weights/pull", self._pull_weights),
                web.post("/weights/collect", self._collect_weights),
                web.get("/weights/{file}", self._serve_segment),
                web.post("/shutdown", self._shutdown),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return f"http://{self.address}:{self.port}"

    async def close(self) -> None:
        """Stop every child, then the service."""
        await self.children.stop_all()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            return web.json_response({"error": "the bearer token of this job is missing or wrong"}, status=401)
        try:
            return await handler(request)
        except K15Error as error:
            return web.json_response({"error": str(error), "kind": type(error).__name__}, status=409)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"node_rank": self.node_rank, "host": socket.gethostname(), "address": self.address})

    async def _ports(self, _: web.Request) -> web.Response:
        return web.json_response({"port": free_port(self.address), "interface": interface_of(self.address)})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([child.describe() for child in self.children.table.values()])

    async def _start_child(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["module"] not in ALLOWED:
            raise unknown_name("module", body["module"], ALLOWED)
        env = body.get("env", {})
        if body.get("devices") is not None:
            env["CUDA_VISIBLE_DEVICES"] = visible_devices(body["devices"])
        child = await self.children.start(body["name"], body["module"], body.get("args", []), env)
        return web.json_response(child.describe())

    def _named(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self.children.table:
            raise unknown_name("process", name, self.children.table)
        return name

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response({"tail": log_tail(self.children.table[self._named(request)].log)})

    async def _stop_child(self, request: web.Request) -> web.Response:
        name = self._named(request)
        await self.children.stop(name, float(request.query.get("grace_s", "5")))
        return web.json_response(self.children.table[name].describe())

    async def _pull_weights(self, request: web.Request) -> web.Response:
        return web.json_response(await self._pull(int((await request.json())["version"])))

    async def _collect_weights(self, request: web.Request) -> web.Response:
        keep = [int(v) for v in (await request.json())["keep"]]
        await asyncio.to_thread(self._collect, keep)
        return web.json_response({"kept": keep})

    async def _serve_segment(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        path = self.segment_dir / name
        if Path(name).name != name or not path.is_file():
            raise ClusterError(f"node {self.node_rank} has no weight segment {name!r}")
        return web.FileResponse(path, chunk_size=1 << 20)

    async def _shutdown(self, _: web.Request) -> web.Response:
        self.shutdown.set()
        return web.json_response({"ok": True})


def visible_devices(positions: list[int]) -> str:
    """CUDA_VISIBLE_DEVICES for a child: these positions of what Slurm gave this node. Raises ClusterError for too few."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]
    if max(positions) >= len(names):
        raise ClusterError(
            f"an engine wants CUDA device {max(positions)} of this node, which has {len(names)} ({given}). Lower "
            "rollout.engines_per_node or rollout.tensor_parallel, or ask for more GPUs a node."
        )
    return ",".join(names[i] for i in positions)
