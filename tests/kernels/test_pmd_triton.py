"""pmd_loss in Triton: against float64, the same bits every time, split over packs and ranks, wrong inputs."""

import itertools
import math

import pytest
import torch
from group_of_ranks import on_ranks
from hypothesis import example, given, settings
from hypothesis import strategies as st
from k15.kernels.pmd import pmd_loss, segment_log_ratio, warm_up
from pmd_cases import TAU, compare, make_case, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[1], [7], [507], [64, 64], [1, 300, 1, 1, 123, 2, 65, 63]], ids=str)
def test_as_exact_as_pytorch(lengths, dtype, device, as_good):
    compare(make_case(lengths, device, dtype), as_good)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 4), st.integers(1, 150)), min_size=1, max_size=40),
    st.sampled_from([None, torch.bool, torch.int64, torch.float32]),
    st.booleans(),
)
@example([18], torch.bool, True)  # the two terms of its gradient nearly cancel
def test_random_packs(device, as_good, lengths, mask_dtype, weighted):
    case = make_case(lengths, device, seed=len(lengths), mask_dtype=mask_dtype or torch.float32)
    compare(case | ({} if weighted else {"weight": None}) | ({} if mask_dtype is not None else {"mask": None}), as_good)


def test_repeats_bit_for_bit_and_means_the_same_wherever_a_sequence_lies(device):
    lengths = [1, 300, 2, 64, 63, 1, 1, 130]
    case = make_case(lengths, device) | {"weight": torch.full((8,), 0.125, device=device)}
    first, again = (run(pmd_loss, case, backend="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    order = [7, 2, 0, 1, 6, 5, 3, 4]
    ends = case["cu_seqlens"].tolist()
    tokens = torch.cat([torch.arange(ends[s], ends[s + 1]) for s in order])
    moved = {n: t[tokens] for n, t in case.items() if n in ("logprob", "ref_logprob", "mask")}
    moved |= {n: t[order] for n, t in case.items() if n in ("reward", "baseline", "weight")}
    moved["cu_seqlens"] = make_case([lengths[s] for s in order], device)["cu_seqlens"]
    loss, ratio, _ = run(pmd_loss, moved, backend="triton")
    torch.testing.assert_close(loss, first[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(ratio, first[1][order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_sequences_split_over_two_micro_batches(backend, device):
    """Two passes: the log-ratio of every part, then each part with what the others add."""
    case = make_case([5, 130, 1, 70], device)
    want_loss, want_ratio, want_grad = run(pmd_loss, case, backend=backend)
    cut = 100  # inside the second sequence
    ends = case["cu_seqlens"]
    parts = []
    for piece, bounds in ((slice(0, cut), ends.clamp(max=cut)), (slice(cut, None), ends.clamp(min=cut) - cut)):
        parts.append(case | {n: case[n][piece] for n in ("logprob", "ref_logprob", "mask")} | {"cu_seqlens": bounds})
    keys = ("logprob", "ref_logprob", "cu_seqlens", "mask")
    ratios = [segment_log_ratio(**{k: part[k] for k in keys}, backend=backend) for part in parts]
    assert ratios[0][2:].eq(0).all() and ratios[1][0] == 0  # no token of theirs there
    torch.testing.assert_close(ratios[0] + ratios[1], want_ratio, rtol=1e-6, atol=1e-6)
    got = [run(pmd_loss, part, log_ratio_extra=ratios[1 - i], backend=backend) for i, part in enumerate(parts)]
    for loss, ratio, _ in got:
        torch.testing.assert_close(loss, want_loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ratio, want_ratio, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([g for _, _, g in got]), want_grad, rtol=1e-6, atol=1e-7)


BACKENDS = ("torch", "triton") if not torch.cuda.is_available() else ("torch",)


def _rank(rank, group):
    case, cut = make_case([5, 130, 1, 70], "cpu"), 100
    piece = slice(0, cut) if rank == 0 else slice(cut, None)
    ends = case["cu_seqlens"].clamp(max=cut) if rank == 0 else case["cu_seqlens"].clamp(min=cut) - cut
    part = case | {n: case[n][piece] for n in ("logprob", "ref_logprob", "mask")} | {"cu_seqlens": ends}
    return {name: run(pmd_loss, part, cp_group=group, backend=name) for name in BACKENDS}


def test_sequences_split_over_two_ranks(tmp_path):
    """The group's ranks get the loss of one rank and their part of its gradient."""
    both = on_ranks(2, _rank, tmp_path)
    for name in BACKENDS:
        want = run(pmd_loss, make_case([5, 130, 1, 70], "cpu"), backend=name)
        ranks = [of_rank[name] for of_rank in both]
        close = {"rtol": 1e-6, "atol": 1e-6}
        assert all(torch.equal(a, b) for a, b in zip(ranks[0][:2], ranks[1][:2], strict=True))
        for loss, ratio, _ in ranks:
            torch.testing.assert_close(loss, want[0], **close)
            torch.testing.assert_close(ratio, want[1], **close)
        torch.testing.assert_close(torch.cat([grad for _, _, grad in ranks]), want[2], **close)


def test_a_term_that_is_no_number_spoils_its_sequence_only(device):
    for value in (float("nan"), float("-inf")):
        case = make_case([3, 70, 5], device)
        case["ref_logprob"][30], case["mask"][30] = value, 1
        loss, ratio, grad = run(pmd_loss, case, backend="triton")
        others = torch.cat((grad[:3], grad[73:]))
        assert not loss.isfinite() and ratio.isfinite().tolist() == [True, False, True]
        assert others.isfinite().all() and not grad[3:73][case["mask"][3:73] > 0].isfinite().any()


@settings(max_examples=12, deadline=None)
@example(200, [0, 0, 30, 30, 60, 200])  # an empty sequence
@example(200, [0, 190, 60, 200])  # falls
@example(200, [0, 60, 199])  # ends early
@example(200, [1, 60, 200])
@example(200, [0, 100, 300, 200])
@example(0, [0, 0, 0])
@example(200, [0, 2**31 - 1, -(2**31), 200])
@given(
    st.sampled_from([3, 64, 200]),
    st.lists(st.one_of(st.integers(-5, 210), st.sampled_from([-(2**31), 2**31 - 1])), min_size=2, max_size=45),
)
def test_wrong_bounds_on_the_device_make_everything_nan(device, tokens, cu):
    """What a GPU call does instead of waiting: the kernels themselves are given the wrong bounds, and stay in memory."""
    from k15.kernels.pmd import launch

    if cu[0] == 0 and cu[-1] == tokens and all(a < b for a, b in itertools.pairwise(cu)):
        cu[-1] += 1
    x, s = torch.rand(tokens, device=device), torch.rand(len(cu) - 1, device=device)
    bounds = torch.tensor(cu, dtype=torch.int32, device=device)
    sums = launch.sums(x, x, bounds, None)
    for parts, extra in ((sums.parts, None), (None, s)):
        got = launch.finish(parts, bounds, s, s, None, extra, TAU, tokens, False)
        assert got.loss.isnan() and got.log_ratio.isnan().all() and got.coefficient.isnan().all()
        grad = launch.gradient(got.coefficient, sums.first, got.loss, None, bounds, None, tokens, torch.float32)
        assert grad.isnan().all()


LENGTHS = st.one_of(st.just(0), st.integers(1, 5), st.sampled_from([63, 64, 65, 128, 200]))


@settings(max_examples=6, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=8))
@example([64, 0, 64, 0, 0])
@example([0, 550, 0, 70, 600])  # more tiles of a sequence than are added at a time
@example([0] * 40)  # no token at all, more sequences than are finished together
def test_empty_sequences_and_sequences_over_many_tiles(device, lengths):
    """Every place of `parts` that is read was written: the scratch is NaN before."""
    from k15.kernels.pmd import launch

    case = make_case(lengths, device, seed=sum(lengths))
    where, terms = (case["cu_seqlens"], case["mask"]), (case["reward"], case["baseline"], case["weight"])
    sums = launch.sums(case["logprob"], case["ref_logprob"], *where)
    got = launch.finish(sums.parts, where[0], *terms, None, TAU, sum(lengths), True)
    assert torch.equal(got.log_ratio, launch.own_log_ratio(sums.parts, where[0], sum(lengths)))
    diff = ((case["logprob"].double() - case["ref_logprob"].double()) * case["mask"].double()).cpu()
    exact = torch.tensor([math.fsum(part.tolist()) for part in diff.split(lengths)], dtype=torch.float64)
    torch.testing.assert_close(got.log_ratio.cpu().double(), exact, rtol=1e-7, atol=1e-12)
    gap = case["reward"].double().cpu() - case["baseline"].double().cpu() - TAU * exact
    torch.testing.assert_close(got.coefficient.cpu().double(), -case["weight"].double().cpu() * gap, rtol=1e-5, atol=1e-6)


def test_many_tiny_sequences_beside_a_giant(device, as_good):
    """More sequences than one round of the search looks at, and one that fills many tiles."""
    compare(make_case([1, 2, 3] * 15 + [300] + [1] * 90 + [2], device), as_good)


def test_small_terms_of_a_long_sequence_are_not_lost(device, as_good):
    """A mask of 1 / length (the length-normalised variant) and log-probs that hardly moved."""
    case = make_case([1024], device)
    case["ref_logprob"] = case["logprob"] + 1e-4 * (case["ref_logprob"] + 1.4)
    compare(case | {"mask": torch.full((1024,), 1 / 1024, device=device)}, as_good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ref_logprob": torch.zeros(8, dtype=torch.float64)}, "logprob is torch.float32 and ref_logprob torch.float64"),
        ({"reward": torch.zeros(3, requires_grad=True)}, "reward requires a gradient"),
        ({"mask": torch.zeros(8, device="meta")}, "mask is on meta and logprob on"),
        ({"cu_seqlens": torch.tensor([0.0, 3, 6, 8])}, "cu_seqlens is torch.float32"),
        ({"logprob": torch.zeros(2, 4)}, r"logprob has shape \(2, 4\)"),
        ({"backend": "cuda"}, "Allowed: auto, triton, torch"),
    ],
)
def test_wrong_inputs_are_refused(change, message, device):
    case = make_case([3, 3, 2], device) | {"tau": TAU, "backend": "triton"}
    moved = {n: t.to(device) if torch.is_tensor(t) and t.device.type == "cpu" else t for n, t in change.items()}
    with pytest.raises(ValueError, match=message):
        pmd_loss(**(case | moved))


def test_float64_takes_the_pytorch_path(device):
    logprob = torch.rand(5, dtype=torch.float64, device=device)
    cu, one = torch.tensor([0, 5], device=device), torch.ones(1, device=device)
    assert pmd_loss(logprob, logprob, one, one, cu, tau=TAU)[0].dtype == torch.float64
    with pytest.raises(ValueError, match="logprob is torch.float64"):
        pmd_loss(logprob, logprob, one, one, cu, tau=TAU, backend="triton")


def test_warm_up_runs_the_path_it_names(device):
    assert warm_up(device, backend="triton") == "triton" and warm_up(device, backend="torch") == "torch"
