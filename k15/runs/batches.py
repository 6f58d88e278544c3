"""From scored groups to what the trainer takes, and to the numbers that an iteration is judged by. Pure functions."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from k15.config.schema import RunConfig
from k15.reward.baseline import baselines
from k15.rollout.metrics import PhaseMetrics
from k15.rollout.staleness import loss_mask
from k15.types import Batch, Group, Sample, Score


def build_batch(groups: Sequence[Group], scores: Sequence[Sequence[Score]], cfg: RunConfig, version: int) -> Batch:
    """One Sample a rollout; baselines by group (report 2.3.2); the mask leaves old segments out where the switch says so."""
    samples = []
    for number, (group, group_scores) in enumerate(zip(groups, scores, strict=True)):
        rewards = [s.total for s in group_scores]
        for rollout, score, baseline in zip(
            group.rollouts, group_scores, baselines(rewards, cfg.algo.baseline, cfg.algo.tau), strict=True
        ):
            samples.append(
                Sample(
                    tokens=rollout.prompt_tokens + rollout.response_tokens,
                    prompt_len=len(rollout.prompt_tokens),
                    loss_mask=loss_mask(rollout, newest_only=not cfg.algo.train_old_segments),
                    reward=score.total,
                    baseline=baseline,
                    group=number,
                    correct=score.correct,
                )
            )
    return Batch(tuple(samples), version)


def rollout_metrics(groups: Sequence[Group], scores: Sequence[Sequence[Score]], version: int) -> dict[str, float]:
    """Rewards, accuracy, lengths and staleness of the trained groups (names: docs/metrics.md)."""
    pairs = [(r, s) for g, ss in zip(groups, scores, strict=True) for r, s in zip(g.rollouts, ss, strict=True)]
    if not pairs:
        return {"groups_trained": 0}
    lengths = sorted(r.length for r, _ in pairs)
    right = [r.length for r, s in pairs if s.correct]
    wrong = [r.length for r, s in pairs if not s.correct]
    finishes = Counter(r.finish for r, _ in pairs)
    old = sum(len(s.tokens) for r, _ in pairs for s in r.segments if s.version != version)
    parts = {name: statistics.fmean(s.parts.get(name, 0.0) for _, s in pairs) for name in sorted(pairs[0][1].parts)}
    return {
        "groups_trained": len(groups),
        "reward_mean": statistics.fmean(s.total for _, s in pairs),
        **{f"reward_{name}": value for name, value in parts.items()},
        "accuracy": len(right) / len(pairs),
        "response_length_mean": statistics.fmean(lengths),
        "response_length_p50": float(lengths[len(lengths) // 2]),
        "response_length_p95": float(lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]),
        "response_length_max": float(lengths[-1]),
        **({"length_correct_mean": statistics.fmean(right)} if right else {}),
        **({"length_wrong_mean": statistics.fmean(wrong)} if wrong else {}),
        **{f"finish_{reason}": float(finishes.get(reason, 0)) for reason in ("stop", "length", "repetition")},
        "segments_mean": statistics.fmean(len(r.segments) for r, _ in pairs),
        "off_policy_token_fraction": old / max(1, sum(lengths)),
    }


def phase_metrics(phase: PhaseMetrics) -> dict[str, float]:
    """What the rollout phase itself cost: tokens, speed, tail, stops on repetition, engine failures."""
    return {
        "tokens_generated": phase.tokens, "tokens_per_s": phase.tokens_per_s, "rollout_tail_s": phase.tail_s,
        "finish_budget": float(phase.finishes.get("budget", 0)),
        "repetition_tokens_saved": float(phase.repetition_saved_tokens_upper_bound - phase.dropped_tokens),
        "repetition_tokens_dropped": float(phase.dropped_tokens),
        "rollout_retries": float(phase.retries), "engine_failures": float(phase.engine_failures),
        "rollout_tokens_kept": float(phase.kept_tokens),
        "rollout_engines": float(sum(n > 0 for n in phase.tokens_by_engine.values())),
    }  # fmt: skip


def train_metrics(trained: Mapping[str, float]) -> dict[str, float]:
    """The trainer's numbers under the names of docs/metrics.md."""
    names = {
        "log_ratio_max_abs": "log_ratio_max",
        "kl_ref_now": "kl",
        "samples": "train_samples",
        "tokens": "train_tokens",
    }
    return {
        names.get(key, f"train_{key.removeprefix('seconds_')}_s" if key.startswith("seconds_") else key): value
        for key, value in trained.items()
    }
