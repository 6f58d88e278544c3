"""The vLLM side of the hand-off: a worker extension that loads segments in place, and the call that drives it.

Serve with `--worker-extension-cls k15.weights.engine.EngineWeights` and `VLLM_SERVER_DEV_MODE=1`, behind a guard that wants
the job's token on every route (`k15.rollout.guard`): vLLM's own key check leaves the development routes open.

    update_engine:  /pause -> k15_check, k15_load on every worker -> /reset_prefix_cache -> k15_version -> label -> /resume

The label (vLLM's weight version) goes into every answer: `k15.rollout.stream` takes tokens of the right one only.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp

from k15.errors import ConfigError, EngineError, WeightsError
from k15.weights.assemble import Pieces
from k15.weights.layout import hf_shapes
from k15.weights.lazy import Meter
from k15.weights.quantised import refuse_quantised
from k15.weights.segments import load_manifest, read_segment
from k15.weights.vllm_cpu import repacking

LOOK_S, HEALTH_S = 2.0, 10.0
DEAD_STATUS = 503  # of /health
_BROKEN = -2  # a load failed half-way: the weights are of no version


class EngineWeights:
    """Mixed into vLLM's worker class; every name starts with k15_ so that none can clash."""

    def k15_version(self) -> int:
        """The version loaded last; -1 before the first (dummy weights), -2 after a load that failed half-way."""
        return getattr(self, "_k15_version", -1)

    def k15_check(self, version: int, paths: list[str]) -> dict[str, Any]:
        """Check `version` in local segment files: {"check_s", "bytes"} or {"error": why}; the weights are not touched.

        Versions, the exact cover of every tensor of the model, and checksums unless this node has looked at them. All workers
        check before one loads. What is found good is kept for `k15_load`.
        """
        start = time.perf_counter()
        try:
            refuse_quantised(self.vllm_config)
            self._k15_pieces, nbytes = _checked(version, [Path(p) for p in paths], self.model_config.hf_config.to_dict())
        except WeightsError as error:
            return {"error": str(error)}
        return {"check_s": time.perf_counter() - start, "bytes": nbytes}

    def k15_load(self, version: int) -> dict[str, Any]:
        """Load what `k15_check` kept: {"load_s", "copy_s", "bytes_read"}. bytes_read: what this worker copied, its slices alone,
        in copy_s seconds; the rest of load_s is vLLM's (on a CPU it packs the weights anew).

        A failure raises: the weights are then of no version, and the engine must be restarted.
        """
        start = time.perf_counter()
        meter = Meter()
        pieces = self.__dict__.pop("_k15_pieces")
        self._k15_version = _BROKEN
        with repacking(self.get_model()):
            self.reload_weights(weights_iterator=pieces.lazy(meter))
        self._k15_version = version
        return {"load_s": time.perf_counter() - start, "copy_s": meter.copy_s, "bytes_read": meter.bytes_read}

    def k15_forget(self) -> None:
        """Let go of what `k15_check` kept: the memory of its segments may be written again, or freed."""
        self.__dict__.pop("_k15_pieces", None)


def _checked(version: int, paths: list[Path], config: dict[str, Any]) -> tuple[Pieces, int]:
    """The pieces of `paths`, known to be whole, and their bytes. Raises WeightsError."""
    manifests = [load_manifest(path) for path in paths]
    wrong = [f"{path.name} is of version {m.version}" for path, m in zip(paths, manifests) if m.version != version]
    if wrong:
        raise WeightsError(f"weights {version} were asked for, but {'; '.join(wrong)}")
    pieces = Pieces(piece for path, m in zip(paths, manifests) for piece in read_segment(path, m))
    try:
        pieces.check(hf_shapes(config))
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    return pieces, sum(m.nbytes for m in manifests)


