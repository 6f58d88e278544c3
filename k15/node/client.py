"""The controller's handle on an agent."""

from collections.abc import Mapping, Sequence

import aiohttp

from k15.errors import ClusterError, EngineError, WeightsError

UPDATE_S = 600.0
_KINDS: dict[str, type[ClusterError | EngineError | WeightsError]] = {"EngineError": EngineError, "WeightsError": WeightsError}


class AgentClient:
    """Typed calls to one agent's HTTP API. Raises ClusterError where it does not answer, and with the agent's own message;
    what it says of engines and weights as EngineError and WeightsError."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str, node_rank: int) -> None:
        self.session = session
        self.url = url
        self.node_rank = node_rank
        self._headers = {"Authorization": f"Bearer {token}"}

    async def _call(self, method: str, route: str, *, json: object = None, timeout_s: float = 60.0):
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self.session.request(
                method, self.url + route, json=json, headers=self._headers, timeout=timeout
            ) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ClusterError(f"the agent of node {self.node_rank} at {self.url} does not answer {route}: {error!r}") from error
        if answer.status != 200:
            kind = _KINDS.get(body.get("kind", ""), ClusterError)
            raise kind(f"agent of node {self.node_rank}, {method} {route}: {body.get('error', body)}")
        return body

    async def health(self) -> dict:
        return await self._call("GET", "/health", timeout_s=10)

    async def free_port(self) -> tuple[int, str]:
        """(a free TCP port, the interface of the node's address)."""
        body = await self._call("GET", "/ports")
        return body["port"], body["interface"]

    async def start(
        self, name: str, module: str, args: Sequence[str], env: Mapping[str, str], devices: Sequence[int] | None = None,
        url: str | None = None,
    ) -> dict:  # fmt: skip
        """`devices`: positions in the node's own list of CUDA devices that the process may see; None: all. `url`: where an
        engine will listen."""
        body = {"name": name, "module": module, "args": list(args), "env": dict(env), "devices": devices, "url": url}
        return await self._call("POST", "/processes", json=body)

    async def stop(self, name: str, grace_s: float = 5.0) -> dict:
        return await self._call("DELETE", f"/processes/{name}?grace_s={grace_s}", timeout_s=grace_s + 30)

    async def processes(self) -> dict[str, dict]:
        return {p["name"]: p for p in await self._call("GET", "/processes", timeout_s=20)}

    async def log_tail(self, name: str) -> str:
        return (await self._call("GET", f"/processes/{name}/log"))["tail"]

    async def sleep(self, engine: str) -> None:
        await self._call("POST", f"/engines/{engine}/sleep", timeout_s=150)

    async def wake(self, engine: str) -> None:
        await self._call("POST", f"/engines/{engine}/wake", timeout_s=150)

    async def update(self, engine: str, version: int) -> dict[str, float]:
        """Pull what is missing of `version` and load it in place; see `NodeEngines.update`."""
        return await self._call("POST", f"/engines/{engine}/update", json={"version": version}, timeout_s=UPDATE_S)

    async def versions(self) -> dict:
        return await self._call("GET", "/versions", timeout_s=30)

    async def pull(self, version: int) -> dict:
        return await self._call("POST", "/weights/pull", json={"version": version}, timeout_s=UPDATE_S)

    async def collect(self, keep: Sequence[int]) -> None:
        await self._call("POST", "/weights/collect", json={"keep": list(keep)})

    async def shutdown(self, *, again: bool = False) -> None:
        """`again`: the job is requeued, and who visits may wait for it."""
        await self._call("POST", f"/shutdown?again={int(again)}", timeout_s=10)
