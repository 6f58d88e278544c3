"""linear_logprob's Triton kernels (in the interpreter without a GPU): accuracy, ranks, repeatability, refusals."""

import pytest
import torch
from group_of_ranks import on_ranks
from k15.kernels.logprob import blocks, check, linear_logprob, product, tuning
from k15.kernels.logprob.check import check_targets
from logprob_cases import logprob_and_gradients, make, pmd_and_gradients, sequences

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("tokens", "width", "vocab", "dtype", "changes"),
    [
        (1, 507, 1003, BF16, {}),
        (123, 252, 507, BF16, {}),
        (252, 64, 140, BF16, {"logits_bytes": 200 * 140 * 4}),  # two blocks of tokens in backward
        (41, 37, 1003, FP32, {"row_block": 256}),  # a row takes several steps
        (37, 507, 130, FP16, {"forward": "blocks"}),
        (14, 32, 2100, BF16, {"forward": "blocks", "d_bytes": 1, "row_block": 512}),  # three blocks of vocabulary
    ],
)
def test_as_accurate_as_plain_arithmetic_allows(tokens, width, vocab, dtype, changes, device, as_good):
    x = make(tokens, width, vocab, dtype, device)
    exact, plain = logprob_and_gradients(x, "exact"), logprob_and_gradients(x, "plain")
    with tuning.changed(device, **changes):
        ours = logprob_and_gradients(x, "ours", backend="triton")
    assert ours["logprob"].dtype == ours["entropy"].dtype == FP32
    for name, value in ours.items():
        as_good(value, plain[name], exact[name], what=name)
    if dtype != FP32:  # fp32 sums of exact products: values are far better than 16-bit logits
        assert (ours["logprob"] - exact["logprob"]).abs().max() < 2e-5
    if tokens > 2:
        assert ours["logprob"][2] == 0 and ours["entropy"][2] == 0 and not ours["d_hidden"][2].any()
    assert not ours["d_weight"][x.vocab_size :].any()


@pytest.mark.parametrize("compute", ["logprob", "pmd"])
def test_where_the_library_has_no_fp32_addend(compute, device, as_good, monkeypatch):
    """Products are added by way of scratch, here of three rows: gradients are as good, and repeat bit for bit."""
    added = []

    def way_of(device, dtype, accumulate):
        added.append(accumulate)
        return "scratch" if accumulate else "triton"

    monkeypatch.setattr(product, "way_of", way_of)
    monkeypatch.setattr(product, "SCRATCH_BYTES", 3 * 40 * 4 + 5)
    lengths = [4, 2, 5]
    x, s = make(sum(lengths), 40, 37, BF16, device), sequences(lengths, device=device)
    run = {
        "logprob": lambda which, **kwargs: logprob_and_gradients(x, which, **kwargs),
        "pmd": lambda which, **kwargs: pmd_and_gradients(x, s, which, **kwargs),
    }[compute]
    with tuning.changed(device, d_bytes=6 * 37 * 2, logits_bytes=6 * 37 * 4):
        first, second = (run("ours", backend="triton") for _ in range(2))
    exact, plain = run("exact"), run("plain")
    assert any(added)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} does not repeat bit for bit"
        as_good(value, plain[name], exact[name], what=name)


def test_the_way_of_a_product_follows_what_the_library_has(monkeypatch):
    for multiplies, adds, ways in (
        (True, True, ("library", "library")),
        (True, False, ("library", "scratch")),
        (False, False, ("triton", "triton")),
    ):
        has = (multiplies, adds)
        monkeypatch.setattr(product, "_library_has_it", lambda device, dtype, accumulate, has=has: has[accumulate])
        got = tuple(product.way_of.__wrapped__(torch.device("cuda"), BF16, accumulate) for accumulate in (False, True))
        assert got == ways


def test_repeats_bit_for_bit_and_without_entropy(device):
    x = make(20, 72, 150, BF16, device)
    first, second = (logprob_and_gradients(x, "ours", backend="triton", entropy=False) for _ in range(2))
    with_entropy = logprob_and_gradients(x, "ours", backend="triton")
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first["logprob"], with_entropy["logprob"], rtol=0, atol=2e-6)


def _rank(rank, group):
    x, s = _shared_case()
    x.weight = x.weight.chunk(2)[rank].clone()
    out = {}
    with tuning.changed(torch.device("cpu"), d_bytes=8 * 72 * 4, logits_bytes=3 * 72 * 4):
        for backend in ("triton", "torch"):
            alone = logprob_and_gradients(x, "ours", backend=backend, tp_group=group)
            out[backend] = (alone, pmd_and_gradients(x, s, "ours", backend=backend, tp_group=group))
    return out


