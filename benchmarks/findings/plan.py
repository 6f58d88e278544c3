"""Which runs a finding needs: an arm is an experiment of conf/experiment/finding/, run once a seed from a shared base model.

    base models   `model-SEED`, `model_large-SEED`   the tiny model after its warm-up, made once a seed
    arms          `ARM-SEED`                         `k15 rl experiment=finding/ARM seed=SEED` from it

With the same seed all arms start from the same weights, draw from the same problems and are judged on the same held-out ones.
"""

from collections.abc import Sequence

from benchmarks.findings.arms import Job

FINDINGS: dict[str, tuple[str, ...]] = {
    "accuracy_and_length": ("base",),
    "accuracy_by_length": ("base",),
    "harder_longer": ("base",),
    "negative_gradients": ("rest", "base"),
    "negative_gradients_high_lr": ("rest_lr_high", "lr_high"),
    "curriculum": ("base", "curriculum"),
    "small_long_against_large": ("base", "large"),
    "per_token_square": ("base", "per_token"),
    "old_segments": ("old_in", "old_out"),
    "optimizer_reset": ("base", "keep_optimizer"),
    "baseline": ("base", "leave_one_out", "log_partition", "no_baseline"),
    "tau": ("tau_low", "base", "tau_high"),
}
"""The arms of each finding; the report's findings come before the ablations."""

HELD_OUT_ONLY = ("algo.iterations=1", "algo.prompts_per_iteration=2", "algo.samples_per_prompt=2", "algo.minibatches=1",
                 "algo.lr=1e-12", "eval.size=16", "log.rollouts=false")  # fmt: skip
"""What makes `k15 rl` end right after the warm-up, with weights that no iteration has moved."""

SMALL = ("algo.iterations=4", "algo.prompts_per_iteration=8", "algo.samples_per_prompt=4", "eval.every=2", "eval.size=32")
SMALL_WARM_UP = ("warmup.steps=40",)


def base_model(arm: str) -> str:
    return "model_large" if arm == "large" else "model"


def jobs(names: Sequence[str], seeds: Sequence[int], small: bool = False) -> list[Job]:
    """The runs of these findings, each once; all seeds of an arm before the next arm. `small`: shows that all works."""
    arms = list(dict.fromkeys(arm for name in names for arm in FINDINGS[name]))
    found: list[Job] = []
    for arm in arms:
        model = base_model(arm)
        if all(job.name != f"{model}-{seeds[0]}" for job in found):
            found += [_model_job(model, seed, small) for seed in seeds]
        found += [_arm_job(arm, seed, small) for seed in seeds]
    return found


def _model_job(model: str, seed: int, small: bool) -> Job:
    experiment = "large" if model == "model_large" else "base"
    words = HELD_OUT_ONLY + (SMALL_WARM_UP if small else ())
    return Job(f"{model}-{seed}", _rl(experiment, f"{model}-{seed}", seed, words))


def _arm_job(arm: str, seed: int, small: bool) -> Job:
    model = f"{base_model(arm)}-{seed}"
    words = (f"model.path={{runs}}/{model}/hf", *(SMALL if small else ()))
    return Job(f"{arm}-{seed}", _rl(arm, f"{arm}-{seed}", seed, words), needs=(model,))


def _rl(experiment: str, name: str, seed: int, words: Sequence[str]) -> tuple[str, ...]:
    return ("rl", f"experiment=finding/{experiment}", "cluster=local", f"seed={seed}", f"run_dir={{runs}}/{name}", *words)
