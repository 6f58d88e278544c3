"""TRL's side: an environment of its own, made once, and runs of `trl_worker.py` in it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.step.k15_side import drawn_prompts, moved, run_logged
from benchmarks.step.record import Iteration, Run, Sample
from benchmarks.step.settings import TrlSetting, Work

TORCH = "torch==2.13.0+cpu"  # as k15's own
PACKAGES = ("trl==1.16.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0", "math-verify[antlr4_9_3]==0.9.0")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WORKER = Path(__file__).with_name("trl_worker.py")
ROOT = Path(__file__).resolve().parents[2]


def environment(cache: Path) -> Path:
    """The Python of TRL's virtual environment, made where it is missing or older than PACKAGES."""
    folder = cache / "trl-venv"
    stamp, wanted = folder / "packages.txt", "\n".join((sys.version.split()[0], TORCH, *PACKAGES))
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "trl-venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            print(f"making TRL's environment ({', '.join(PACKAGES)}); once, some minutes", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
            if subprocess.run([*pip, TORCH], stderr=subprocess.DEVNULL).returncode != 0:
                subprocess.run([*pip, TORCH, "--extra-index-url", CPU_INDEX], check=True)
            subprocess.run([*pip, *PACKAGES], check=True)
            stamp.write_text(wanted)
    return folder / "bin" / "python"


def run_trl(folder: Path, python: Path, model: Path, work: Work, setting: TrlSetting, timeout_s: float = 900) -> Run:
    """One block of TRL in `folder`."""
    folder.mkdir(parents=True)
    prompts = [p for iteration in drawn_prompts(work) for p in iteration]
    lines = [json.dumps({"prompt": p.text, "answer": p.answer}) + "\n" for p in prompts]
    (folder / "prompts.jsonl").write_text("".join(lines))
    settings = {
        "model": str(model), "prompts": str(folder / "prompts.jsonl"), "export": str(folder / "hf"),
        "prompts_per_iteration": work.prompts_per_iteration, "samples_per_prompt": work.samples_per_prompt,
        "max_response_tokens": work.max_response_tokens, "temperature": work.temperature, "lr": work.lr,
        "iterations": work.iterations, "seed": work.seed, "threads": setting.threads,
        "micro_batch_samples": setting.micro_batch_samples, "options": setting.options,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    # The package alone on the path, not the repository: its folder `kernels` would be taken for Hugging Face's package.
    (folder / "path").mkdir()
    (folder / "path" / "k15").symlink_to(ROOT / "k15")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))} | {
        "PYTHONPATH": str(folder / "path"), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(setting.threads),
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets"), "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": "",
        "OMP_WAIT_POLICY": "passive",  # threads that spin while another process has the core take minutes for a step
    }  # fmt: skip
    command = [str(WORKER), str(folder / "settings.json"), str(folder / "out")]
    launch: list[str] = []
    if setting.processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={setting.processes}"]
    run_logged([str(python), *launch, *command], env, folder.with_suffix(".log"), timeout_s)
    outputs = [json.loads((folder / f"out.{rank}.json").read_text()) for rank in range(setting.processes)]
    return merged(outputs, setting, moved(model, folder / "hf"))


def merged(outputs: Sequence[dict], setting: TrlSetting, weights_moved: float) -> Run:
    """One `Run` of all ranks' outputs: times of rank 0 (ranks meet in every step), samples of all."""
    iterations = []
    for steps in zip(*(o["steps"] for o in outputs), strict=True):
        first = steps[0]
        phases = {"rollout": first["generate_s"], "reward": first["reward_s"], "train": first["train_s"]}
        samples = tuple(Sample(**s) for step in steps for s in step["samples"])
        cpu = {"cpu_of_all_ranks": sum(s["cpu_s"] for s in steps)}
        iterations.append(Iteration(first["wall_s"], phases, samples, cpu))
    ids = tuple(tuple(i) for i in outputs[0]["prompt_ids"])
    return Run("trl", setting.name, tuple(iterations), ids, weights_moved, outputs[0]["versions"])
