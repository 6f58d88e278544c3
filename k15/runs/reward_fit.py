"""The ranks of `k15 reward_model`: train a reward model on labelled triples with the Megatron trainer, export, score.

    train.jsonl ──▶ RewardTrainer.reward_step (classic) | Trainer.sft_step (cot) ──▶ export/ (Hugging Face layout)
    calibration.jsonl ──▶ logits ──▶ Calibration ──▶ ClassicScorer ──▶ scores of held_out.jsonl        (classic only)

One process a rank on this machine, in lockstep; every rank reads the same files and draws the same batches.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from k15.config.reward_model import RewardModelConfig
from k15.config.schema import AlgoConfig, WarmupConfig
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.data.triples import read_triples
from k15.errors import DataError, TrainerError
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.node.network import free_port
from k15.reward.classic import Calibration, fit_calibration, input_text, load_calibration, save_calibration
from k15.reward.judge import judge_prompt
from k15.runs.warmup import learning_rate, samples_of
from k15.train.device import init_distributed, patient_group, pick_device
from k15.train.reward_head import RewardTrainer, reward_config
from k15.train.trainer import Trainer
from k15.types import Triple
from k15.weights.hf import save_hf
from k15.weights.segments import load_manifest, read_segment, segment_name, write_segment

log = get_logger("reward_model")
STOP, TRAINED = "stop", "trained.json"  # files of a run folder: a signal came; all steps are done and exported
CHECKPOINTS = "checkpoints"


class ClassicScorer:
    """A trained Classic reward model that scores batches of triples on the trainer's ranks. `score` is collective."""

    def __init__(self, trainer: RewardTrainer, tokenizer: TextTokenizer, template: str, calibration: Calibration) -> None:
        self.trainer, self.tokenizer, self.template, self.calibration = trainer, tokenizer, template, calibration

    @classmethod
    def load(cls, folder: Path, cfg: RewardModelConfig, device: torch.device) -> "ClassicScorer":
        """From an export's folder, on ranks that are up (`init_distributed`), in the layout of `cfg.parallel`."""
        calibration, template = load_calibration(folder)
        trainer = make_trainer(cfg, json.loads((folder / "config.json").read_text()), device)
        assert isinstance(trainer, RewardTrainer), "cfg.kind is classic"
        trainer.load_hf(folder)
        return cls(trainer, load_tokenizer(folder), template, calibration)

    def tokens(self, triple: Triple) -> list[int]:
        return self.tokenizer.encode_prompt(input_text(triple, self.template))

    def logits(self, triples: Sequence[Triple]) -> list[float]:
        return self.trainer.score([self.tokens(t) for t in triples])

    def score(self, triples: Sequence[Triple]) -> list[float]:
        """The calibrated probability that each response is correct; labels are not looked at."""
        return [self.calibration.probability(z) for z in self.logits(triples)]


def make_trainer(cfg: RewardModelConfig, hf_config: dict, device: torch.device) -> Trainer:
    """The trainer of `cfg.kind` on this rank, without weights."""
    fit = cfg.fit
    algo = AlgoConfig(lr=fit.lr, weight_decay=fit.weight_decay, micro_batch_tokens=fit.micro_batch_tokens)
    settings = {"parallel": cfg.parallel, "algo": algo, "dtype": cfg.model.dtype, "device": device, "seed": cfg.seed}
    return RewardTrainer(reward_config(hf_config), **settings) if cfg.kind == "classic" else Trainer(hf_config, **settings)


def run_ranks(cfg: RewardModelConfig, model_dir: Path, run_dir: Path) -> bool:
    """Start `parallel.ranks_per_node` ranks and wait for them. Raises TrainerError with the end of what a rank said.

    Returns whether all steps are done and exported (TRAINED); False where the file STOP made the ranks save and end.
    """
    world = cfg.parallel.ranks_per_node
    try:
        mp.spawn(_rank, (world, free_port("127.0.0.1"), cfg, model_dir, run_dir), nprocs=world)
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        raise TrainerError(f"a rank of the reward model's training failed: {str(error).strip().splitlines()[-1]}") from error
    return (run_dir / TRAINED).is_file()


