"""One trainer, one rank: what must not change the loss, the optimizer's reset, saving, off-loading, refusals."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path
from train_ranks import hf_config, make_samples, make_trainer, on_ranks

from k15.errors import DataError, TrainerError
from k15.train.checkpoint import random_state, rank_file, set_random_state
from k15.train.offload import Offloaded
from k15.types import Batch

CONFIG = hf_config("qwen2")


def _weights(trainer) -> dict[str, torch.Tensor]:
    return {n: p.clone() for n, p in trainer.named_parameters_local()}


def _gradients(trainer) -> torch.Tensor:
    return torch.cat([p.main_grad.flatten() for p in trainer.model.parameters()]).clone()


def _batch(seed: int) -> Batch:
    return Batch(tuple(make_samples(seed=seed)), 0)


def packing_does_not_matter(_folder: str) -> list[tuple[float, torch.Tensor]]:
    samples = make_samples()
    ref = -torch.rand(len(samples), generator=torch.Generator().manual_seed(0))  # one value a sample, whatever its place
    results = []
    for budget, order in ((10_000, 1), (64, 1), (1, 1), (64, -1)):
        trainer = make_trainer(CONFIG, micro_batch_tokens=budget)
        chosen = list(enumerate(samples))[::order]
        flat = torch.cat([ref[i].expand(len(s.loss_mask)) for i, s in chosen])
        results.append((trainer.gradients("pmd", [s for _, s in chosen], flat)["loss"], _gradients(trainer)))
    return results


@pytest.mark.megatron
def test_loss_and_gradient_do_not_depend_on_packing(tmp_path):
    (loss, gradient), *others = on_ranks(1, packing_does_not_matter, tmp_path, "")[0]
    for other_loss, other in others:
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert (other - gradient).norm() < 1e-6 * gradient.norm()


def life_of_a_trainer(folder: str) -> dict:
    """Everything about state, in one process: each entry is a pair that must be equal, or a value to check."""
    out = {}
    for dtype in ("float32", "bfloat16"):
        for distributed in (True, False):
            out[dtype, distributed] = _reset_and_save(f"{folder}/{dtype}{distributed}", dtype, distributed)
    out["decay"] = [_decayed(distributed, Path(folder) / "old") for distributed in (True, False)]
    trainer = make_trainer(CONFIG)
    freed = trainer.offload()
    with pytest.raises(TrainerError, match="offloaded"):
        trainer.train_iteration(_batch(0))
    trainer.onload()
    trainer.train_iteration(_batch(0))
    plain = make_trainer(CONFIG)
    plain.train_iteration(_batch(0))
    out["offload"] = (freed, _weights(trainer), _weights(plain))
    out["saved"] = _saved_on_and_off_the_device(trainer, Path(folder))
    out["rest"] = _rest_equals_correct_only()
    trainer.save(Path(folder) / "other")
    with pytest.raises(TrainerError, match=r"another layout \(parameters"):
        make_trainer(hf_config("qwen2", hidden_size=16)).load(Path(folder) / "other")
    with pytest.raises(TrainerError, match="is missing"):
        trainer.load(Path(folder) / "nowhere")
    with pytest.raises(FileNotFoundError):  # it is not made again, to be taken for whole without the other ranks' files
        trainer.save(Path(folder) / "removed" / "trainer")
    with pytest.raises(DataError, match="token id is 51"):
        trainer.sft_step([dataclasses.replace(make_samples()[0], tokens=(51,) * len(make_samples()[0].tokens))], 1e-3)
    few = make_trainer(CONFIG, minibatches=6).train_iteration(_batch(0))
    assert few["steps"] == 5  # groups of the batch: partial rollouts can leave fewer than mini-batches
    return out


def _trainer(dtype: str, distributed: bool):
    from k15.config.schema import AlgoConfig, ParallelConfig
    from k15.train.trainer import Trainer

    parallel, algo = (
        ParallelConfig(distributed_optimizer=distributed),
        AlgoConfig(minibatches=2, lr=1e-2, weight_decay=0.1),
    )
    trainer = Trainer(CONFIG, parallel=parallel, algo=algo, dtype=dtype, device=torch.device("cpu"), seed=0)
    trainer.init_random(1)
    return trainer


def _reset_and_save(folder: str, dtype: str, distributed: bool) -> dict:
    old, fresh = _trainer(dtype, distributed), _trainer(dtype, distributed)
    old.train_iteration(_batch(1))
    state = old.optimizer.state_dict()
    for o in fresh.optimizer.inner:  # a fresh optimizer on the weights (and masters) of the old one
        assert not o.state
    for (_, mine), (_, theirs) in zip(fresh.named_parameters_local(), old.named_parameters_local(), strict=True):
        mine.copy_(theirs)
    for mine, theirs in zip(fresh.optimizer._masters(), state["masters"], strict=True):
        mine.copy_(theirs)
    stale = _trainer(dtype, distributed)
    old.save(Path(folder))
    stale.load(Path(folder))
    losses = [t.train_iteration(_batch(2))["loss"] for t in (old, fresh)]  # both reset (the default)
    reset = (_weights(old), _weights(fresh))
    # without a reset the moments matter: a continued run equals an uninterrupted one, and differs from the reset one
    continued = _trainer(dtype, distributed)
    continued.train_iteration(_batch(1))
    for trainer in (stale, continued):
        trainer.algo.reset_optimizer = False
        trainer.train_iteration(_batch(2))
    return {
        "losses": losses,
        "reset": reset,
        "resumed": (_weights(stale), _weights(continued)),
        "moments_matter": (_weights(stale), reset[0]),
        "iteration": (stale.iteration, continued.iteration),
    }


def _decayed(distributed: bool, folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Weights before and after two steps by a gradient of zero, whose only part is the decay; between them a checkpoint is
    loaded of the time when all parameters were decayed, and the rate is another after it."""
    trainer, before = _trainer("float32", distributed), {}
    folder.mkdir(exist_ok=True)
    for _, parameter in trainer.named_parameters_local():
        parameter.add_(0.5)  # biases are zero at first
    trainer.optimizer.reload_parameters()
    before = _weights(trainer)
    for lr in (0.5, 1.0):
        trainer.ddp.zero_grad_buffer()
        trainer.optimizer.zero_grad()
        assert trainer.optimizer.step(lr) == 0
        for optimizer in trainer.optimizer.inner:
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.1
        trainer.save(folder / str(distributed))
        trainer.load(folder / str(distributed))
    after = _weights(trainer)
    return {name: (before[name], after[name]) for name in before}