def _shared_case():
    # 80 padding rows of 144: the second of two ranks has nothing else. Two sequences exceed a group of 8 tokens.
    return make(27, 12, 144, FP32, padding=80), sequences([3, 9, 10, 5])


def test_two_ranks_equal_one(tmp_path, as_good):
    out = on_ranks(2, _rank, tmp_path)
    x, s = _shared_case()
    for kind, compute in enumerate((logprob_and_gradients, lambda x, which: pmd_and_gradients(x, s, which))):
        exact, plain = compute(x, "exact"), compute(x, "plain")
        for backend in ("triton", "torch"):
            parts = [dict(of_rank[backend][kind]) for of_rank in out]
            d_weight = torch.cat([part.pop("d_weight") for part in parts])
            as_good(d_weight, plain["d_weight"], exact["d_weight"], factor=2, what=f"{backend} d_weight")
            for part in parts:
                for name, value in part.items():
                    as_good(value, plain[name], exact[name], factor=2, what=f"{backend} {name}")


def test_a_wrong_token_id_becomes_nan_where_it_cannot_be_raised_at_once(device):
    """What a GPU call does until the error reaches the host: that token alone is NaN."""
    x = make(5, 8, 30, FP32, device)
    head = blocks.make_head(x.weight, 1.0, None, x.vocab_size, True, tuning.for_device(device))
    bad = torch.tensor([False, True, False, False, False], device=device)
    local = blocks.local_targets(x.target, 30, head)
    stats = blocks.forward_stats(head, x.hidden, local, False)
    logprob = blocks.finish(head, stats, x.target != -100, bad)[1]
    assert logprob.isnan().tolist() == bad.tolist() and logprob[2] == 0


def test_no_event_is_asked_while_a_graph_is_captured(monkeypatch):
    """CUDA ends the capture if one is; the error of the earlier call comes after it."""

    class Event:
        def query(self) -> bool:
            assert not capturing, "an event was asked during a capture"
            return True

    monkeypatch.setattr(check, "_pending", [(Event(), torch.tensor([3, 77]), 30)])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    capturing = True
    check.check_arrived()
    capturing = False
    with pytest.raises(ValueError, match=r"target\[3\] is 77; it must be in 0\.\.29"):
        check.check_arrived()


def _with(**changes):
    x = make(6, 8, 30, FP32)
    args = {"hidden": x.hidden, "weight": x.weight, "target": x.target} | changes
    return linear_logprob(args.pop("hidden"), args.pop("weight"), args.pop("target"), **args)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(30, 8, dtype=BF16)}, r"hidden is torch.float32 and weight torch.bfloat16; .* Cast one"),
        ({"target": torch.zeros(6)}, "token ids must be int64"),
        ({"weight": torch.zeros(30, 8, device="meta")}, "hidden is on cpu, weight on meta.*move them together"),
        ({"backend": "cuda"}, "backend is 'cuda', which is not known. Allowed: auto, triton, torch"),
        ({"hidden": torch.zeros(6, 8).double(), "weight": torch.zeros(30, 8).double(), "backend": "triton"}, "float64"),
        ({"target": torch.full((6,), 30), "backend": "torch"}, r"target\[0\] is 30; it must be in 0\.\.29"),
        ({"target": torch.tensor([1, 2, 3, -100, -7, 2])}, r"target\[4\] is -7"),
    ],
)
def test_refusals_say_what_to_do(changes, message):
    with pytest.raises(ValueError, match=message):
        _with(**changes)


def test_no_tokens_is_an_empty_answer_with_zero_gradients():
    x = make(0, 8, 30, FP32)
    for backend in ("triton", "torch"):
        ours = logprob_and_gradients(x, "ours", backend=backend)
        assert ours["logprob"].shape == (0,) and not ours["d_weight"].any() and not check_targets(x.target, 30).any()


def test_an_unlisted_gpu_gets_the_documented_row(monkeypatch):
    for name, row in (
        ("interpreter", "cpu"),
        ("sm_90", "sm_90"),
        ("sm_120", "sm_80"),
        ("gfx942", "gfx942"),
        ("gfx1100", "gfx942"),
    ):
        monkeypatch.setattr(tuning, "architecture", lambda device, name=name: name)
        assert tuning.for_device(torch.device("cpu")) is tuning.TABLE[row]
    monkeypatch.undo()
    with pytest.raises(TypeError), tuning.changed(torch.device("cpu"), no_such_field=1):
        pass
    before = tuning.TABLE["cpu"]
    with tuning.changed(torch.device("cpu"), d_bytes=7):
        assert tuning.for_device(torch.device("cpu")).d_bytes == 7
    assert tuning.TABLE["cpu"] is before
