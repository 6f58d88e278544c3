"""Real vLLM workers, tensor parallel, read their own slices and no more; what they load equals a load of full tensors."""

import json
import os
import shutil
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from k15.weights.layout import Slice
from k15.weights.lazy import Lazy, Meter, lazy
from k15.weights.segments import segment_name

# ---- the stand-in tensor ----------------------------------------------------------------------------------------


def cut(full: torch.Tensor, bounds) -> list[Slice]:
    """`full` in boxes, cut at `bounds` of each dimension."""
    shape = tuple(full.shape)
    steps = [sorted({0, n, *(b % (n + 1) for b in at)}) for n, at in zip(shape, bounds, strict=True)]
    return [
        Slice("x", shape, tuple(a for a, _ in box), full[tuple(slice(a, b) for a, b in box)].clone())
        for box in product(*(pairwise(s) for s in steps))
    ]


def narrowed(x: torch.Tensor, dim: int, a: int, b: int) -> torch.Tensor:
    start = a % (x.shape[dim] + 1)
    return x.narrow(dim, start, b % (x.shape[dim] - start + 1))


OPERATIONS = {
    "narrow": narrowed,
    "index": lambda x, d, a, b: x[(slice(None),) * d + (slice(-a if a else None, None),)],
    "step": lambda x, d, a, b: x[(slice(None),) * d + (slice(a, None, 2),)],
    "select": lambda x, d, a, b: x.select(d, a % x.shape[d]) if x.shape[d] else x,
    "chunk": lambda x, d, a, b: x.chunk(1 + b % 3, dim=d)[0],
    "unbind": lambda x, d, a, b: x.unbind(d)[-1] if x.shape[d] else x,
    "unsqueeze": lambda x, d, a, b: x.unsqueeze(-1 - d),
    "transpose": lambda x, d, a, b: x.transpose(d, a % x.dim()),
    "permute": lambda x, d, a, b: x.permute(*reversed(range(x.dim()))),
    "flat": lambda x, d, a, b: x.reshape(-1),
    "cast": lambda x, d, a, b: x.to(torch.float64),
    "detach": lambda x, d, a, b: x.detach(),
}  # fmt: skip
NUMBER = st.integers(0, 9)


@settings(max_examples=300, deadline=None)
@example(shape=[2, 3], bounds=[[], [], []], program=[("chunk", 1, 0, 1), ("flat", 0, 0, 0)])  # one piece, read across its rows
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    bounds=st.lists(st.lists(NUMBER, max_size=2), min_size=3, max_size=3),
    program=st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), NUMBER, NUMBER, NUMBER), max_size=5),
)
def test_any_program_of_views_gives_what_it_gives_on_the_full_tensor(shape, bounds, program):
    full = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    meter = Meter()
    got = lazy(cut(full, bounds[: len(shape)]), meter)
    for name, dim, a, b in program:
        if full.dim() == 0:
            break
        dim %= full.dim()
        full, got = OPERATIONS[name](full, dim, a, b), OPERATIONS[name](got, dim, a, b)
        assert got.shape == full.shape, name
    before, target = meter.bytes_read, torch.full(full.shape, -1.0)
    target.copy_(got)
    assert torch.equal(target, full.to(target.dtype))
    if isinstance(got, Lazy):
        assert meter.bytes_read - before == full.nbytes  # each element once
    else:
        assert full.numel() == 0 or {name for name, *_ in program} & {"flat", "cast", "step"}, f"a view was read: {program}"


def test_counting_on_meta_parameters_reads_nothing():
    meter = Meter()
    stand_in = lazy(cut(torch.randn(8, 4), [[4], [2]]), meter)
    torch.empty(4, 4, device="meta").copy_(stand_in.narrow(0, 2, 4))
    assert meter.bytes_read == 0


# ---- real workers -----------------------------------------------------------------------------------------------

INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTISED = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": INT8 | {"strategy": "token", "dynamic": True},
        }
    },
}
FAMILIES = {"qwen2": {"tie_word_embeddings": True}, "mixtral": {}, "deepseek_v3": {}}  # mixtral's experts need padding


