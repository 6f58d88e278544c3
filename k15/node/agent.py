"""The agent, one a node: the report's checkpoint-engine sidecar (2.6.3). It owns the node's processes and
weight segments, and manages its engines.

Its routes are the table `k15.node.api.ROUTES`, served as OpenAPI at /openapi.json; every one, that too, demands
`Authorization: Bearer <the job's token>`, and it listens on the job's interface alone.
"""

import asyncio
import glob
import hmac
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from k15.errors import ClusterError, ConfigError, K15Error, unknown_name
from k15.log import get_logger
from k15.node.api import ROUTES, Route, openapi, read_body
from k15.node.children import Child, Children, log_tail
from k15.node.engines import NodeEngines, Puller
from k15.node.metrics import Pulls, Snapshot, render, segment_bytes
from k15.node.network import free_port, interface_of

log = get_logger("agent")
ALLOWED = ("k15.runs.controller", "k15.runs.trainer_rank", "k15.sandbox.cli", "vllm.entrypoints.openai.api_server")

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
        self.again = False  # told to end because the job is requeued: a visiting node may wait for its next start
        self._puller = pull
        self._collect = collect
        self._pulls = Pulls()
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._engines: NodeEngines | None = None
        self.url = ""

    @property
    def engines(self) -> NodeEngines:
        assert self._engines is not None, "start first"
        return self._engines

    async def start(self) -> str:
        """Listen on a free port of the node's address; returns the base URL."""
        self._session = aiohttp.ClientSession()
        self._engines = NodeEngines(self.token, self._pull, self._session)
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 24)
        app.add_routes([web.route(route.method, route.path, self._served(route)) for route in ROUTES])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0)
        await site.start()
        self.url = f"http://{self.address}:{self._runner.addresses[0][1]}"
        return self.url

    async def close(self) -> None:
        """Stop every child, then the service."""
        await self.children.stop_all()
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _served(self, route: Route):
        """The handler of a route: its body is checked against the table before the method sees it."""
        method = getattr(self, f"_{route.handler}")

        async def handle(request: web.Request) -> web.StreamResponse:
            if not route.body:
                return await method(request)
            try:
                given = await request.json()
            except ValueError as error:
                raise ConfigError(f"the body of {route.method} {route.path} is not JSON: {error}") from error
            return await method(request, read_body(route, given))

        return handle

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            return web.json_response({"error": "the bearer token of this job is missing or wrong"}, status=401)
        try:
            return await handler(request)
        except K15Error as error:
            status = 400 if isinstance(error, ConfigError) else 409
            return web.json_response({"error": str(error), "kind": type(error).__name__}, status=status)
        except web.HTTPException:
            raise
        except Exception as error:  # a fault of ours: the caller must not take it for an agent that is away
            log.exception("%s %s", request.method, request.path)
            return web.json_response({"error": repr(error), "kind": type(error).__name__}, status=500)

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.json_response(openapi(self.url))

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"node_rank": self.node_rank, "host": socket.gethostname(), "address": self.address})

    async def _ports(self, _: web.Request) -> web.Response:
        return web.json_response({"port": free_port(self.address), "interface": interface_of(self.address)})

    async def _metrics(self, _: web.Request) -> web.Response:
        segments = await asyncio.to_thread(segment_bytes, self.segment_dir)
        text = render(Snapshot(self.children.table, self.engines.updates, segments, self._pulls))
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _processes(self, _: web.Request) -> web.Response:
        return web.json_response([child.describe() for child in self.children.table.values()])

    async def _start_process(self, _: web.Request, body: dict[str, Any]) -> web.Response:
        if body["module"] not in ALLOWED:
            raise unknown_name("module", body["module"], ALLOWED)
        env = dict(body["env"]) if body["env"] is not None else {}
        if body["devices"] is not None:
            env["CUDA_VISIBLE_DEVICES"] = visible_devices(body["devices"])
        args = body["args"] if body["args"] is not None else []
        child = await self.children.start(body["name"], body["module"], args, env, url=body["url"])
        return web.json_response(child.describe())

    def _named(self, request: web.Request) -> Child:
        name = request.match_info["name"]
        if name not in self.children.table:
            raise unknown_name("process", name, self.children.table)
        return self.children.table[name]

    async def _process_log(self, request: web.Request) -> web.Response:
        return web.json_response({"tail": log_tail(self._named(request).log)})

    async def _stop_process(self, request: web.Request) -> web.Response:
        child = self._named(request)
        await self.children.stop(child.name, float(request.query.get("grace_s", "5")))
        return web.json_response(child.describe())

    async def _engine_sleep(self, request: web.Request) -> web.Response:
        await self.engines.sleep(self._named(request))
        return web.json_response({})

    async def _engine_wake(self, request: web.Request) -> web.Response:
        await self.engines.wake(self._named(request))
        return web.json_response({})

    async def _engine_update(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response(await self.engines.update(self._named(request), body["version"]))

    async def _versions(self, _: web.Request) -> web.Response:
        children = [child for child in self.children.table.values() if child.url is not None]
        found = await asyncio.gather(*(self.engines.version(child) for child in children))
        segments = await asyncio.to_thread(segment_bytes, self.segment_dir)
        return web.json_response({"segments": segments, "engines": {c.name: v for c, v in zip(children, found, strict=True)}})

    async def _pull(self, version: int) -> dict[str, Any]:
        start = time.monotonic()
        got = await self._puller(version)
        self._pulls.add(version, got["bytes_pulled"], time.monotonic() - start)
        return got

    async def _pull_weights(self, _: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response(await self._pull(body["version"]))

    async def _collect_weights(self, _: web.Request, body: dict[str, Any]) -> web.Response:
        keep = [int(v) for v in body["keep"]]
        await asyncio.to_thread(self._collect, keep)
        return web.json_response({"kept": keep})

    async def _weights_file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        path = self.segment_dir / name
        if Path(name).name != name or not path.is_file():
            raise ClusterError(f"node {self.node_rank} has no weight segment {name!r}")
        return web.FileResponse(path, chunk_size=1 << 20)

    async def _end(self, request: web.Request) -> web.Response:
        self.again = request.query.get("again") == "1"
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
