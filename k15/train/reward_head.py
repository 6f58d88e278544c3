"""The Classic reward model (report 2.3.5): a value head on the trainer's own model, trained with binary cross-entropy.

    tokens of (question, reference, response) ── trunk ──▶ hidden state of the last token ── score [1, H] ──▶ one logit

    loss = sum_s w_s BCE(logit_s, label_s),  w_s = 1 / sequences of the batch over all ranks

so that micro-batches and ranks simply add up, as the losses of `loss.py` do. The head is a parameter of the model like
any other: replicated over tensor-parallel ranks, on the last pipeline stage, in Megatron's gradient buffers, optimizer
and checkpoints, and `score.weight` in the export, which is transformers' `*ForSequenceClassification` with one label.

Shapes: T packed tokens of all context-parallel ranks, H hidden, S sequences.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state as mpu
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor

from k15.config.hf import CLASSIFIER, is_scalar
from k15.errors import ConfigError, DataError, TrainerError
from k15.types import Sample

from . import names
from .batch import MicroBatch, response_offsets
from .context import join
from .hf_folder import folder_reader
from .loss import sample_weights
from .metrics import Stopwatch
from .step import run
from .trainer import Trainer, speaks

HEAD = "score.weight"
_ARCHITECTURES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}


def reward_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a reward model on the language model of `config`; a classifier's own stays as it is."""
    if is_scalar(config):
        return dict(config)
    family = _ARCHITECTURES.get(str(config.get("model_type")), "")
    pad = config.get("pad_token_id")
    return {
        **config,
        "architectures": [family + CLASSIFIER],
        "num_labels": 1,
        "id2label": {"0": "correct"},
        "label2id": {"correct": 0},
        "tie_word_embeddings": False,  # there is no vocabulary projection to tie
        "pad_token_id": pad if pad is not None else config.get("eos_token_id"),
    }


class RewardTrainer(Trainer):
    """A Trainer whose model ends in one number. What needs a vocabulary (`logprobs`, `sft_step`, ...) raises TrainerError.

    Takes what Trainer takes; `hf_config` as `reward_config` makes it. Every public method is collective.
    """

    def __init__(self, hf_config: Mapping[str, Any], **settings: Any) -> None:
        if not is_scalar(hf_config):
            raise ConfigError(
                f"architectures of config.json is {hf_config.get('architectures')!r}; a reward model needs one that ends in "
                f"{CLASSIFIER}. Pass the config through reward_config."
            )
        super().__init__(hf_config, **settings)

    def load_base(self, folder: Path, seed: int) -> None:
        """The trunk of a language model's folder, and a new head (normal, standard deviation 1/sqrt(H)) from `seed`."""
        draw = torch.Generator().manual_seed(seed)
        head = torch.randn(1, self.shape.hidden, generator=draw) / self.shape.hidden**0.5
        with folder_reader(Path(folder)) as read:
            self._fill(lambda name: head if name == HEAD else read(name))

    def init_random(self, seed: int) -> None:
        """As Trainer's; the head as in `load_base`."""
        draw = torch.Generator().manual_seed(seed)
        head = torch.randn(1, self.shape.hidden, generator=draw) / self.shape.hidden**0.5
        read = names.random_reader(self.hf_config, seed)
        self._fill(lambda name: head if name == HEAD else read(name))

    def score(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """The logit of each token sequence; on every rank. log(p / (1 - p)) of "correct", before any calibration."""
        self._check_on_device()
        if not inputs:
            return []
        samples = _samples(inputs, [0.0] * len(inputs))
        self._check_samples(samples)

        def collect(micro: MicroBatch, hidden: Tensor):
            logits = self._logits(hidden, micro)
            return logits.sum(), (micro.slots, logits)

        micro_batches = self._micro_batches(samples, [0.0] * len(samples), response_offsets(samples), None)
        collected = run(self.ddp, micro_batches, collect, forward_only=True)
        return self._gather_flat(collected, len(samples)).tolist()

    def reward_step(self, inputs: Sequence[Sequence[int]], labels: Sequence[float], lr: float) -> dict[str, float]:
        """One step; loss and accuracy (at logit 0) are of the batch before it. Labels are 0 to 1. Raises DataError."""
        self._check_on_device()
        samples = _samples(inputs, labels)
        self._check_samples(samples)
        clock = Stopwatch(self.device)
        metrics, _ = self._minibatch("reward", samples, None, lr, clock, keep=False)
        return metrics | clock.seconds() | {"samples": len(samples), "tokens": sum(map(len, inputs)), "lr": lr}

    def reward_gradients(self, inputs: Sequence[Sequence[int]], labels: Sequence[float]) -> dict[str, float]:
        """Loss, accuracy, and the summed gradients in the DDP buffers, without a step."""
        return self._gradients("reward", _samples(inputs, labels), None, keep=False)[0]

    def _logits(self, hidden: Tensor, micro: MicroBatch) -> Tensor:
        """hidden as in `loss.response_logprobs` -> fp32 [S] of the whole pack."""
        if self.parallel.sequence_parallel:
            # Every rank computes the same loss from the same rows, so each gradient is complete: backward only slices it.
            group = mpu.get_tensor_model_parallel_group()
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False, group=group)
        rows = hidden.squeeze(1).index_select(0, micro.rows)
        logits = F.linear(rows.float(), self.model.score.weight.float()).squeeze(1)
        return join(logits, micro.own, micro.slots.shape[0], mpu.get_context_parallel_group())

    def _gradients(self, kind: str, samples: Sequence[Sample], ref: Tensor | None, keep: bool):
        if kind != "reward":
            raise TrainerError(f"the loss {kind!r} needs a vocabulary, and a reward model has none; use reward_step")

        def compute(micro: MicroBatch, hidden: Tensor):
            logits = self._logits(hidden, micro)
            each = F.binary_cross_entropy_with_logits(logits, micro.reward, reduction="none")
            loss = (each * micro.weight).sum()
            right = (((logits > 0) == (micro.reward > 0.5)) * micro.weight).sum()
            return loss, torch.stack((loss.detach(), right.detach()))

        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        micro_batches = self._micro_batches(samples, sample_weights(kind, samples), response_offsets(samples), None)
        collected = run(self.ddp, micro_batches, compute, forward_only=False)
        sums = torch.zeros(2, device=self.device)
        if speaks():
            for part in collected:
                sums += part
        dist.all_reduce(sums)
        return {"loss": float(sums[0]), "accuracy": float(sums[1])}, None

    def _response_logprobs(self, *_args: Any, **_kwargs: Any):
        raise TrainerError("a reward model has no vocabulary, so it has no log-probs; use score")


def _samples(inputs: Sequence[Sequence[int]], labels: Sequence[float]) -> list[Sample]:
    """Sequences as samples whose one response token is a placeholder: the row that would predict it is the last real one."""
    if len(inputs) != len(labels):
        raise DataError(f"there are {len(inputs)} sequences but {len(labels)} labels")
    if wrong := [x for x in labels if not 0 <= x <= 1]:
        raise DataError(f"a label is {wrong[0]}; labels are 0 (wrong) to 1 (correct)")
    if not all(inputs):
        raise DataError("a sequence is empty; a reward model scores the last token")
    return [Sample((*tokens, 0), len(tokens), (1,), reward=float(x)) for tokens, x in zip(inputs, labels, strict=True)]
