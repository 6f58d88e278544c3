"""What only a GPU shows of the repetition kernels: a CUDA graph of a step, and packs of training sizes."""

import pytest
import torch
from k15.kernels.repetition import RepetitionState, periodic_tail, periodic_tail_naive, warm_up
from triton_mode import INTERPRET

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(INTERPRET, reason="needs a GPU")]


def test_a_captured_graph_steps_without_the_host():
    """256 rows x period 1024: the graph's flags after each replay are those of the PyTorch path, rows reset in between."""
    warm_up("cuda", max_period=1024, min_repeats=4)
    g = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 3, (60, 256), generator=g)
    steps[20:, ::3] = 1  # a third of the rows ends in a repetition
    steps[::5, 7::11] = -1  # and some get no token
    ours, plain = (RepetitionState(256, 1024, 4, device="cuda", backend=b) for b in ("triton", "torch"))
    new = torch.full((256,), -1, device="cuda")
    ours.update(new)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flags = ours.update(new)
    seen = 0
    for i, step in enumerate(steps.cuda()):
        if i == 40:
            ours.reset(range(0, 256, 2)), plain.reset(range(0, 256, 2))
        new.copy_(step)
        graph.replay()
        assert torch.equal(flags, plain.update(step)) and torch.equal(ours.periods(), plain.periods())
        seen += int(flags.sum())
    assert seen > 1000


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_packs_of_training_sizes(dtype):
    """A giant and many short sequences; repeated tails of many periods; twice the same result."""
    g = torch.Generator().manual_seed(1)
    parts = []
    for length, period in ((131_072, 0), (9_000, 1024), (1, 0), (0, 0), (700, 100), *((300 + i, i) for i in range(1, 60))):
        x = torch.randint(0, 9 if period % 2 else 50_000, (length,), generator=g)
        if period:
            x[-5 * period :] = x[-period:].repeat(5)[-length:] if 5 * period <= length else x[-5 * period :]
        parts.append(x)
    tokens = torch.cat(parts).to(dtype)
    cu = torch.tensor([0, *torch.tensor([len(p) for p in parts]).cumsum(0).tolist()], dtype=torch.int32)
    for rule in ({"max_period": 1024, "min_repeats": 4}, {"max_period": 64, "min_repeats": 2, "min_period": 5}):
        want = periodic_tail_naive(tokens, cu, **rule)
        for backend in ("triton", "triton", "torch"):
            got = periodic_tail(tokens.cuda(), cu.cuda(), **rule, backend=backend)
            assert torch.equal(got[0].cpu(), want[0]) and torch.equal(got[1].cpu(), want[1])
        assert want[0].count_nonzero() > 30
