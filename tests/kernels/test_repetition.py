"""periodic_tail and RepetitionState, both backends: the reference, a Z-function, and vLLM's own function agree everywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from k15.kernels.repetition import RepetitionState, periodic_tail, periodic_tail_naive
from repetitive import RULES, SEQUENCES, fibonacci_word, square_free, thue_morse
from triton_mode import INTERPRET
from vllm_repetition import vllm_says

BACKENDS = ["torch", "triton"]


def z_function(x: list[int]) -> list[int]:
    """z[p]: how many tokens x[0:], x[p:] have in common at their beginnings. Linear time."""
    n, z, left, right = len(x), [0] * len(x), 0, 0
    for p in range(1, n):
        z[p] = max(0, min(right - p, z[p - left])) if p < right else 0
        while p + z[p] < n and x[z[p]] == x[p + z[p]]:
            z[p] += 1
        if p + z[p] > right:
            left, right = p, p + z[p]
    return z


def by_z(x: list[int], max_period: int, min_repeats: int, min_period: int) -> tuple[int, int]:
    z = z_function(x[::-1])
    for p in range(min_period, min(max_period, len(x) - 1) + 1):
        if z[p] >= (min_repeats - 1) * p:
            return p, len(x) - p - z[p]
    return 0, len(x)


def pack(sequences, device, dtype=torch.int64):
    cu = [0]
    for x in sequences:
        cu.append(cu[-1] + len(x))
    flat = [t for x in sequences for t in x]
    return torch.tensor(flat, dtype=dtype, device=device), torch.tensor(cu, dtype=torch.int32, device=device)


def named(rule):
    return dict(zip(("max_period", "min_repeats", "min_period"), rule))


@settings(max_examples=150, deadline=None)
@given(st.lists(SEQUENCES, min_size=1, max_size=5), RULES)
def test_reference_is_the_z_function_and_vllm(sequences, rule):
    tokens, cu = pack(sequences, "cpu")
    period, start = periodic_tail_naive(tokens, cu, **named(rule))
    assert list(zip(period.tolist(), start.tolist())) == [by_z(x, *rule) for x in sequences]
    assert (period > 0).tolist() == [vllm_says(x, *rule) for x in sequences]


@pytest.mark.parametrize("backend", BACKENDS)
def test_periodic_tail_is_the_reference(backend, device):
    @settings(max_examples=150 if backend == "torch" else 25, deadline=None)
    @given(st.lists(SEQUENCES, min_size=1, max_size=4), RULES, st.sampled_from([torch.int32, torch.int64]))
    def check(sequences, rule, dtype):
        tokens, cu = pack(sequences, device, dtype)
        got, want = (
            f(tokens, cu, **named(rule), **kw) for f, kw in ((periodic_tail, {"backend": backend}), (periodic_tail_naive, {}))
        )
        for g, w in zip(got, want):
            assert g.dtype == torch.int32 and torch.equal(g, w)

    check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_and_odd_sequences(backend, device):
    """More periods than a tile, more results than `_finish` reads at once, tails longer than it goes back at once."""
    g = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 50_000, (700,), generator=g).tolist()
    block = torch.randint(0, 50_000, (97,), generator=g).tolist()
    sequences = [
        noise + block * 4,
        block * 30,
        [],
        [7],
        [7] * 3000,
        [0, 1] * 1500 + [2],
        noise,
        block * 3 + block[:96],
        thue_morse(1021),
    ]
    tokens, cu = pack(sequences, device)
    for rule in ((123, 4, 1), (97, 3, 97), (600, 2, 5)) + (((17_000, 2, 1),) if backend == "torch" or not INTERPRET else ()):
        got, want = periodic_tail(tokens, cu, **named(rule), backend=backend), periodic_tail_naive(tokens, cu, **named(rule))
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1]), rule


@pytest.mark.parametrize("backend", BACKENDS)
def test_streaming_state_agrees_with_vllm_at_every_token(backend, device):
    """Rows of different lengths: a row that has ended gets no token, keeps its state, and is flagged no more."""

    steps = 120 if backend == "torch" or not INTERPRET else 36  # the interpreter takes 5 ms a row and step

    @settings(max_examples=60 if backend == "torch" else 5, deadline=None)
    @given(st.lists(SEQUENCES.map(lambda x: x[-steps:]), min_size=1, max_size=3), RULES)
    def check(sequences, rule):
        state = RepetitionState(len(sequences), *rule, device=device, backend=backend)
        for t in range(max(map(len, sequences))):
            step = [x[t] if t < len(x) else -1 for x in sequences]
            flags = state.update(torch.tensor(step, device=device))
            want = [t < len(x) and vllm_says(x[: t + 1], *rule) for x in sequences]
            assert flags.tolist() == want, f"at step {t}"
        assert state.periods().tolist() == [by_z(x, *rule)[0] for x in sequences]

    check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_reset_primed_saved_and_exchanged_between_backends(backend, device):
    """A row primed with a prefix goes on as one that was fed it; so does a state that was saved, on the other backend too."""
    rule, words = (9, 3, 2), (fibonacci_word(150), square_free(150), [4, 5, 6] * 50)
    cuts = (31, 3, 0)
    fed, primed = (RepetitionState(3, *rule, device=device, backend=backend) for _ in range(2))
    primed.update(torch.tensor([1, 1, 1], device=device))
    primed.prime([2, 0, 1], [words[2][: cuts[2]], words[0][: cuts[0]], torch.tensor(words[1][: cuts[1]])])
    for t in range(max(cuts)):
        fed.update(torch.tensor([w[t] if t < c else -1 for w, c in zip(words, cuts)], device=device))
    assert torch.equal(primed.state_dict()["history"], fed.state_dict()["history"])
    other = RepetitionState(3, *rule, device=device, backend="torch" if backend == "triton" else "triton")
    other.load_state_dict(fed.state_dict())
    states = (fed, primed, other)
    for t in range(12):
        step = torch.tensor([w[c + t] for w, c in zip(words, cuts)], device=device)
        want = [vllm_says(w[: c + t + 1], *rule) for w, c in zip(words, cuts)]
        assert [s.update(step).tolist() for s in states] == [want] * 3
        assert all(s.periods().tolist() == fed.periods().tolist() for s in states)
    fed.reset([2])
    assert fed.flags.tolist()[2] is False and fed.periods().tolist()[2] == 0
    fresh = [4, 4, 4, 4, 4, 4]
    flags = [fed.update(torch.tensor([-1, -1, t], device=device)).tolist()[2] for t in fresh]
    assert flags == [vllm_says(fresh[: n + 1], *rule) for n in range(6)] == [False] * 5 + [True]


def test_the_first_flag_stays_where_the_state_says():
    """`update` writes into one tensor, so that a captured graph can be read there."""
    state = RepetitionState(2, 4, 2, backend="torch")
    flags = state.update(torch.tensor([1, 2]))
    assert state.update(torch.tensor([1, 3])) is flags is state.flags and flags.tolist() == [True, False]


def test_wrong_inputs_are_refused():
    ok, cu = torch.zeros(6, dtype=torch.int64), torch.tensor([0, 2, 6], dtype=torch.int32)
    rule = named((4, 2, 1))
    for tokens, bounds, change, message in (
        (ok, cu, {"min_period": 5}, "min_period is 5 and max_period 4"),
        (ok, cu, {"min_period": 0}, "min_period is 0"),
        (ok, cu, {"min_repeats": 1}, "min_repeats is 1; it must be at least 2"),
        (ok, cu, {"max_period": 2**30}, "must be at most 2147483647"),
        (ok, torch.tensor([0, 4, 3, 6]), {}, "falls from 4 to 3 at sequence 1"),
        (ok, torch.tensor([0, 5]), {}, "must go from 0 to 6"),
        (ok, torch.tensor([0]), {}, "has no sequence"),
        (ok, cu.float(), {}, "cu_seqlens has dtype torch.float32"),
        (ok.float(), cu, {}, "tokens has dtype torch.float32"),
        (ok.view(2, 3), cu, {}, r"tokens has shape \(2, 3\)"),
        (ok, cu.to("meta"), {}, "cu_seqlens is on meta, but on cpu is needed"),
        (ok, cu, {"backend": "cuda"}, "backend is 'cuda'"),
    ):
        with pytest.raises(ValueError, match=message):
            periodic_tail(tokens, bounds, **(rule | change))
    state = RepetitionState(2, 4, 2)
    for call, message in (
        (lambda: RepetitionState(0, 4, 2), "batch is 0"),
        (lambda: RepetitionState(2, 4, 1), "min_repeats is 1"),
        (lambda: state.update(torch.zeros(3, dtype=torch.int64)), r"new_tokens has shape \(3,\); needed: \[2\]"),
        (lambda: state.update(torch.zeros(2)), "new_tokens has dtype torch.float32"),
        (lambda: state.update(torch.zeros(2, dtype=torch.int64, device="meta")), "new_tokens is on meta"),
        (lambda: state.reset([2]), r"rows are \[2\]; needed: a list of indices in 0..1"),
        (lambda: state.prime([0], []), "0 prefixes for 1 rows"),
        (lambda: state.prime([0, 0], [[1], [1]]), "rows all different"),
        (lambda: state.prime([0], [[3, -1]]), "negative token"),
        (lambda: state.load_state_dict(RepetitionState(2, 5, 2).state_dict()), "saved state has max_period=5, this one 4"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