async def update_engine(
    session: aiohttp.ClientSession,
    base_url: str,
    token: str,
    version: int,
    paths: list[str],
    *,
    timeout_s: float = 240.0,  # of each call; two long ones fit into what the agent is given (k15.node.client.UPDATE_S)
) -> dict[str, float]:
    """Give the engine at `base_url` the weights `version` from `paths` (segment files on ITS node).

    Running requests are aborted: their calls return the tokens so far. Returns seconds: pause_s, check_s, load_s
    (copy_s of it copying), reset_s, total_s; `bytes` of the segments and `bytes_read`, the most that a worker copied out of
    them. Raises WeightsError if the segments are refused (the engine goes on with its old version) and EngineError if the
    engine's state is unknown (it is left paused: restart it).
    """
    call = _Caller(session, base_url, token, timeout_s)
    start = time.perf_counter()
    await call.post("/pause", params={"mode": "abort"})
    paused = time.perf_counter()
    checks = await call.rpc("k15_check", [version, paths])
    refused = [r["error"] for r in checks if "error" in r]
    if refused:
        await call.rpc("k15_forget", [])
        await call.post("/resume")
        raise WeightsError(f"engine {base_url} refused weights {version}: {refused[0]}")
    loads = await call.rpc("k15_load", [version])
    loaded = time.perf_counter()
    reset = await call.post("/reset_prefix_cache", params={"reset_running_requests": "true"})
    if reset.get("success") is not True:
        raise EngineError(f"engine {base_url} kept its prefix cache of the old weights: {reset}")
    found = await engine_version(session, base_url, token)
    if found != version:
        raise EngineError(f"engine {base_url} reports weights {found} after loading {version}")
    await call.post("/update_weight_version", body={"new_version": str(version)})
    await call.post("/resume")
    end = time.perf_counter()
    times = {key: max(r[key] for r in results) for results in (checks, loads) for key in results[0]}
    return {"pause_s": paused - start, **times, "reset_s": end - loaded, "total_s": end - start}


async def engine_version(session: aiohttp.ClientSession, base_url: str, token: str, timeout_s: float = 60.0) -> int:
    """The version that all workers of the engine hold. Raises EngineError if they differ."""
    versions = {int(v) for v in await _Caller(session, base_url, token, timeout_s).rpc("k15_version", [])}
    if len(versions) != 1:
        raise EngineError(f"the workers of {base_url} hold different weights: {sorted(versions)}")
    return versions.pop()


class _Caller:
    """POST to one engine; EngineError for whatever is not a 200."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, token: str, timeout_s: float) -> None:
        self._session, self._base = session, base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def post(self, path: str, *, params: dict[str, str] | None = None, body: Any = None) -> Any:
        """The answer's JSON. vLLM never answers what its engine's process died over, so the server is asked meanwhile."""
        asked = asyncio.create_task(self._answer(path, params, body))
        try:
            while not (await asyncio.wait({asked}, timeout=LOOK_S))[0]:
                if await self._is_dead():
                    raise EngineError(f"engine {self._base} died during {path}")
            return asked.result()
        finally:
            asked.cancel()

    async def _answer(self, path: str, params: dict[str, str] | None, body: Any) -> Any:
        try:
            async with self._session.post(
                self._base + path, params=params, json=body, headers=self._headers, timeout=self._timeout
            ) as answer:
                if answer.status != 200:
                    raise EngineError(f"engine {self._base}{path} answered {answer.status}: {(await answer.text())[:500]}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(f"engine {self._base}{path} did not answer: {error!r}") from error

    async def _is_dead(self) -> bool:
        """The server says so, or takes no requests any more; not where it is only slow to answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_S)
            async with self._session.get(self._base + "/health", headers=self._headers, timeout=timeout) as answer:
                return answer.status == DEAD_STATUS
        except aiohttp.ClientConnectorError:
            return True
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def rpc(self, method: str, args: list[Any]) -> list[Any]:
        return (await self.post("/collective_rpc", body={"method": method, "args": args}))["results"]
