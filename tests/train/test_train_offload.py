"""What off-loading frees is measured: resident memory on CPU, the device's own count on CUDA."""

import pytest
import torch
from train_ranks import hf_config, make_samples, make_trainer, on_ranks

from k15.config.schema import OffloadConfig
from k15.train.offload import Offloaded, give_back, used_bytes
from k15.types import Batch

CPU = torch.device("cpu")


def measured(_folder: str) -> dict:
    trainer = make_trainer(hf_config("qwen2", hidden_size=512, intermediate_size=2048))
    gradients = 4 * sum(p.numel() for p in trainer.model.parameters())
    out = {"gradients": gradients}
    batch = Batch(tuple(make_samples()), 0)
    trainer.train_iteration(batch)  # so that every page has been written
    for name, wanted in (("all", OffloadConfig()), ("none", OffloadConfig(gradients=False))):
        trainer.parallel.offload = wanted
        give_back()  # what training itself left with the allocators
        before = used_bytes(CPU)
        freed = trainer.offload()
        out[name] = (freed, before - used_bytes(CPU))
        trainer.onload()
        trainer.train_iteration(batch)
    return out


@pytest.mark.megatron
def test_on_cpu_the_gradients_memory_goes_back_to_the_system(tmp_path):
    out = on_ranks(1, measured, tmp_path, "")[0]
    freed, fell = out["all"]
    assert freed >= out["gradients"] > 10e6
    assert 0.95 * freed < fell < 1.2 * freed, (freed, fell)
    freed, fell = out["none"]
    assert freed == 0 and abs(fell) < 0.05 * out["gradients"]


def test_what_stays_is_left_alone_also_as_part_of_something_to_keep():
    whole = torch.arange(8.0)
    apart, gone = torch.arange(5.0), torch.ones(6)
    off = Offloaded(keep=[whole[2:4], apart], drop=[gone[:2]], stay=[whole])
    assert off.freed_bytes == 4 * (5 + 6) and whole.tolist() == list(range(8)) and gone.untyped_storage().nbytes() == 0
    off.restore()
    assert apart.tolist() == list(range(5)) and gone.tolist() == [0.0] * 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_the_devices_own_count_falls():
    device = torch.device("cuda")
    keep = [torch.randn(64 << 20, device=device) for _ in range(2)]
    drop = [torch.randn(64 << 20, device=device)]
    copies, before = [t.cpu() for t in keep], used_bytes(device)
    off = Offloaded(keep, drop)
    fell = before - used_bytes(device)
    assert off.freed_bytes == 3 * (256 << 20) and 0.98 * off.freed_bytes <= fell
    off.restore()
    assert all(torch.equal(t.cpu(), c) for t, c in zip(keep, copies, strict=True)) and not drop[0].any()
    assert used_bytes(device) >= before - (64 << 20)
