"""The node's engine manager (report 2.6.3): it puts this node's vLLM servers to sleep, wakes them, gives them weight versions."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from k15.errors import ClusterError, EngineError
from k15.node.children import Child
from k15.weights.engine import engine_version, update_engine

SWITCH_S = 120.0  # of sleep and wake: moving the weights between host and device
ANSWER_S = 10.0

Puller = Callable[[int], Awaitable[dict[str, Any]]]


class NodeEngines:
    """Over the children that were started with a `url`. `pull(version)` makes a version's segments local.

    Every method raises EngineError for an engine that does not do what it was told, ClusterError for a child without a url.
    """

    def __init__(self, token: str, pull: Puller, session: aiohttp.ClientSession) -> None:
        self._token, self._pull, self._session = token, pull, session
        self.updates: dict[str, dict[str, float]] = {}  # of the last update, by engine

    async def sleep(self, child: Child) -> None:
        """Move the weights to host memory and drop the KV cache (vLLM's sleep level 1; CUDA only)."""
        await self._post(child, "/sleep?level=1")

    async def wake(self, child: Child) -> None:
        await self._post(child, "/wake_up")

    async def update(self, child: Child, version: int) -> dict[str, float]:
        """Load `version` in place; seconds by part and bytes. Raises WeightsError where its segments cannot be had or are
        refused: the engine then goes on with what it held."""
        start = time.monotonic()
        paths: list[str] = (await self._pull(version))["paths"]
        pulled = time.monotonic()
        times = await update_engine(self._session, _url(child), self._token, version, paths)
        self.updates[child.name] = {**times, "pull_s": pulled - start, "version": version}
        return self.updates[child.name]

    async def version(self, child: Child) -> int | None:
        """What its workers hold; None while it does not answer."""
        try:
            return await engine_version(self._session, _url(child), self._token, timeout_s=ANSWER_S)
        except EngineError:
            return None

    async def _post(self, child: Child, route: str) -> None:
        url, headers = _url(child) + route, {"Authorization": f"Bearer {self._token}"}
        try:
            async with self._session.post(url, headers=headers, timeout=aiohttp.ClientTimeout(total=SWITCH_S)) as answer:
                if answer.status != 200:
                    raise EngineError(f"{child.name} answered {answer.status} to {route}: {(await answer.text())[:300]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(f"{child.name} did not answer {route}: {error!r}") from error


def _url(child: Child) -> str:
    if child.url is None:
        raise ClusterError(f"process {child.name!r} is no engine: it was started without a url.")
    return child.url
