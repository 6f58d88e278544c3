"""Kernels in Triton's interpreter where there is no GPU, poisoned scratch memory, and the relative-tolerance rule.

TRITON_INTERPRET counts when a kernel is decorated, so every kernel module is imported here with it set; it is set again
while the tests of this folder run (and only then: other tests start processes). See tests/triton_mode.py.
"""

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import k15.kernels
import pytest
import torch
from k15.kernels import scratch
from triton_mode import INTERPRET


def _import_kernels_for_the_interpreter() -> None:
    early = [name for name in sys.modules if name.startswith("k15.kernels.") and name.endswith(".kernel")]
    assert not early, f"{early} imported before tests/kernels/conftest.py: import them inside tests elsewhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for info in pkgutil.walk_packages(k15.kernels.__path__, "k15.kernels."):
            if info.name.endswith(".kernel"):
                importlib.import_module(info.name)


if INTERPRET:
    _import_kernels_for_the_interpreter()


# A bare GPU machine (benchmarks/gpu.sh) may have torch, triton and pytest only: the tests marked `gpu` do without the rest.
if importlib.util.find_spec("hypothesis") is None:
    collect_ignore = [p.name for p in Path(__file__).parent.glob("test_*.py") if "from hypothesis" in p.read_text()]


def pytest_report_header() -> list[str]:
    left_out = globals().get("collect_ignore", [])
    return [f"hypothesis is not installed; left out: {', '.join(sorted(left_out))}"] if left_out else []


@pytest.fixture(autouse=True, scope="module")
def _interpreter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRET:
            patch.setenv("TRITON_INTERPRET", "1")
        yield


@pytest.fixture(autouse=True, scope="module")
def _poisoned_scratch() -> Iterator[None]:
    with scratch.poisoned():
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where Triton runs here: the GPU, or the CPU in the interpreter."""
    return torch.device("cpu" if INTERPRET else "cuda")


def assert_as_good(got, plain, exact, *, factor: float = 1.5, tiny: float | None = None, what: str = "") -> None:
    """max|got - exact| <= factor x max|plain - exact| + tiny, all compared in float64.

    got: the kernel's result. plain: the obvious implementation in the same low precision. exact: float64.
    tiny: default two roundings of the largest value in got's dtype.
    """
    exact = exact.detach().double().cpu()
    ours, theirs = ((t.detach().double().cpu() - exact).abs().max().item() if exact.numel() else 0.0 for t in (got, plain))
    assert got.shape == exact.shape and bool(torch.isfinite(got).all()), f"{what}: shape {tuple(got.shape)} or not finite"
    floor = 2 * torch.finfo(got.dtype).eps * exact.abs().max().item() if tiny is None and exact.numel() else tiny
    assert ours <= factor * theirs + floor, f"{what}: error {ours:.3e}, plain {theirs:.3e} (x {factor}), floor {floor:.1e}"


@pytest.fixture(scope="session")
def as_good():
    """The function `assert_as_good`, so that test modules need not import this file."""
    return assert_as_good
