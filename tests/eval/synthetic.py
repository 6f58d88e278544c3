"""A run folder that a seeded generator fills through the real MetricsWriter and RolloutLog."""

import math
import random
from pathlib import Path

from k15.eval.intervals import wilson
from k15.log import MetricsWriter, RolloutLog, rollout_record
from k15.types import Prompt, Rollout, Score, Segment

CONFIG = """\
name: synthetic
seed: 0
model: {path: null, max_context_tokens: 192}
algo: {loss: pmd, tau: %s, baseline: mean, iterations: %d, prompts_per_iteration: 64, samples_per_prompt: 8, lr: 0.0001}
rollout: {temperature: 1.0, max_response_tokens: 96, budget_tokens: 64}
reward: {correct: 1.0, repetition_penalty: 0.1, length: {weight: 0.1, warmup_iterations: 10}}
"""
EVAL_N = 512
HOSTILE = "<script>alert('x')</script> & </td> \x00 \x1b[31m \u202e $\\frac{1}{0}$ \ud800 "


def greedy_correct(iteration: int, iterations: int) -> int:
    """Right answers of EVAL_N in the greedy evaluation: 126 at the start, 353 at the end."""
    return round(126 + 227 * (1 - math.exp(-6 * iteration / iterations)) / (1 - math.exp(-6)))


def make_run(folder: Path, iterations: int = 30, seed: int = 0, tau: float = 0.1, prompts: int = 12) -> Path:
    """Write config.yaml, metrics.jsonl (line 0: the evaluation before training) and rollouts/."""
    rng = random.Random(seed)
    log = RolloutLog(folder)
    (folder / "config.yaml").write_text(CONFIG % (tau, iterations))
    with MetricsWriter(folder, tensorboard=False) as writer:
        writer.write({"iteration": 0, **_evaluation(0, iterations), "time_eval_s": 2.1})
        for i in range(1, iterations + 1):
            row = _row(i, iterations, rng)
            if i % 5 == 0 or i == iterations:
                row |= _evaluation(i, iterations) | {"time_eval_s": 2.1 + rng.random() / 3}
            writer.write(row)
            log.write(i, _rollouts(i, iterations, rng, prompts))
    return folder


def _evaluation(i: int, iterations: int) -> dict[str, float]:
    right = greedy_correct(i, iterations)
    greedy, sampled = wilson(right, EVAL_N), wilson(0.8 * right, EVAL_N)
    return {
        "eval_n": EVAL_N,
        "eval_greedy_accuracy": greedy.estimate, "eval_greedy_low": greedy.low, "eval_greedy_high": greedy.high,
        "eval_greedy_length": 7 + 26.6 * i / iterations,
        "eval_sampled_accuracy": sampled.estimate, "eval_sampled_low": sampled.low, "eval_sampled_high": sampled.high,
        "eval_sampled_length": 20 + 17 * i / iterations,
    }  # fmt: skip


def _row(i: int, iterations: int, rng: random.Random) -> dict[str, float]:
    t = i / iterations
    accuracy = 0.28 + 0.32 * (1 - math.exp(-4 * t)) + rng.gauss(0, 0.015)
    tokens = round(64 * 8 * (22 + 16 * t))
    rollout_s = 2.2 + 1.3 * t + rng.random() / 4
    length_part = -0.012 * t + rng.gauss(0, 0.002)
    return {
        "iteration": i, "version": i,
        "time_rollout_s": rollout_s, "time_reward_s": 0.15, "time_train_s": 1.6 + 0.6 * t + rng.random() / 5,
        "time_weights_s": 0.12, "time_save_s": 0.4 if i % 5 == 0 else 0.0,
        "reward_mean": accuracy + length_part - 0.004, "reward_correct": accuracy, "reward_length": length_part,
        "reward_repetition": -0.004, "accuracy": accuracy,
        "response_length_mean": 22 + 16 * t + rng.gauss(0, 0.6), "response_length_p50": 20 + 18 * t,
        "response_length_p95": 60 + 20 * t, "response_length_max": 96,
        "length_correct_mean": 18 + 18 * t + rng.gauss(0, 0.6), "length_wrong_mean": 25 + 12 * t + rng.gauss(0, 0.8),
        "finish_stop": 490 - round(8 * t), "finish_length": 9 + round(6 * t), "finish_repetition": 4,
        "finish_budget": 9 + round(2 * t), "segments_mean": 1.01 + 0.05 * t,
        "off_policy_token_fraction": 0.01 + 0.03 * t,
        "tokens_generated": tokens, "tokens_per_s": tokens / rollout_s, "repetition_tokens_saved": 120,
        "groups_trained": 64, "groups_unfinished": 3, "prompts_seen": 64 * i,
        "sampled_new": 64 - 2 * i, "sampled_rate_0_20": i, "sampled_rate_80_100": i,
        "loss": 1.1 - 0.5 * t + rng.gauss(0, 0.05), "grad_norm": 1.4 - 0.5 * t + abs(rng.gauss(0, 0.1)),
        "log_ratio_mean": -0.2 * (1 - t) + rng.gauss(0, 0.05), "log_ratio_std": 1.4 - 0.6 * t + rng.gauss(0, 0.06),
        "log_ratio_max": 4.5 - t + rng.gauss(0, 0.3), "kl": 0.004 - 0.002 * t + rng.gauss(0, 2e-4),
        "entropy": 0.62 - 0.28 * t + rng.gauss(0, 0.01), "lr": 1e-4, "canary_mean_abs": 2e-6 * (1 + rng.random()),
    }  # fmt: skip


def _rollouts(i: int, iterations: int, rng: random.Random, prompts: int) -> list[dict[str, object]]:
    records = []
    for p in range(prompts):
        a, b, c = (rng.randint(10, 999) for _ in range(3))
        prompt = Prompt(f"sum3-{i:04d}-{p:02d}", f"What is {a} + {b} + {c}?", str(a + b + c), difficulty=3.0)
        ability = min(1.0, max(0.0, rng.gauss(0.28 + 0.35 * i / iterations, 0.3)))
        for k in range(8):
            right = rng.random() < ability
            said = a + b + c if right else a + b + c + rng.choice((-10, 10, 100, 1))
            text = f"{said}"
            if rng.random() < 0.3 + 0.5 * i / iterations:
                text = f"{a} + {b} = {a + b}\n{a + b} + {c} = {said}\n"
                text += "Wait, the tens: carry 1. Check again.\n" if rng.random() < 0.3 else ""
                text += f"answer: {said}"
            if not right and k == 0:
                text = HOSTILE + text
            n = max(1, len(text))
            cut = 64 if n > 64 else n
            spans = [(cut, i - 1, "budget"), (n - cut, i, "stop")] if n > cut else [(n, i, "stop")]
            segments = tuple(Segment(tuple(range(m)), tuple(-rng.random() for _ in range(m)), v, f) for m, v, f in spans)
            parts = {"correct": float(right), "length": round(rng.uniform(-0.05, 0.05), 3)}
            score = Score(right, parts, "" if right else "another number")
            records.append(rollout_record(prompt, Rollout(prompt.id, k, k, (1,), segments), score, text))
    unfinished = Rollout("p-open", 0, 1, (1,), (Segment((1,), (-1.0,), i, "budget"),))
    records.append(rollout_record(Prompt("p-open", "What is 1 + 1?", "2"), unfinished, None, "1 +"))
    return records
