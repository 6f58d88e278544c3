"""The device layer on a machine with GPUs but without Transformer Engine, as far as a machine without GPUs can show it."""

import pytest
import torch
import torch.distributed as dist
from megatron.core.transformer.moe import moe_utils

from k15.train.device import init_distributed


@pytest.mark.skipif(moe_utils.HAVE_TE, reason="Transformer Engine is installed: its product is used")
def test_a_router_computes_on_cuda_without_transformer_engine(monkeypatch):
    monkeypatch.delattr(moe_utils, "te_general_gemm", raising=False)  # as Megatron leaves it
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    init_distributed(torch.device("cuda", 0), 0, 1, None)
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 8, generator=g).bfloat16().requires_grad_() for n in (5, 4))
    up = torch.randn(5, 4, generator=g)
    out = moe_utils.router_gating_linear(x, w, None, torch.float32)
    want = x.detach().float() @ w.detach().float().T
    torch.testing.assert_close(out, want)
    out.backward(up)
    torch.testing.assert_close(x.grad, (up @ w.detach().float()).bfloat16())
    torch.testing.assert_close(w.grad, (up.T @ x.detach().float()).bfloat16())
