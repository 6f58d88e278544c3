"""SFT and DPO against TRL's own trainers on the same batch: losses and gradients agree, in one pack and in many."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch
from train_ranks import assemble, hf_slices, on_ranks

from k15.config.schema import AlgoConfig, ParallelConfig, TinyModelConfig
from k15.data.tiny import write_tiny_model
from k15.errors import DataError
from k15.types import Sample

pytestmark = [pytest.mark.megatron, pytest.mark.slow, pytest.mark.timeout(600)]
TOLERANCE = 1e-4
BETA, SMOOTHING = 0.3, 0.2
TINY = TinyModelConfig(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2)


def _rows(count: int = 6) -> list[dict[str, str]]:
    """Prompts with responses of very different lengths."""
    random = Random(0)

    def text(longest: int) -> str:
        return "".join(random.choice("0123456789+-*=") for _ in range(random.randint(1, longest)))

    return [{"prompt": text(8), "chosen": text(12), "rejected": text(40)} for _ in range(count)]


def _gradients(trainer, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.zero_grad()
    loss.backward()
    return float(loss), {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


def trl_side(folder: Path) -> dict:
    """What TRL makes of the rows: its batches, losses and gradients. Runs in a process of its own."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    plain = {"output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False, "report_to": "none", "max_length": None,
             "per_device_train_batch_size": 6, "gradient_checkpointing": False, "disable_tqdm": True}  # fmt: skip

    def policy(name: str = "policy"):
        return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)

    data = Dataset.from_list([{"prompt": r["prompt"], "completion": r["chosen"]} for r in _rows()])
    sft = SFTTrainer(model=policy(), args=SFTConfig(**plain), train_dataset=data, processing_class=tokenizer)
    batch = next(iter(sft.get_train_dataloader()))
    found = {"sft": (*_gradients(sft, sft.compute_loss(sft.model, dict(batch))), dict(batch))}
    for loss_type in ("sigmoid", "robust"):
        args = DPOConfig(**plain, beta=BETA, label_smoothing=SMOOTHING, loss_type=[loss_type])
        dpo = DPOTrainer(model=policy(), ref_model=policy("reference"), args=args, train_dataset=Dataset.from_list(_rows()),
                         processing_class=tokenizer)  # fmt: skip
        batch = next(iter(dpo.get_train_dataloader()))
        found[loss_type] = (*_gradients(dpo, dpo.compute_loss(dpo.model, dict(batch))), dict(batch))
    return found


def k15_side(folder: str, batches: dict) -> dict:
    """Losses and gradients of our trainer on TRL's batches, in packs of several sizes."""
    from k15.train.preference import Preference, PreferenceTrainer

    config = torch.load(Path(folder) / "config.pt", weights_only=False)
    out = {}
    for budget in (100000, 60, 1):
        trainer = PreferenceTrainer(
            config,
            parallel=ParallelConfig(distributed_optimizer=False),
            algo=AlgoConfig(micro_batch_tokens=budget),
            dtype="float32",
            device=torch.device("cpu"),
            seed=0,
        )

        def gradients(trainer=trainer):
            return hf_slices(trainer, lambda p: p.main_grad)

        pairs = batches["sigmoid"]
        trainer.load_hf(Path(folder) / "reference")
        reference = trainer.sequence_logprobs(pairs)
        trainer.load_hf(Path(folder) / "policy")
        results = {"sft": (trainer.gradients("sft", batches["sft"]), gradients())}
        results["sft"][0]["forward_only"] = trainer.sft_loss(batches["sft"])["loss"]
        for name, smoothing in (("sigmoid", 0.0), ("smoothed", SMOOTHING)):
            preference = Preference(BETA, smoothing)
            metrics = trainer.preference_gradients(pairs, reference, preference)
            metrics["forward_only"] = trainer.preference_loss(pairs, reference, preference)
            results[name] = (metrics, gradients())
        before = trainer.preference_step(pairs, reference, 1e-3, Preference(BETA))
        after = trainer.preference_loss(pairs, reference, Preference(BETA))
        assert after["loss"] < before["loss"] and after["margin"] > before["margin"]
        with pytest.raises(DataError, match="no pairs"):
            trainer.preference_loss(pairs[1:], reference[1:], Preference(BETA))
        out[budget] = results
    return out


def _samples(batch: dict) -> list[Sample]:
    """The sequences of a collated batch; a token counts where TRL gives it a label."""
    counted = batch["completion_mask"].bool() if "completion_mask" in batch else batch["labels"] != -100
    samples = []
    for ids, valid, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), counted, strict=True):
        tokens, loss_mask = tuple(ids[valid].tolist()), mask[valid].int().tolist()
        prompt = loss_mask.index(1)
        samples.append(Sample(tokens, prompt, tuple(loss_mask[prompt:])))
    return samples


def _in_turn(samples: list[Sample]) -> list[Sample]:
    """TRL puts all chosen before all rejected."""
    half = len(samples) // 2
    return [s for pair in zip(samples[:half], samples[half:], strict=True) for s in pair]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """(folder with the models, batches as our samples, {name: (loss, gradients)} of TRL)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("trl")
    for seed, name in enumerate(("policy", "reference")):
        write_tiny_model(folder / name, TINY, 128)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.float().save_pretrained(folder / name)
        torch.save(model.config.to_dict(), folder / "config.pt")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(trl_side, folder).result()
    batches = {"sft": _samples(found["sft"][2]), "sigmoid": _in_turn(_samples(found["sigmoid"][2]))}
    want = {name: (loss, gradients) for name, (loss, gradients, _) in found.items()}
    # TRL's `robust` is ((1 - s) L(D) - s L(-D)) / (1 - 2s); label smoothing is (1 - s) L(D) + s L(-D), with L = -logsigmoid.
    (plain, plain_grads), (robust, robust_grads) = want["sigmoid"], want.pop("robust")
    a, b = 2 * (1 - SMOOTHING), 1 - 2 * SMOOTHING
    want["smoothed"] = (a * plain - b * robust, {n: a * g - b * robust_grads[n] for n, g in plain_grads.items()})
    return folder, batches, want


def test_losses_and_gradients_equal_trl(oracle, tmp_path):
    folder, batches, want = oracle
    ranks = on_ranks(2, k15_side, tmp_path, str(folder), batches)  # data parallel
    for budget, results in ranks[0].items():
        for name, (loss, gradients) in want.items():
            metrics = results[name][0]
            assert metrics["loss"] == pytest.approx(loss, rel=TOLERANCE), (budget, name)
            forward = metrics["forward_only"]
            assert (forward if name == "sft" else forward["loss"]) == pytest.approx(loss, rel=TOLERANCE)
            if name != "sft":
                assert metrics["preferred"] == pytest.approx(forward["preferred"])
                assert metrics["margin"] == pytest.approx(forward["margin"], rel=TOLERANCE, abs=1e-5)
            got = assemble([r[budget][name][1] for r in ranks])
            assert got.keys() == gradients.keys()
            for parameter, expected in gradients.items():
                assert expected.norm() > 0
                error = (got[parameter] - expected).norm() / expected.norm()
                assert error < TOLERANCE, (budget, name, parameter, float(error))
