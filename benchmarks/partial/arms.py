"""The arms: loops of one job that differ in rollout.budget_tokens alone; what their folders say, and the gate."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from k15.log import read_metrics, read_rollouts

LONGEST = 96  # rollout.max_response_tokens: a budget as large waits for the longest response
SLOTS = 256  # as many as an iteration starts, so that nothing waits for a slot


@dataclass(frozen=True)
class Work:
    """Each arm starts `prompts` x `samples` responses an iteration: few, since a decoding step on a CPU costs the more the more
    sequences it has, and what a budget saves is the tail's steps of a few sequences (report 2.6.2 has GPUs, whose steps cost
    nearly the same). The first `filling` iterations, in which the replay buffers
    fill, are not counted; the learning rate hardly moves the weights, so that lengths stay what they are."""

    budgets: tuple[int, ...] = (LONGEST, 32, 16, 8)
    prompts: int = 4
    samples: int = 8
    counted: int = 40
    seed: int = 0

    @property
    def filling(self) -> int:
        return -(-LONGEST // min(self.budgets))

    def words(self, model: Path) -> list[str]:
        """Settings of `k15 rl`; the arms' budgets are the controller's."""
        return [
            f"model.path={model}", "model.dtype=float32", "model.chat=false", f"seed={self.seed}", "sampler=uniform",
            f"algo.iterations={self.filling + self.counted}", f"algo.prompts_per_iteration={self.prompts}",
            f"algo.samples_per_prompt={self.samples}", "algo.lr=1e-6", f"rollout.max_response_tokens={LONGEST}",
            f"rollout.budget_tokens={LONGEST}", f"rollout.max_concurrent={SLOTS}", "rollout.repetition.enabled=false",
            "reward.audit_fraction=0", "eval.size=1", "save.every=100000", "save.export_hf=false", "cluster.kind=local",
            "log.tensorboard=false",
        ]  # fmt: skip


@dataclass(frozen=True)
class Iteration:
    """One iteration. `tokens` were sampled in it; `off_policy` is the share of older versions' tokens in what it trained on, and
    `oldest` how many of the arm's iterations the oldest of them began before; `lengths` are the trained responses'."""

    rollout_s: float
    tail_s: float
    whole_s: float
    tokens: int
    off_policy: float
    oldest: int
    lengths: tuple[int, ...]
    longest_segment: int


def folder_of(run_dir: Path, budget: int) -> Path:
    return run_dir / f"budget-{budget}"


def read_arm(folder: Path, filling: int, arms: int) -> list[Iteration]:
    """The counted iterations of an arm. Its weight versions are `arms` apart: the arms take turns."""
    found = []
    for row in read_metrics(folder / "metrics.jsonl"):
        if row["iteration"] <= filling:
            continue
        records = read_rollouts(folder / "rollouts" / f"{row['iteration']:05d}.jsonl.zst")
        trained = [r for r in records if r["correct"] is not None]
        found.append(Iteration(
            float(row["time_rollout_s"]), float(row["rollout_tail_s"]),
            sum(float(row.get(f"time_{part}_s", 0.0)) for part in ("rollout", "reward", "train", "weights")),
            int(row["tokens_generated"]), float(row.get("off_policy_token_fraction", 0.0)),
            max(((row["version"] - r["segments"][0]["version"]) // arms for r in trained), default=0),
            tuple(int(r["length"]) for r in trained), max(s["n_tokens"] for r in records for s in r["segments"]),
        ))  # fmt: skip
    return found


def faults(arms: dict[int, Sequence[Iteration]]) -> list[str]:
    """The gate: is it the same work, and were the budgets kept?"""
    wrong, full = [], statistics.fmean(i.tokens for i in arms[LONGEST])
    for budget, iterations in arms.items():
        tokens = statistics.fmean(i.tokens for i in iterations)
        if abs(tokens / full - 1) > 0.1:
            wrong.append(f"budget {budget}: {tokens:.0f} tokens an iteration, {full:.0f} with the largest budget")
        if max(i.longest_segment for i in iterations) > budget:
            wrong.append(f"budget {budget}: a segment is longer")
        if budget == LONGEST and any(i.off_policy for i in iterations):
            wrong.append("tokens of older weights where nothing is continued")
    return wrong