def _rest_equals_correct_only() -> tuple[torch.Tensor, torch.Tensor]:
    """The rest gradient is that of the correct samples alone, whatever the wrong ones are."""
    samples = [dataclasses.replace(s, weight=1 / 15) for s in make_samples()]
    trainer = make_trainer(CONFIG)
    trainer.gradients("rest", samples)
    mixed = _gradients(trainer)
    trainer.gradients("rest", [s for s in samples if s.reward > 0])
    return mixed, _gradients(trainer)


@pytest.mark.megatron
def test_reset_resume_offload_and_refusals(tmp_path):
    out = on_ranks(1, life_of_a_trainer, tmp_path, str(tmp_path))[0]
    freed, moved, plain = out.pop("offload")
    assert freed >= 4 * sum(p.numel() for p in plain.values())
    assert _equal(moved, plain)
    off, on = out.pop("saved")
    assert off.keys() == on.keys() and len(off) > 3 * len(plain), "parameters, moments, masters"
    assert all(torch.equal(off[k], on[k]) for k in on)
    for found in out.pop("decay"):
        assert {p.dim() for p, _ in found.values()} == {1, 2}
        for name, (weight, decayed) in found.items():  # norms' gains and biases stay as they are
            assert torch.equal(decayed, weight) if weight.dim() == 1 else torch.allclose(decayed, 0.95 * 0.9 * weight), name
    mixed, correct = out.pop("rest")
    assert correct.abs().sum() > 0
    assert (mixed - correct).norm() <= 1e-6 * correct.norm()
    for key, pairs in out.items():
        assert pairs["losses"][0] == pairs["losses"][1], key
        assert _equal(*pairs["reset"]), key
        assert _equal(*pairs["resumed"]), key
        assert not _equal(*pairs["moments_matter"]), key
        assert pairs["iteration"] == (2, 2)


def _saved_on_and_off_the_device(trainer, folder: Path) -> list[dict]:
    """All tensors of two checkpoints by place: the first written while parameters, moments and masters lie elsewhere."""
    found = []
    everything = [t for _, t in trainer.named_parameters_local()] + trainer.optimizer.tensors()
    trainer._offloaded = Offloaded(everything, [])  # as on CUDA, where there is another place to go
    assert not any(t.untyped_storage().nbytes() for t in everything)
    for name in ("off", "on"):
        trainer.save(folder / name)
        trainer.onload()
        leaves, _ = tree_flatten_with_path(torch.load(rank_file(folder / name, 0), weights_only=True)["state"])
        found.append({str(path): leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)})
    return found


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_a_cpu_saved_can_be_loaded_on_a_gpu():
    """`cluster.device` may change; a checkpoint of a CPU has no state of a device's generator."""
    state = random_state(torch.device("cpu"))
    torch.rand(1)
    set_random_state(state, torch.device("cuda", 0))
    assert torch.equal(torch.get_rng_state(), state["rng"])
