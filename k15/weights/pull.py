"""Bring a version's segments to this node: local ones first, the rest over HTTP from the agents that hold them."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from k15.errors import WeightsError
from k15.weights.segments import Manifest, adopt, manifest_path

ATTEMPTS = 3
BLOCK_BYTES = 4 << 20
STALL_S = 60.0  # a peer that sends nothing for so long is taken for dead


def missing(manifests: Iterable[Manifest], node: str, directory: Path) -> list[Manifest]:
    """What `node` must fetch: one manifest a rank whose segment neither was written here nor lies in `directory` whole.

    Where several nodes hold a rank's segment, nodes choose different ones (by name), which spreads the load.
    """
    holders: dict[int, list[Manifest]] = {}
    for manifest in manifests:
        holders.setdefault(manifest.rank, []).append(manifest)
    wanted = []
    for rank, choices in sorted(holders.items()):
        if not any(c.node == node or _present(directory, c) for c in choices):
            choices.sort(key=lambda c: c.node)
            wanted.append(choices[(rank + sum(node.encode())) % len(choices)])
    return wanted


def _present(directory: Path, manifest: Manifest) -> bool:
    """The very segment of this manifest (checksums included) is here already."""
    beside = manifest_path(directory / manifest.file)
    try:
        return Manifest.from_json(beside.read_text()) == manifest
    except FileNotFoundError:
        return False


async def fetch(session: aiohttp.ClientSession, url: str, token: str, dest: Path, manifest: Manifest) -> Path:
    """Copy a segment from the agent at base URL `url` into the directory `dest`; returns its path.

    Streams to a temporary file, verifies every checksum, then renames. Retries what a network can cause.
    Raises WeightsError when the peer has no such segment or all attempts fail.
    """
    source = f"{url.rstrip('/')}/weights/{manifest.file}"
    tmp = dest / f"{manifest.file}.tmp{os.getpid()}-pull"
    fault: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt > 0:
            await asyncio.sleep(0.2 * 4**attempt)
        try:
            await _stream(session, source, token, tmp, manifest.nbytes)
            return await asyncio.to_thread(adopt, tmp, dest, manifest)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, WeightsError) as error:
            fault = error
        finally:
            tmp.unlink(missing_ok=True)
    raise WeightsError(f"{source} could not be copied in {ATTEMPTS} attempts: {fault!r}") from fault


async def _stream(session: aiohttp.ClientSession, source: str, token: str, tmp: Path, nbytes: int) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    limit = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=STALL_S)
    async with session.get(source, headers=headers, timeout=limit) as answer:
        if answer.status != 200:
            raise WeightsError(f"{source} answered {answer.status}: {(await answer.text())[:300]}")
        if answer.content_length not in (None, nbytes):
            raise WeightsError(f"{source} has {answer.content_length} bytes, its manifest says {nbytes}")
        with tmp.open("wb") as out:
            async for block in answer.content.iter_chunked(BLOCK_BYTES):
                await asyncio.to_thread(out.write, block)
