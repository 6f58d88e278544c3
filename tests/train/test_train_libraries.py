"""What the layers run on a GPU: float32 stays float32 and within memory, and what is not used is said with its reason."""

import logging
import sys

import pytest
import torch
import torch.nn.functional as F
from megatron.core import parallel_state as mpu
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_ranks import hf_config

from k15.config.schema import ParallelConfig
from k15.train import attention, libraries, model, warm
from k15.train.shape import read_shape

CUDA = torch.device("cuda")


def _attend(lengths: list[int], heads: int, groups: int, device: torch.device, run=attention.attend) -> list[torch.Tensor]:
    """[output, gradients of q, k, v] of causal attention over a pack of fp32."""
    g = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    q, k, v = (torch.randn(tokens, n, 8, generator=g).to(device).requires_grad_() for n in (heads, groups, groups))
    up = torch.randn(tokens, heads, 8, generator=g).to(device)
    out = run(q, k, v, attention.make_layout(lengths, lambda p: (p, p), device))
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), up)]


def _one_by_one(q, k, v, layout) -> torch.Tensor:
    """Each head of each sequence on its own."""
    outs = []
    for a, b in zip(layout.cu_seqlens.tolist(), layout.cu_seqlens.tolist()[1:], strict=False):
        of_kv = q.shape[1] // k.shape[1]
        heads = [(q[a:b, n], k[a:b, n // of_kv], v[a:b, n // of_kv]) for n in range(q.shape[1])]
        outs.append(torch.stack([F.scaled_dot_product_attention(*h, is_causal=True) for h in heads], 1))
    return torch.cat(outs)


def test_grouped_float32_heads_are_whole_where_the_device_wants_it(monkeypatch):
    monkeypatch.setattr(attention, "WHOLE_HEADS", ("cpu",))
    plain, seen = F.scaled_dot_product_attention, []

    def looked_at(q, k, v, **settings):
        seen.append((q.shape[1], k.shape[1], v.shape[1], settings["enable_gqa"]))
        return plain(q, k, v, **settings)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", looked_at)
    got = _attend([9, 8, 3, 3], 6, 2, torch.device("cpu"))
    assert set(seen) == {(6, 6, 6, False)}
    monkeypatch.undo()
    for ours, want in zip(got, _attend([9, 8, 3, 3], 6, 2, torch.device("cpu"), _one_by_one), strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_grouped_float32_on_a_gpu_stores_no_scores():
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):  # an error where it refuses; the other one left stores [rows, N, L, L]
        got = _attend([900, 890, 3], 6, 2, CUDA)
    for ours, want in zip(got, _attend([900, 890, 3], 6, 2, torch.device("cpu"), _one_by_one), strict=True):
        torch.testing.assert_close(ours.cpu(), want, rtol=1e-4, atol=1e-4)


def test_float32_layers_are_megatrons_also_with_transformer_engine(monkeypatch):
    monkeypatch.setattr(libraries, "HAVE_TE", True)
    monkeypatch.setattr(mpu, "get_pipeline_model_parallel_rank", lambda: 0)
    shape = read_shape(hf_config("qwen2", num_hidden_layers=1))
    config = model.transformer_config(shape, ParallelConfig(), dtype=torch.float32, device=CUDA)
    (layer,) = model._block_spec(shape, config, CUDA).layer_specs
    assert layer.submodules.self_attention.submodules.linear_qkv is ColumnParallelLinear
    assert libraries.why_no_transformer_engine(CUDA, torch.bfloat16) is None


def test_a_trainer_says_what_runs_and_why_not_the_faster(monkeypatch, caplog):
    monkeypatch.setattr(libraries, "FLASH_MISSING", "flash_attn_2_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEab")
    monkeypatch.setattr(libraries, "HAVE_TE", False)
    monkeypatch.setitem(sys.modules, "transformer_engine", None)  # its import is refused
    monkeypatch.setattr(warm.log, "propagate", True)
    with caplog.at_level(logging.INFO):
        for dtype in (torch.bfloat16, torch.float32):
            warm.say_layers(dtype, CUDA)
        warm.say_layers(torch.bfloat16, torch.device("cpu"))
        monkeypatch.setattr(libraries, "FLASH_MISSING", None)
        monkeypatch.setattr(libraries, "HAVE_TE", True)
        warm.say_layers(torch.bfloat16, CUDA)
    broken, single, best = [record.getMessage() for record in caplog.records]
    assert "attention: PyTorch's (flash_attn_2_cuda.so: undefined symbol" in broken
    assert "linear layers: Megatron-core's (No module named 'transformer_engine" in broken
    assert "PyTorch's (flash-attn has no float32)" in single and "(Transformer Engine multiplies float32 in TF32)" in single
    assert best == "attention: flash-attn; linear layers: Transformer Engine's"
