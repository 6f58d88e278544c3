"""What only a GPU shows: real sizes, the library's fp32-output products, memory, repeatability, late errors, no late compiles."""

import gc

import pytest
import torch
from k15.kernels import scratch
from k15.kernels.logprob import check_arrived, linear_logprob, linear_pmd, product, tuning, warm_up
from logprob_cases import logprob_and_gradients, make, pmd_and_gradients, sequences
from triton_mode import INTERPRET

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(INTERPRET, reason="needs a GPU")]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("forward", ["blocks", "fused"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_large_shapes_forward_and_gradients(dtype, forward, as_good):
    for tokens, width, vocab in ((1, 1024, 32003), (2050, 1024, 32064), (700, 507, 5003)):
        x = make(tokens, width, vocab, dtype, CUDA)
        exact, plain = logprob_and_gradients(x, "exact"), logprob_and_gradients(x, "plain")
        with tuning.changed(CUDA, forward=forward, d_bytes=64 << 20, logits_bytes=16 << 20):
            first, second = (logprob_and_gradients(x, "ours", backend="triton") for _ in range(2))
        for name, value in first.items():
            assert torch.equal(value, second[name]), f"{name} does not repeat bit for bit"
            as_good(value, plain[name], exact[name], what=f"{tokens} x {width} x {vocab}: {name}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("first_step", [False, True])
def test_fused_at_large_shapes(dtype, first_step, as_good):
    lengths = [300, 1, 1500, 77, 640]
    x, s = make(sum(lengths), 1024, 32064, dtype, CUDA), sequences(lengths, first_step=first_step, device="cuda")
    exact, plain = pmd_and_gradients(x, s, "exact"), pmd_and_gradients(x, s, "plain")
    with tuning.changed(CUDA, d_bytes=1000 * 32064 * dtype.itemsize, logits_bytes=300 * 32064 * 4):
        first, second = (pmd_and_gradients(x, s, "ours", backend="triton") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} does not repeat bit for bit"
        as_good(value, plain[name], exact[name], what=name)


@pytest.mark.parametrize("way", ["library", "scratch", "triton"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_way_to_add_a_product(way, dtype, as_good, monkeypatch):
    """d_weight's layout: a transposed, several pieces of scratch, the last one shorter."""
    of_device = product.way_of
    offered = {way_of: rank for rank, way_of in enumerate(("triton", "scratch", "library"))}
    if offered[way] > offered[of_device(torch.device("cuda", 0), dtype, True)]:
        pytest.skip("this torch does not have it")
    monkeypatch.setattr(product, "way_of", lambda d, t, accumulate: way if accumulate else of_device(d, t, accumulate))
    monkeypatch.setattr(product, "SCRATCH_BYTES", 1 << 20)
    a, b, before = (torch.randn(*s, device=CUDA) for s in ((700, 2050), (700, 512), (2050, 512)))
    a, b = a.to(dtype), b.to(dtype)
    results = []
    for _ in range(2):
        results.append(before.clone())
        product.product_into(results[-1], a.T, b, accumulate=True, tuning=tuning.for_device(CUDA))
    assert torch.equal(*results)
    as_good(results[0], before + a.T.float() @ b.float(), before.double() + a.T.double() @ b.double(), factor=4, what=way)


def _extra_bytes(run, gradients: int) -> int:
    """Peak device memory of `run` beyond what was there before and the gradients that it leaves."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - gradients


def test_memory_beyond_the_gradients(monkeypatch):
    """At most 1.5 GB at 16384 tokens, hidden 4096, vocabulary 151,936 in bf16, where the logits alone are 9.96 GB."""
    monkeypatch.setattr(scratch, "_guarded", None)  # poisoned scratch would be kept alive
    tokens, width, vocab = 16384, 4096, 151936
    if torch.cuda.get_device_properties(0).total_memory < 30 << 30:
        pytest.skip("needs 30 GB of device memory")
    hidden = torch.randn(tokens, width, device=CUDA, dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(vocab, width, device=CUDA, dtype=torch.bfloat16) / 64).requires_grad_()
    target = torch.randint(0, vocab, (tokens,), device=CUDA)
    ends = torch.arange(0, tokens + 1, 1024)
    ref, reward = torch.full((tokens,), -12.0, device=CUDA), torch.rand(16, device=CUDA)

    def alone():
        linear_logprob(hidden, weight, target).sum().backward()
        hidden.grad = weight.grad = None

    main = torch.zeros(vocab, width, device=CUDA)

    def fused():
        linear_pmd(hidden, weight, target, ref, reward, reward.mean().expand(16), ends, tau=0.1, weight_grad=main)[0].backward()
        hidden.grad = None

    d_hidden, d_weight = (t.numel() * t.element_size() for t in (hidden, weight))
    assert _extra_bytes(lambda: linear_logprob(hidden.detach(), weight, target), 0) <= 1.5e9
    assert _extra_bytes(alone, d_hidden + d_weight) <= 1.5e9
    assert _extra_bytes(fused, d_hidden) <= 1.5e9


def test_a_wrong_token_id_is_nan_at_once_and_an_error_soon():
    x = make(8, 64, 300, torch.bfloat16, CUDA)
    x.target[5] = 300
    logprob = linear_logprob(x.hidden, x.weight, x.target)
    assert logprob.isnan().tolist() == [i == 5 for i in range(8)]
    with pytest.raises(ValueError, match=r"target\[5\] is 300; it must be in 0\.\.299"):
        check_arrived(wait=True)
    check_arrived(wait=True)  # said once


@pytest.mark.parametrize("compute", ["logprob", "pmd"])
def test_a_captured_graph_gives_what_a_call_gives(compute, monkeypatch):
    """Forward and backward, captured while nobody has looked at an earlier call's target check; new values in place."""
    monkeypatch.setattr(scratch, "_guarded", None)  # looking at guards would wait for the device
    x, s = make(500, 256, 5003, torch.bfloat16, CUDA), sequences([100, 1, 399], device="cuda")
    call = {
        "logprob": lambda: logprob_and_gradients(x, "ours", backend="triton"),
        "pmd": lambda: pmd_and_gradients(x, s, "ours", backend="triton"),
    }[compute]
    with tuning.changed(CUDA, d_bytes=200 * 5003 * 2, logits_bytes=150 * 5003 * 4):
        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = call()
        for seed in (1, 2):
            new = make(500, 256, 5003, torch.bfloat16, CUDA, seed=seed)
            for name in ("hidden", "weight", "target"):
                getattr(x, name).copy_(getattr(new, name))
            graph.replay()
            want = call()
            torch.cuda.synchronize()
            for name, value in want.items():
                torch.testing.assert_close(got[name], value, rtol=2e-2, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    check_arrived(wait=True)


def test_nothing_compiles_after_warm_up():
    from k15.kernels.logprob import kernel

    width, vocab = 192, 5003
    warm_up(CUDA, torch.bfloat16, width, vocab - 4)  # of which 4 rows are padding

    def compiled() -> dict[str, int]:  # the kernels' caches, of every device: a variant each
        names = ("_linear_stats", "_product", "_row_stats", "_d_logits")
        return {name: sum(len(cache[0]) for cache in getattr(kernel, name).device_caches.values()) for name in names}

    before = compiled()
    assert before["_row_stats"] and before["_d_logits"]  # the others' work may be the library's
    for lengths in ([1], [16], [33, 100, 7], [640], [5, 1000]):
        x = make(sum(lengths), width, vocab, torch.bfloat16, CUDA)
        s = sequences(lengths, device="cuda")
        with tuning.changed(CUDA, d_bytes=100 * vocab * 2, logits_bytes=60 * vocab * 4):
            for entropy in (False, True):
                logprob_and_gradients(x, "ours", entropy=entropy)
            pmd_and_gradients(x, s, "ours")
    assert compiled() == before