def make_worker(folder: Path, rank: int, tensor_parallel: int = 2):
    """vLLM's own CPU worker with our extension and dummy weights, as its executor makes it; all meet in a file of `folder`."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    config = EngineArgs(
        model=str(folder), dtype="float32", enforce_eager=True, load_format="dummy", skip_tokenizer_init=True,
        kv_cache_memory_bytes=1 << 24, max_model_len=128, tensor_parallel_size=tensor_parallel,
        distributed_executor_backend="mp", worker_extension_cls="k15.weights.engine.EngineWeights",
    ).create_engine_config()  # fmt: skip
    worker = WorkerWrapperBase(rpc_rank=rank, global_rank=rank)
    settings_ = {"vllm_config": config, "local_rank": rank, "rank": rank, "is_driver_worker": rank == 0}
    settings_["distributed_init_method"] = f"file://{folder}/rendezvous"
    worker.init_worker([settings_] * 2)
    worker.init_device()
    worker.load_model()
    return worker


def state(model) -> dict[str, torch.Tensor]:
    """Every tensor of the model; and what each linear layer makes of a fixed input, since CPU layers compute with packed
    copies and drop the plain ones."""
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        size = getattr(module, "input_size_per_partition", getattr(module, "input_size", None))
        if size is not None and hasattr(module, "quant_method"):
            fixed = torch.randn(3, size, generator=torch.Generator().manual_seed(1))
            found[f"{name}()"] = module.quant_method.apply(module, fixed)
    return found


def load_both_ways(rank: int, folder: str) -> None:
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    from vllm.distributed import cleanup_dist_env_and_memory

    from k15.weights.engine import _checked
    from k15.weights.vllm_cpu import repacking

    torch.set_num_threads(1)
    results = {}
    for family in FAMILIES:
        paths = [str(Path(folder, family, "shm", segment_name(1, r))) for r in range(2)]
        worker = make_worker(Path(folder, family), rank)
        model = worker.get_model()
        dummy = state(model)
        check = worker.k15_check(1, paths)
        assert worker.k15_version() == -1 and all(torch.equal(t, dummy[n]) for n, t in state(model).items())
        load = worker.k15_load(1)
        assert worker.k15_version() == 1
        sliced = state(model)
        # Beside it: full tensors, assembled in this worker.
        pieces, _ = _checked(1, [Path(p) for p in paths], worker.model_config.hf_config.to_dict())
        for tensor in model.state_dict().values():
            tensor.fill_(7)
        with repacking(model):
            worker.reload_weights(weights_iterator=pieces.tensors())
        whole = state(model)
        differ = [name for name, tensor in whole.items() if not torch.equal(tensor, sliced[name])]
        kept = ("_scale", "expert_map")  # no weights
        stale = [n for n, t in sliced.items() if t.any() and torch.equal(t, dummy[n]) and not n.endswith(kept)]
        results[family] = {**check, **load, "differ": differ, "stale": stale, "tensors": len(whole)}
        cleanup_dist_env_and_memory()
    if rank == 0:
        worker = make_worker(Path(folder, "quantised"), 0, tensor_parallel=1)
        before = {name: tensor.clone() for name, tensor in worker.get_model().state_dict().items()}
        results["refusal"] = worker.k15_check(1, [str(Path(folder, "qwen2", "shm", segment_name(1, r))) for r in range(2)])
        assert before and all(torch.equal(t, before[n]) for n, t in worker.get_model().state_dict().items())
    torch.save(results, Path(folder, f"result{rank}.pt"))


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_read_their_slices_alone(make_model, write_version, tmp_path):
    from safetensors.torch import load_file

    replicated, total = {}, {}
    for family, sizes in FAMILIES.items():
        _, config = make_model(tmp_path / family, family, num_hidden_layers=2, **sizes)
        weights = load_file(tmp_path / family / "model.safetensors")
        (tmp_path / family / "shm").mkdir()
        write_version(tmp_path / family / "shm", config, weights.__getitem__, 1, tp=2, pp=1)
        (tmp_path / family / "model.safetensors").unlink()
        # Every worker keeps these whole; and vLLM copies a split bias twice, the first time to count its elements.
        words = ("norm", ".gate.", "q_a_proj", "kv_a_proj", "proj.bias")
        replicated[family] = sum(t.nbytes for n, t in weights.items() if any(w in n for w in words))
        total[family] = sum(t.nbytes for t in weights.values())
    shutil.copytree(tmp_path / "qwen2", tmp_path / "quantised", ignore=lambda *_: ["shm"])
    text = json.loads((tmp_path / "qwen2" / "config.json").read_text()) | {"quantization_config": QUANTISED}
    (tmp_path / "quantised" / "config.json").write_text(json.dumps(text))

    mp.spawn(load_both_ways, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"result{rank}.pt") for rank in range(2)]
    for family in FAMILIES:
        both = [rank[family] for rank in ranks]
        print(family, both, total[family], replicated[family])
        assert all(r["differ"] == [] and r["stale"] == [] and r["tensors"] > 20 for r in both)
        # Nothing twice and nothing for the other worker; the vocabulary (97) is shared out in multiples of 64 rows.
        assert sum(r["bytes_read"] for r in both) == total[family] + replicated[family]
        assert max(r["bytes_read"] for r in both) < 0.65 * total[family]
    assert "quantised with 'compressed-tensors'" in ranks[0]["refusal"]["error"]
