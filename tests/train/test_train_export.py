"""What an export costs in memory, measured: a rank needs its own shard (the segment) and no more than a layer beside it."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from train_ranks import hf_config, make_trainer, on_ranks

LAYERS = 6
MODEL = hf_config(
    "qwen2", num_hidden_layers=LAYERS, hidden_size=512, intermediate_size=2048, head_dim=128, vocab_size=8192
)  # 130 MB in fp32
SLACK = 4 << 20  # the allocator's and Python's own


def _status(key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) << 10


def _peak(action) -> int:
    """By how many bytes resident memory rose, at its highest, while `action` ran."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again at what is resident now
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


def _peak_without_files(action) -> int:
    """As `_peak`, without mapped files: the highest of samples, since the kernel keeps no mark of that."""
    samples, done = [_status("RssAnon")], threading.Event()

    def sample() -> None:
        while not done.is_set():
            samples.append(_status("RssAnon"))
            time.sleep(0.002)

    thread = threading.Thread(target=sample)
    thread.start()
    action()
    done.set()
    thread.join()
    return max(samples) - samples[0]


def measure(folder: str) -> dict[str, int]:
    import ctypes

    import torch.distributed as dist

    from k15.weights.hf import save_hf
    from k15.weights.segments import load_manifest, read_segment, segment_name, write_segment

    # What is freed goes back to the system at once, and a new tensor raises resident memory: no free pages hide it.
    assert ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 16) == 1  # M_MMAP_THRESHOLD
    shm, rank = Path(folder), dist.get_rank()
    trainer = make_trainer(MODEL, {"tensor": 2})
    for warm in (1, 2):  # imports, buffers of files
        write_segment(shm, 100 + warm, rank, list(trainer.hf_slices())[:4])
    result = {"shard": sum(t.nbytes for _, t in trainer.named_parameters_local())}
    held = []
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    result["all at once"] = _peak(lambda: held.extend(s.tensor.clone() for s in trainer.hf_slices()))
    held.clear()
    result["export"] = _peak(lambda: write_segment(shm, 1, rank, trainer.hf_slices()))
    result["segment"] = load_manifest(shm / segment_name(1, rank)).nbytes
    dist.barrier()
    if rank == 0:
        paths = [shm / segment_name(1, r) for r in range(2)]
        slices = (piece for p in paths for piece in read_segment(p, load_manifest(p)))
        result["folder"] = _peak_without_files(lambda: save_hf(shm / "hf", MODEL, None, slices))
        result["assembled"] = sum(f.stat().st_size for f in (shm / "hf").glob("*.safetensors"))
    dist.barrier()
    return result


@pytest.mark.megatron
def test_an_export_holds_a_layer_beside_its_shard(tmp_path):
    from safetensors import safe_open

    ranks = on_ranks(2, measure, tmp_path / "ranks", str(tmp_path))
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as file:
        sizes = {n: torch.Size(file.get_slice(n).get_shape()).numel() * 4 for n in file.keys()}  # noqa: SIM118
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    print(json.dumps(ranks), "layer", layer)
    for rank in ranks:
        assert rank["shard"] > LAYERS * layer / 2
        assert rank["segment"] + rank["export"] <= rank["shard"] + layer + SLACK
        assert rank["export"] < layer / 2 < rank["all at once"] / 2  # the shard of one layer; the meter sees the other way
    assert ranks[0]["assembled"] > sum(sizes.values())
    assert ranks[0]["folder"] <= max(sizes.values()) + SLACK  # rank 0 assembles one tensor at a time
