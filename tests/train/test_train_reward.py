"""The value head: logits and gradients equal transformers' sequence classifier, in one rank and in four layouts of two."""

import json
from pathlib import Path

import pytest
import torch
from train_ranks import assemble, hf_config, hf_slices, make_samples, on_ranks

from k15.config.schema import AlgoConfig, ParallelConfig

INPUTS = [s.tokens for s in make_samples(4, 3, seed=5)]
LABELS = [float(i % 3 == 0) for i in range(len(INPUTS) - 1)] + [0.3]  # the last one is soft
LAYOUTS = {
    "tp2": {"tensor": 2},
    "tp2_sp": {"tensor": 2, "sequence_parallel": True},
    "pp2": {"pipeline": 2},
    "cp2": {"context": 2, "recompute": True},
    "dp2": {},
}


def reward_trainer(config: dict, folder: Path | None, layout: dict, micro_batch_tokens: int = 64):
    from k15.train.reward_head import RewardTrainer

    trainer = RewardTrainer(
        config,
        parallel=ParallelConfig(**(layout | {"distributed_optimizer": False})),
        algo=AlgoConfig(micro_batch_tokens=micro_batch_tokens, eps=1e-3),
        dtype="float32",
        device=torch.device("cpu"),
        seed=0,
    )
    if folder is not None:
        trainer.load_hf(folder)
    return trainer


def measure(trainer, folder: str) -> dict:
    """What must not depend on the layout; one step is taken, saved and repeated."""
    result = {"logits": trainer.score(INPUTS), "metrics": trainer.reward_gradients(INPUTS, LABELS)}
    result["gradients"] = hf_slices(trainer, lambda p: p.main_grad)
    result["export"] = hf_slices(trainer, lambda p: p)
    trainer.save(folder)
    result["norm"] = trainer.reward_step(INPUTS, LABELS, 1e-2)["grad_norm"]
    result["after"] = trainer.score(INPUTS)
    trainer.load(folder)
    trainer.reward_step(INPUTS, LABELS, 1e-2)
    result["repeated"] = trainer.score(INPUTS)
    return result


def two_ranks(folder: str) -> dict:
    """Every layout of two ranks in one pair of processes."""
    from megatron.core import parallel_state as mpu

    config = json.loads((Path(folder) / "config.json").read_text())
    results = {}
    for name, layout in LAYOUTS.items():
        if mpu.model_parallel_is_initialized():
            mpu.destroy_model_parallel()
        results[name] = measure(reward_trainer(config, Path(folder), layout), f"{folder}/checkpoint_{name}")
    return results


def one_rank(folder: str) -> dict:
    """The same in one rank, in one micro-batch and in many; and what a reward model refuses."""
    from k15.errors import DataError, TrainerError
    from k15.train.reward_head import RewardTrainer, reward_config

    config = json.loads((Path(folder) / "config.json").read_text())
    whole = measure(reward_trainer(config, Path(folder), {}, 100_000), f"{folder}/checkpoint_whole")
    trainer = reward_trainer(config, Path(folder), {}, 1)
    split = measure(trainer, f"{folder}/checkpoint_split")
    with pytest.raises(TrainerError, match="no vocabulary"):
        trainer.logprobs(INPUTS)
    with pytest.raises(TrainerError, match="reward_step"):
        trainer.sft_step(make_samples(1, 2), 1e-3)
    with pytest.raises(DataError, match="0 .wrong. to 1"):
        trainer.reward_step(INPUTS[:1], [1.5], 1e-3)
    base = hf_config("qwen2", tie_word_embeddings=True)
    with pytest.raises(ValueError, match="reward_config"):
        reward_trainer(base, None, {})
    fresh = reward_trainer(reward_config(base), None, {})
    assert isinstance(fresh, RewardTrainer)
    fresh.init_random(1)
    return {"whole": whole, "split": split, "fresh": fresh.score(INPUTS)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(folder of a random classifier, its logits, loss and gradients by transformers)."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = AutoConfig.for_model(**hf_config("qwen2"), num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    logits = torch.cat([_last_token(model, tokens) for tokens in INPUTS])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(LABELS))
    loss.backward()
    return folder, logits.detach(), loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _last_token(model, tokens) -> torch.Tensor:
    """[1]; by the trunk and the head: the own pooling of transformers needs a pad id."""
    hidden = model.model(torch.tensor([tokens])).last_hidden_state
    return model.score(hidden[:, -1]).squeeze(1)


def _check(results: list[dict], reference) -> None:
    _, logits, loss, gradients = reference
    for rank in results:
        torch.testing.assert_close(torch.tensor(rank["logits"]), logits, rtol=1e-5, atol=1e-5)
        assert rank["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
        right = ((logits > 0) == (torch.tensor(LABELS) > 0.5)).float().mean()
        assert rank["metrics"]["accuracy"] == pytest.approx(float(right), abs=1e-6)
        assert rank["after"] == rank["repeated"] != rank["logits"]
    got = assemble([rank["gradients"] for rank in results])
    assert got.keys() == gradients.keys() and "score.weight" in got
    worst = {n: e for n, g in gradients.items() if (e := float((got[n] - g).norm() / g.norm().clamp(min=1e-12))) > 1e-5}
    assert not worst, worst
    norm = float(torch.stack([g.norm() for g in gradients.values()]).norm())
    for rank in results:
        assert rank["norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.megatron
def test_one_rank_equals_transformers_however_it_is_split(reference, tmp_path):
    from safetensors.torch import load_file

    found = on_ranks(1, one_rank, tmp_path, str(reference[0]))[0]
    _check([found["whole"]], reference)
    _check([found["split"]], reference)
    assert found["split"]["after"] == pytest.approx(found["whole"]["after"], abs=1e-5)
    assert len(set(found["fresh"])) > 1  # a new head tells sequences apart
    export, source = assemble([found["whole"]["export"]]), load_file(reference[0] / "model.safetensors")
    assert export.keys() == source.keys() and all(torch.equal(export[k], source[k]) for k in source)


@pytest.mark.megatron
@pytest.mark.timeout(900)  # two ranks on two busy cores
def test_layouts_of_two_ranks_equal_transformers(reference, tmp_path):
    ranks = on_ranks(2, two_ranks, tmp_path, str(reference[0]))
    one = None
    for name in LAYOUTS:
        results = [rank[name] for rank in ranks]
        _check(results, reference)
        one = one if one is not None else results[0]["after"]
        assert results[0]["after"] == results[1]["after"]
        assert results[0]["after"] == pytest.approx(one, abs=1e-4), name
