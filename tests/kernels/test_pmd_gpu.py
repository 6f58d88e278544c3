"""pmd_loss on a GPU: large packs, repeatability, no waiting and no compilation in mid-training. Needs torch and triton only."""

import pytest
import torch
from k15.kernels.pmd import pmd_loss, warm_up
from pmd_cases import compare, make_case, run


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lengths", [[131072], [1] * 20000, [131072, 1, 5, 65536] + [37] * 5000, [1024] * 1024], ids=len)
def test_large_packs_on_a_gpu(lengths, as_good):
    device = torch.device("cuda")
    got = compare(make_case(lengths, device), as_good)
    again = run(pmd_loss, make_case(lengths, device), backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_call_does_not_wait_and_compiles_nothing_after_warm_up():
    from k15.kernels.pmd import kernel

    device = torch.device("cuda")
    warm_up(device)
    kernels = (kernel._sums, kernel._finish, kernel._total, kernel._gradient)
    compiled = [len(cache[0]) for k in kernels for cache in k.device_caches.values()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for lengths in ([1], [16, 16], [5, 700, 9]):
            torch.cuda.set_sync_debug_mode("default")
            case = make_case(lengths, device)
            torch.cuda.set_sync_debug_mode("error")
            run(pmd_loss, case, backend="triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert compiled == [len(cache[0]) for k in kernels for cache in k.device_caches.values()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_streams_and_graphs_side_by_side():
    """Replays of two captured calls and eager calls on two streams, all at once: every one gets the bits of a lone call."""
    device = torch.device("cuda")
    cases = [make_case(lengths, device, seed=i) for i, lengths in enumerate(([70000, 5, 3000], [37] * 9000, [1024] * 512))]
    want = [run(pmd_loss, case, backend="triton") for case in cases]
    graphs = []
    for case in cases[:2]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = run(pmd_loss, case, backend="triton")
        graphs.append((graph, got))
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    eager = []
    for _ in range(20):
        for stream, (graph, _) in zip(streams, graphs, strict=False):
            with torch.cuda.stream(stream):
                graph.replay()
        for stream in streams[2:]:
            with torch.cuda.stream(stream):
                eager.append(run(pmd_loss, cases[2], backend="triton"))
    torch.cuda.synchronize()
    for got, expected in [*((g, want[i]) for i, (_, g) in enumerate(graphs)), *((g, want[2]) for g in eager)]:
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
