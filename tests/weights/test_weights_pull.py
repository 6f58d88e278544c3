"""Segments travel between nodes over a real HTTP server; damage and dead peers are noticed."""

import aiohttp
import pytest
import torch
from aiohttp import web

from k15.errors import WeightsError
from k15.weights import pull
from k15.weights.layout import Slice
from k15.weights.segments import load_manifest, read_segment, write_segment

TOKEN = "job-token"


@pytest.fixture
async def peer(tmp_path):
    """(base URL, folder it serves, list of faults to play, one an answer)."""
    folder, faults = tmp_path / "peer", []
    folder.mkdir()

    async def serve(request):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, text="no")
        path = folder / request.match_info["file"]
        fault = faults.pop() if faults else None
        if not path.exists() or fault == "busy":
            return web.Response(status=503 if fault else 404, text="no such file")
        if fault == "flip":
            raw = bytearray(path.read_bytes())
            raw[100] ^= 4
            return web.Response(body=bytes(raw))
        if fault == "cut":
            answer = web.StreamResponse(headers={"Content-Length": str(path.stat().st_size)})
            await answer.prepare(request)
            await answer.write(path.read_bytes()[:1000])
            request.transport.abort()
            return answer
        return web.FileResponse(path)

    app = web.Application()
    app.router.add_get("/weights/{file}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", folder, faults
    await runner.cleanup()


def slices(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return [Slice(f"w{i}", (50, 40), (0, 0), torch.randn(50, 40, generator=generator)) for i in range(3)]


async def test_what_is_missing_arrives_whole(peer, tmp_path, monkeypatch):
    url, folder, faults = peer
    mine = tmp_path / "mine"
    mine.mkdir()
    far = [write_segment(folder, 5, rank, slices(rank), node="far") for rank in (0, 1)]
    near = write_segment(mine, 5, 2, slices(2), node="near")
    wanted = pull.missing([*far, near], "near", mine)
    assert wanted == far and pull.missing([near], "far", folder) == [near]

    real_sleep = pull.asyncio.sleep
    monkeypatch.setattr(pull.asyncio, "sleep", lambda s: real_sleep(0))  # no waiting between attempts
    async with aiohttp.ClientSession() as session:
        for manifest, fault in zip(wanted, (["flip", "cut"], ["busy"]), strict=True):
            faults[:] = fault
            path = await pull.fetch(session, url, TOKEN, mine, manifest)
            assert not faults and load_manifest(path) == manifest
            for want, found in zip(slices(manifest.rank), read_segment(path, manifest), strict=True):
                assert torch.equal(want.tensor, found.tensor)
        assert pull.missing([*far, near], "near", mine) == []

        rewritten = write_segment(folder, 5, 0, slices(77), node="far")  # same file name, other weights
        assert pull.missing([rewritten, far[1], near], "near", mine) == [rewritten]

        faults[:] = ["flip"] * 9
        before = sorted(p.name for p in mine.iterdir())
        with pytest.raises(WeightsError, match=r"3 attempts.*damaged"):
            await pull.fetch(session, url, TOKEN, mine, rewritten)
        faults.clear()
        for bad_url, token, why in ((url, "wrong", "401"), ("http://127.0.0.1:9", TOKEN, "Connect")):
            with pytest.raises(WeightsError, match=why):
                await pull.fetch(session, bad_url, token, mine, rewritten)
        assert sorted(p.name for p in mine.iterdir()) == before, "nothing half-done is left"
        assert load_manifest(mine / far[0].file) == far[0], "the old segment was not touched"


def test_several_holders_share_the_load(tmp_path):
    held = [write_segment(tmp_path / n, 1, r, slices(r), node=n) for r in range(4) for n in ("a", "b") if made(tmp_path / n)]
    empty = tmp_path / "empty"
    empty.mkdir()
    chosen = [m.node for m in pull.missing(held, "c", empty)]
    assert sorted(chosen) == ["a", "a", "b", "b"]
    assert chosen != [m.node for m in pull.missing(held, "d", empty)]
    assert pull.missing(held, "a", empty) == []


def made(folder):
    folder.mkdir(exist_ok=True)
    return True