def _rank(rank: int, world: int, port: int, cfg: RewardModelConfig, model_dir: Path, run_dir: Path) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = pick_device(cfg.device if cfg.device != "auto" else cfg.cluster.device, rank)
    init_distributed(device, rank, world, f"127.0.0.1:{port}")
    tokenizer = load_tokenizer(model_dir, chat=cfg.model.chat and cfg.kind == "cot")
    trainer = make_trainer(cfg, json.loads((model_dir / "config.json").read_text()), device)
    start = _resumed(trainer, run_dir)
    if not start:
        _first_weights(cfg, trainer, model_dir)
    train = read_triples(run_dir / "train.jsonl")
    stopped = _train(cfg, _steps(cfg, trainer, tokenizer, train, start), trainer, run_dir, start)
    if not stopped:
        _export(trainer, model_dir, run_dir)
        if isinstance(trainer, RewardTrainer):
            _calibrate_and_score(trainer, tokenizer, cfg, run_dir, device)
        dist.barrier()
        if rank == 0:
            atomic_write(run_dir / TRAINED, json.dumps({"steps": cfg.fit.steps}).encode())
            shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)  # nothing goes on from them any more
    dist.barrier()
    dist.destroy_process_group()


def _first_weights(cfg: RewardModelConfig, trainer: Trainer, model_dir: Path) -> None:
    if cfg.model.path is None:
        trainer.init_random(cfg.seed)
    elif isinstance(trainer, RewardTrainer):
        trainer.load_base(model_dir, cfg.seed)
    else:
        trainer.load_hf(model_dir)


def _train(cfg: RewardModelConfig, steps: Iterator[dict], trainer: Trainer, run_dir: Path, start: int) -> bool:
    """All steps after `start`, with their metrics and checkpoints; True where the file STOP ended them early."""
    rank, path = dist.get_rank(), run_dir / "metrics.jsonl"
    if rank == 0:  # what was written after the checkpoint is written again
        rows = path.read_text().splitlines(keepends=True)[:start] if start else []
        atomic_write(path, "".join(rows).encode())
    with path.open("a") if rank == 0 else open(os.devnull, "w") as metrics:
        for row in steps:
            step, last = row["step"], row["step"] == cfg.fit.steps
            metrics.write(json.dumps(row) + "\n")
            if rank == 0 and (step % 50 == 0 or last):
                log.info("step %d/%d loss %.4f", step, cfg.fit.steps, row["loss"])
            stop = [rank == 0 and not last and (run_dir / STOP).exists()]
            dist.broadcast_object_list(stop, src=0)  # all ranks save at the same step
            if stop[0] or (step % cfg.fit.save_every == 0 and not last):
                metrics.flush()
                _save(trainer, run_dir, step)
            if stop[0]:
                return True
    return False


def _save(trainer: Trainer, run_dir: Path, step: int) -> None:
    """A checkpoint that is there whole or not at all; older ones go."""
    folder = run_dir / CHECKPOINTS / f"step-{step:07d}"
    made = folder.with_suffix(".part")
    made.mkdir(parents=True, exist_ok=True)
    trainer.save(made)
    dist.barrier()
    if dist.get_rank() == 0:
        made.rename(folder)
        for old in sorted((run_dir / CHECKPOINTS).glob("step-*")):
            if old != folder:
                shutil.rmtree(old)
    dist.barrier()


def _resumed(trainer: Trainer, run_dir: Path) -> int:
    """Load the newest checkpoint; the steps that it has, 0 where there is none."""
    whole = sorted(f for f in (run_dir / CHECKPOINTS).glob("step-*") if f.suffix != ".part")
    if not whole:
        return 0
    trainer.load(whole[-1])
    return int(whole[-1].name.removeprefix("step-"))


