"""A weight version on this node: which segments make it whole, and fetching those that are elsewhere (report 2.6.3)."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

import aiohttp

from k15.weights.pull import fetch, missing
from k15.weights.segments import Manifest, segment_name
from k15.weights.store import Store


def one_of_each(manifests: Iterable[Manifest], node: str) -> list[Manifest]:
    """One manifest for each distinct set of slices: this node's own where it has one, else by rank in turn over nodes.

    Data-parallel twins on several nodes hold the same slices; each node needs them once.
    """
    twins: dict[frozenset, list[Manifest]] = {}
    for m in sorted(manifests, key=lambda m: m.rank):
        twins.setdefault(frozenset((e.name, e.starts) for e in m.entries), []).append(m)
    return [next((m for m in same if m.node == node), same[sum(node.encode()) % len(same)]) for same in twins.values()]


async def pull_version(
    session: aiohttp.ClientSession,
    store: Store,
    version: int,
    node: str,
    directory: Path,
    peers: Mapping[str, str],
    token: str,
) -> dict[str, object]:
    """Make `version` whole in `directory`; {"paths": local segment files, "bytes_pulled": from `peers` (node -> URL)}.

    Raises WeightsError when the version is not registered or a peer cannot give its part.
    """
    chosen = one_of_each(await asyncio.to_thread(store.manifests, version), node)
    absent = missing(chosen, node, directory)
    await asyncio.gather(*(fetch(session, peers[m.node], token, directory, m) for m in absent))
    return {
        "paths": [str(directory / segment_name(version, m.rank)) for m in chosen],
        "bytes_pulled": sum(m.nbytes for m in absent),
    }
