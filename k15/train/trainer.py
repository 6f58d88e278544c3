"""The trainer: theta_i and a batch of scored samples in, theta_{i+1} out (report 2.3.2). All ranks run in lockstep.

    batch ── mini-batches of whole groups ──▶ reference log-probs (theta_i) ──▶ micro-batches ──▶ loss ──▶ AdamW step

Every public method is COLLECTIVE: all ranks call it with the same arguments. Every rank holds the whole batch as Python
records and picks its own data-parallel share; results are the same on every rank.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from torch import Tensor

from k15.config.schema import AlgoConfig, ParallelConfig
from k15.errors import ConfigError, DataError, TrainerError, unknown_name
from k15.types import Batch, Sample
from k15.weights import layout as hf_layout

from . import checkpoint, names
from .attention import Rotary
from .batch import MicroBatch, collate, response_offsets
from .hf_folder import folder_reader
from .loss import LOSSES, REFERENCED, micro_batch_loss, response_logprobs, sample_weights, used_samples
from .metrics import Stopwatch, log_ratio_metrics, probe_indices
from .model import DTYPES, build_model, initialise_model_parallel, padded_vocab
from .offload import Offloaded
from .optimizer import PolicyOptimizer, wrap_ddp
from .packing import Plan, Work, plan_micro_batches, split_minibatches
from .shape import check_layout, read_shape
from .step import install_hooks, run
from .warm import prepare_kernels, say_layers

for _name in ("megatron.core", "torch.distributed.distributed_c10d"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Trainer:
    """A policy on Megatron-core with its optimizer. torch.distributed must be up (`device.init_distributed`).

    `temperature`: pi is the distribution that was sampled, softmax(logits / temperature).
    Raises ConfigError for a model or layout that cannot be, before anything is allocated.
    """

    def __init__(
        self,
        hf_config: Mapping[str, Any],
        *,
        parallel: ParallelConfig,
        algo: AlgoConfig,
        dtype: str,
        device: torch.device,
        seed: int,
        temperature: float = 1.0,
    ) -> None:
        self.hf_config, self.parallel, self.algo = dict(hf_config), parallel, algo
        self.device, self.seed, self.temperature = device, seed, temperature
        self.shape = read_shape(hf_config)
        self.work = Work.of(self.shape)
        _check_algo(algo, dtype, temperature)
        check_layout(self.shape, parallel, dist.get_world_size())
        if not mpu.model_parallel_is_initialized():
            initialise_model_parallel(parallel)
        self.dtype = DTYPES[dtype]
        self.model = build_model(self.shape, parallel, dtype=self.dtype, device=device, seed=seed)
        self.ddp = wrap_ddp(self.model, parallel)
        install_hooks(self.ddp)
        self.optimizer = PolicyOptimizer(self.ddp, algo, parallel, device)
        self.rotary = Rotary(self.shape, device)
        say_layers(self.dtype, device)
        self.kernels = prepare_kernels(self.shape, algo, parallel.tensor, self.dtype, device)
        self.iteration = 0
        self._offloaded: Offloaded | None = None

    # ---- weights -----------------------------------------------------------------------------------------------

    def init_random(self, seed: int) -> None:
        """Normal(0, initializer_range of config.json, else 0.02) weights; the same whatever the layout."""
        self._fill(names.random_reader(self.hf_config, seed))

    def load_hf(self, folder: Path) -> None:
        """Weights from a Hugging Face folder (safetensors, sharded or not)."""
        with folder_reader(Path(folder)) as read:
            self._fill(read)

    def _fill(self, read) -> None:
        self._check_on_device()
        names.fill(self.model, self.hf_config, read, padded_vocab(self.shape, self.parallel.tensor))
        self.optimizer.reload_parameters()

    def named_parameters_local(self) -> Iterator[tuple[str, Tensor]]:
        """(Megatron name with global layer and expert numbers, this rank's shard) of every parameter."""
        for name, parameter in names.named_parameters(self.model):
            yield name, parameter.data

    def is_replica_owner(self, name: str) -> bool:
        """Is this rank the one of the data-parallel copies that exports the parameter's shard?"""
        return names.owns(name)

    def shard_of(self, name: str) -> tuple[int, int]:
        """(rank, size) in the group that splits the parameter."""
        return names.shard_of(name)

    def hf_slices(self) -> Iterator[hf_layout.Slice]:
        """The Hugging Face slices that this rank exports; over all ranks they tile every tensor exactly once."""
        for name, tensor in self.named_parameters_local():
            if self.is_replica_owner(name):
                yield from hf_layout.to_hf(self.hf_config, name, tensor, *names.shard_of(name))

    def model_parallel_rank(self) -> tuple[int, int]:
        """(tensor, pipeline) rank: ranks that agree in both hold the same shards, experts apart."""
        return mpu.get_tensor_model_parallel_rank(), mpu.get_pipeline_model_parallel_rank()

    # ---- scoring -----------------------------------------------------------------------------------------------

    def logprobs(self, sequences: Sequence[Sequence[int]], temperature: float = 1.0) -> list[list[float]]:
        """log p(token t | tokens < t), natural log, for t = 1 .. len-1 of every sequence; on every rank."""
        self._check_on_device()
        samples = [Sample(tuple(s), 1, (1,) * (len(s) - 1)) for s in sequences if len(s) > 1]
        if not samples:
            return [[] for _ in sequences]
        self._check_samples(samples)
        flat = iter(self._score(samples, temperature).tolist())
        return [[next(flat) for _ in range(len(s) - 1)] for s in sequences]

    def _score(self, samples: Sequence[Sample], temperature: float) -> Tensor:
        """Log-probs of all response tokens under the current weights, fp32 [sum of response lengths], on the host."""
        offsets = response_offsets(samples)

        def collect(micro: MicroBatch, hidden: Tensor):
            logprob, _ = self._response_logprobs(hidden, micro, temperature, entropy=False)
            return logprob.sum(), (micro.slots, logprob)

        micro_batches = self._micro_batches(samples, [0.0] * len(samples), offsets, None)
        collected = run(self.ddp, micro_batches, collect, forward_only=True)
        return self._gather_flat(collected, offsets[-1])

    def _response_logprobs(self, hidden: Tensor, micro: MicroBatch, temperature: float, entropy: bool):
        return response_logprobs(
            hidden,
            self.model.output_weight(),
            micro,
            temperature=temperature,
            vocab=self.shape.vocab,
            sequence_parallel=self.parallel.sequence_parallel,
            entropy=entropy,
            kernels=self.algo.kernels,
        )

    def _gather_flat(self, parts: Sequence[tuple[Tensor, Tensor]], total: int) -> Tensor:
        """Join (slots, values) of the last pipeline stages over all ranks into one host tensor [total]."""
        flat = torch.zeros(total)
        if speaks():
            for slots, values in parts:
                flat[slots] = values.detach().cpu()
        flat = flat.to(self.device)
        dist.all_reduce(flat)  # every slot is filled by one rank and 0 elsewhere: exact
        return flat.cpu()

    # ---- training ----------------------------------------------------------------------------------------------

    def train_iteration(self, batch: Batch, *, lr: float | None = None) -> dict[str, float]:
        """One iteration of the report: reset the optimizer, `algo.minibatches` steps against theta_i; metrics.

        loss, grad_norm, entropy (nats a token) are means over the steps. log_ratio_mean, _std, _max_abs and
        kl_ref_now (k3 estimate, nats a token) compare theta_{i+1} with theta_i on at most 64 samples of the first
        mini-batch. seconds_*: host time of each part on this rank. With the loss `rest` and no correct sample there is
        no step, a loss of 0, and none of the other measures.
        """
        self._check_on_device()
        self._check_samples(batch.samples)
        lr = self.algo.lr if lr is None else lr
        clock = Stopwatch(self.device)
        if self.algo.reset_optimizer:
            self.optimizer.reset()
        parts = [used_samples(self.algo.loss, [batch.samples[i] for i in p]) for p in self._minibatches(batch)]
        parts = [part for part in parts if part]
        refs: list[Tensor | None] = [None] * len(parts)
        if self.algo.loss in REFERENCED and len(parts) > 1:
            # The first step starts at theta_i, so its own log-probs are the reference; the others need theirs now.
            later = self._score([s for part in parts[1:] for s in part], self.temperature)
            refs[1:] = later.split([response_offsets(part)[-1] for part in parts[1:]])
        clock.lap("ref")
        steps = []
        first_logprobs = None
        for part, ref in zip(parts, refs, strict=True):
            metrics, logprobs = self._minibatch(self.algo.loss, part, ref, lr, clock, keep=first_logprobs is None)
            first_logprobs = logprobs if first_logprobs is None else first_logprobs
            steps.append(metrics)
        probed = self._probe(parts[0], first_logprobs) if steps else {}
        clock.lap("probe")
        self.iteration += 1
        means = {key: sum(m[key] for m in steps) / len(steps) for key in steps[0]} if steps else {"loss": 0.0}
        tokens = sum(len(s.tokens) for s in batch.samples)
        counts = {"steps": len(steps), "samples": len(batch.samples), "tokens": tokens, "lr": lr}
        return means | probed | clock.seconds() | counts

    def sft_step(self, samples: Sequence[Sample], lr: float, micro_batch_tokens: int | None = None) -> dict[str, float]:
        """One supervised step: mean negative log-likelihood of the tokens in the loss masks, at temperature 1.

        micro_batch_tokens: the size of a pack from here on; None: as before.
        """
        self._check_on_device()
        self._check_samples(samples)
        self.set_micro_batch_tokens(micro_batch_tokens)
        clock = Stopwatch(self.device)
        metrics, _ = self._minibatch("sft", samples, None, lr, clock, keep=False)
        tokens = sum(len(s.tokens) for s in samples)
        return metrics | clock.seconds() | {"samples": len(samples), "tokens": tokens, "lr": lr}

    def sft_loss(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The loss of `sft_step` under the current weights, forward only; `tokens` are those that count."""
        self._check_on_device()
        self._check_samples(samples)
        mask = torch.tensor([m for s in samples for m in s.loss_mask], dtype=torch.float64)
        if not mask.sum() > 0:
            raise DataError("no token of the samples counts in the loss: every loss mask is zero")
        logprobs = self._score(samples, 1.0).double()
        return {"loss": float(-(logprobs * mask).sum() / mask.sum()), "tokens": float(mask.sum())}

    def set_micro_batch_tokens(self, tokens: int | None) -> None:
        """Packed tokens a micro-batch, at most, from here on; None: as before. Raises ConfigError below 1."""
        if tokens is not None and tokens != self.algo.micro_batch_tokens:
            self.algo = replace(self.algo, micro_batch_tokens=tokens)
            _check_algo(self.algo, str(self.dtype).removeprefix("torch."), self.temperature)

    def gradients(self, kind: str, samples: Sequence[Sample], ref: Tensor | None = None) -> dict[str, float]:
        """Loss and summed gradients (in the DDP buffers) of one mini-batch, without a step. See `loss.py` for `kind`.

        ref: host fp32 [sum of response lengths], as `logprobs` orders them; None: theta_i is the current weights.
        """
        return self._gradients(kind, used_samples(kind, samples), ref, keep=False)[0]

    def _minibatch(self, kind: str, samples: Sequence[Sample], ref, lr: float, clock: Stopwatch, keep: bool):
        metrics, logprobs = self._gradients(kind, samples, ref, keep)
        return self._step(metrics, lr, clock), logprobs

    def _step(self, metrics: dict[str, float], lr: float, clock: Stopwatch) -> dict[str, float]:
        """Step by the gradients in the buffers; `metrics` (of the loss they belong to) with the gradient's norm."""
        clock.lap("forward_backward")
        if not math.isfinite(metrics["loss"]):
            raise TrainerError(f"the loss is {metrics['loss']} in iteration {self.iteration}; no step was taken")
        norm = self.optimizer.step(lr)
        if not math.isfinite(norm):
            raise TrainerError(
                f"the gradient norm is {norm} in iteration {self.iteration}; the weights are spoiled. Go on from the last "
                "checkpoint, with the same words and run_dir, and a smaller learning rate (algo.lr; k15 sft, dpo: of the stage)"
            )
        clock.lap("optimizer")
        return metrics | {"grad_norm": norm}

    def _gradients(self, kind: str, samples: Sequence[Sample], ref: Tensor | None, keep: bool):
        """(metrics, log-probs [sum of response lengths] if `keep`); gradients are in the buffers, summed over ranks."""
        weights = sample_weights(kind, samples)
        offsets = response_offsets(samples)
        temperature = 1.0 if kind == "sft" else self.temperature

        def compute(micro: MicroBatch, hidden: Tensor):
            logprob, entropy = self._response_logprobs(hidden, micro, temperature, entropy=True)
            loss = micro_batch_loss(kind, logprob, micro, self.algo)
            sums = torch.stack((loss.detach(), (entropy.detach() * micro.mask).sum()))
            return loss, (sums, (micro.slots, logprob.detach()))

        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        micro_batches = self._micro_batches(samples, weights, offsets, ref)
        collected = run(self.ddp, micro_batches, compute, forward_only=False)
        sums = torch.zeros(2, device=self.device)
        if speaks():
            for part, _ in collected:
                sums += part
        dist.all_reduce(sums)
        counted = sum(sum(s.loss_mask) for s in samples)
        metrics = {"loss": float(sums[0]), "entropy": float(sums[1]) / max(counted, 1)}
        logprobs = self._gather_flat([part for _, part in collected], offsets[-1]) if keep else None
        return metrics, logprobs

    def _micro_batches(self, samples, weights, offsets, ref: Tensor | None, plan: Plan | None = None) -> list[MicroBatch]:
        """This data-parallel rank's micro-batches of a mini-batch; `plan` None: each sample by itself."""
        plan = self._plan(samples) if plan is None else plan
        return [
            collate(
                indices,
                samples,
                weights,
                offsets,
                ref,
                rotary=self.rotary,
                device=self.device,
                dtype=self.dtype,
                multiple=self.parallel.context * (self.parallel.tensor if self.parallel.sequence_parallel else 1),
                context=(mpu.get_context_parallel_rank(), self.parallel.context),
            )
            for indices in plan[mpu.get_data_parallel_rank()]
        ]

    def _plan(self, samples: Sequence[Sample]) -> Plan:
        """Which samples are in which micro-batch of which data-parallel rank."""
        lengths = [len(s.tokens) for s in samples]
        costs = [self.work(len(s.tokens), len(s.loss_mask)) for s in samples]
        return plan_micro_batches(lengths, costs, mpu.get_data_parallel_world_size(), self.algo.micro_batch_tokens)

    def _minibatches(self, batch: Batch) -> list[list[int]]:
        try:
            return split_minibatches([s.group for s in batch.samples], self.algo.minibatches)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _probe(self, samples: Sequence[Sample], before: Tensor) -> dict[str, float]:
        """How far the sequences' log-probs have moved from `before`, on a few of `samples`."""
        chosen = probe_indices(len(samples))
        offsets = response_offsets(samples)
        reference = torch.cat([before[offsets[i] : offsets[i + 1]] for i in chosen])
        probed = [samples[i] for i in chosen]
        return log_ratio_metrics(self._score(probed, self.temperature), reference, probed)

    def _check_samples(self, samples: Sequence[Sample]) -> None:
        if not samples:
            raise DataError("the batch has no samples")
        largest = max(max(s.tokens) for s in samples)
        if largest >= self.shape.vocab or min(min(s.tokens) for s in samples) < 0:
            raise DataError(f"a token id is {largest} or negative; the model's vocabulary is 0..{self.shape.vocab - 1}")

    # ---- state -------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """This rank's file with parameters, optimizer, random state and iteration; the caller marks completeness. Off the device
        as well as on it."""
        state = {
            "iteration": self.iteration,
            "parameters": dict(self.named_parameters_local()),
            "optimizer": self.optimizer.state_dict(),
            **checkpoint.random_state(self.device),
        }
        if self._offloaded is not None:
            state = self._offloaded.on_host(state)
        checkpoint.save_rank(Path(folder), dist.get_rank(), self._layout(), state)

    def load(self, folder: Path) -> None:
        """Go on bitwise from `save` in the same layout; TrainerError for another one."""
        self._check_on_device()
        state = checkpoint.load_rank(Path(folder), dist.get_rank(), self._layout())
        for name, parameter in self.named_parameters_local():
            parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
        checkpoint.set_random_state(state, self.device)

    def _layout(self) -> dict[str, Any]:
        p = self.parallel
        return {
            "world": dist.get_world_size(),
            "tensor": p.tensor,
            "pipeline": p.pipeline,
            "context": p.context,
            "expert": p.expert,
            "distributed_optimizer": p.distributed_optimizer,
            "dtype": str(self.dtype),
            "parameters": {n: tuple(t.shape) for n, t in self.named_parameters_local()},
        }

    def offload(self) -> int:
        """Free the device memory of what `parallel.offload` names; the bytes freed on this rank.

        On CPU there is nowhere else to go: only the gradient buffers are dropped.
        """
        self._check_on_device()
        wanted, on_cpu = self.parallel.offload, self.device.type == "cpu"
        parameters = [t for _, t in self.named_parameters_local()]
        keep = [] if on_cpu or not wanted.parameters else list(parameters)
        keep += [] if on_cpu or not wanted.optimizer else self.optimizer.tensors()
        stay = [] if wanted.parameters else parameters  # fp32 masters may be views of them
        buffers = [*self.ddp.buffers, *self.ddp.expert_parallel_buffers]
        drop = [b.grad_data for b in buffers] if wanted.gradients else []
        self.optimizer.zero_grad()
        self._offloaded = Offloaded(keep, drop, stay)
        return self._offloaded.freed_bytes

    def onload(self) -> None:
        """Undo `offload`; does nothing without one."""
        if self._offloaded is not None:
            self._offloaded.restore()
            self._offloaded = None

    def _check_on_device(self) -> None:
        if self._offloaded is not None:
            raise TrainerError("the trainer is offloaded; call onload first")


def speaks() -> bool:
    """Is this rank the one of its tensor- and context-parallel peers, all of which hold the same log-probs, that counts?"""
    return mpu.get_tensor_model_parallel_rank() == 0 and mpu.get_context_parallel_rank() == 0


def _check_algo(algo: AlgoConfig, dtype: str, temperature: float) -> None:
    if dtype not in DTYPES:
        raise unknown_name("model.dtype", dtype, DTYPES)
    if algo.loss not in LOSSES:
        raise unknown_name("algo.loss", algo.loss, LOSSES)
    for name, value in (("algo.tau", algo.tau), ("rollout.temperature", temperature)):
        if not value > 0:
            raise ConfigError(f"{name} is {value}; it must be > 0")
    if algo.micro_batch_tokens < 1:
        raise ConfigError(f"algo.micro_batch_tokens is {algo.micro_batch_tokens}; it must be at least 1")