def _steps(
    cfg: RewardModelConfig, trainer: Trainer, tokenizer: TextTokenizer, train: Sequence[Triple], start: int
) -> Iterator[dict]:
    """Train from step `start` on; one row of metrics a step."""
    scorer = ClassicScorer(trainer, tokenizer, cfg.data.template, Calibration()) if isinstance(trainer, RewardTrainer) else None
    schedule = WarmupConfig(steps=cfg.fit.steps, lr=cfg.fit.lr, min_lr=cfg.fit.min_lr)
    for step, indices in enumerate(batches(len(train), cfg.fit.batch_size, cfg.fit.steps, cfg.seed)):
        if step < start:  # drawn, so that the next ones are those that would have come
            continue
        chosen, lr = [train[i] for i in indices], learning_rate(step, schedule)
        if scorer is not None:
            inputs = _within([scorer.tokens(t) for t in chosen], cfg)
            found = scorer.trainer.reward_step(inputs, [float(bool(t.correct)) for t in chosen], lr)
        else:
            samples = samples_of([(judge_prompt(t, cfg.data.template), t.judgement) for t in chosen], tokenizer)
            _within([s.tokens for s in samples], cfg)
            found = trainer.sft_step(samples, lr)
        yield {"step": step + 1, **found}


def _within(sequences: list, cfg: RewardModelConfig) -> list:
    """The sequences, if they fit the context. Raises DataError."""
    longest = max(map(len, sequences))
    if longest > cfg.model.max_context_tokens:
        raise DataError(
            f"a triple has {longest} tokens, more than model.max_context_tokens={cfg.model.max_context_tokens}; "
            "raise it or leave the triple out."
        )
    return sequences


def batches(n: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """`steps` lists of `size` indices below `n`: epoch after epoch, each shuffled anew."""
    rng, left = random.Random(f"reward model {seed}"), []
    for _ in range(steps):
        while len(left) < size:
            left += rng.sample(range(n), n)
        taken, left = left[:size], left[size:]
        yield taken


def _export(trainer: Trainer, model_dir: Path, run_dir: Path) -> None:
    """Write run_dir/export; rank 0 assembles the ranks' segments."""
    rank, folder, files_of_all = dist.get_rank(), run_dir / "segments", patient_group()
    folder.mkdir(exist_ok=True)
    write_segment(folder, 0, rank, trainer.hf_slices())
    dist.barrier(files_of_all)
    if rank == 0:
        files = [folder / segment_name(0, r) for r in range(dist.get_world_size())]
        slices = (piece for f in files for piece in read_segment(f, load_manifest(f)))
        save_hf(run_dir / "export", trainer.hf_config, model_dir, slices)
        shutil.rmtree(folder)
    dist.barrier(files_of_all)


def _calibrate_and_score(trainer: RewardTrainer, tokenizer: TextTokenizer, cfg: RewardModelConfig, run_dir: Path, device) -> None:
    """Calibrate on triples kept from training, then judge the held-out ones with what was exported."""
    kept = read_triples(run_dir / "calibration.jsonl")
    logits = ClassicScorer(trainer, tokenizer, cfg.data.template, Calibration()).logits(kept)
    calibration = fit_calibration(logits, [bool(t.correct) for t in kept], cfg.calibration)
    if dist.get_rank() == 0:
        save_calibration(run_dir / "export", calibration, cfg.data.template)
    dist.barrier()
    held_out = read_triples(run_dir / "held_out.jsonl")
    scorer = ClassicScorer.load(run_dir / "export", cfg, device)  # what is served, not what is at hand
    raw = scorer.logits(held_out)
    rows = [{"logit": z, "probability": calibration.probability(z)} for z in raw]
    if dist.get_rank() == 0:
        (run_dir / "scores.json").write_text(json.dumps(rows) + "\n")
