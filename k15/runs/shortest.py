"""`k15 shortest model.path=DIR data=jsonl data.path=train.jsonl`: shortest rejection sampling and preference pairs (report 2.4).

    prompts ─ engines ─▶ n answers each ─ rewards ─▶ verdicts ─▶ shortest.jsonl  (for k15 sft: the shortest right answers)
                                                             └─▶ pairs.jsonl     (for k15 dpo)

Resumable: see `k15.runs.answers`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import hydra
from omegaconf import DictConfig

from k15.config.shortest import ShortestConfig, check_shortest
from k15.log.files import atomic_write
from k15.long2short.answers import Answered
from k15.long2short.pairs import preference_pairs
from k15.long2short.shortest import shortest_correct
from k15.runs.answers import answer_all, check_prompts
from k15.runs.entry import enter
from k15.types import Prompt


@hydra.main(config_path="pkg://k15.conf", config_name="shortest", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("shortest", config, run)


def preflight(cfg: ShortestConfig, nodes: int) -> list[Prompt]:
    """Settings, data and rewards, before a server is started; the prompts. Raises ConfigError and DataError."""
    check_shortest(cfg)
    return check_prompts(cfg, nodes)


def run(cfg: ShortestConfig) -> int:
    """Sample what is missing, judge it, write both files; the exit code."""
    return answer_all(cfg, preflight(cfg, nodes=1), lambda run_dir, groups: write(run_dir, groups, cfg.ratio))


def write(run_dir: Path, groups: Sequence[Answered], ratio: float) -> str:
    """shortest.jsonl, pairs.jsonl and summary.json; what is in them, in words."""
    best = [(g, a) for g in groups if (a := shortest_correct(g)) is not None]
    pairs = [(g, c, r) for g in groups for c, r in preference_pairs(g, ratio)]
    sft = [{"prompt": g.prompt, "response": a.text, "tokens": a.length} for g, a in best]
    dpo = [
        {"prompt": g.prompt, "chosen": c.text, "rejected": r.text, "rejected_correct": r.correct, "rejected_whole": r.whole}
        for g, c, r in pairs
    ]
    for name, rows in (("shortest.jsonl", sft), ("pairs.jsonl", dpo)):
        atomic_write(run_dir / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    answers = [a for g in groups for a in g.answers]
    summary = {
        "prompts": len(groups), "answers": len(answers), "accuracy": fmean(a.correct for a in answers),
        "length_mean": fmean(a.length for a in answers), "shortest": len(best), "pairs": len(pairs),
        "shortest_length_mean": fmean(a.length for _, a in best) if best else None,
        "pairs_of_two_right_answers": sum(r.correct for _, _, r in pairs),
    }  # fmt: skip
    atomic_write(run_dir / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    short = f", {summary['shortest_length_mean']:.1f} tokens on average" if best else ""
    return (
        f"{len(groups)} prompts, {len(answers)} answers of {summary['length_mean']:.1f} tokens, "
        f"{100 * summary['accuracy']:.1f} % right\n"
        f"{run_dir / 'shortest.jsonl'}: {len(best)} shortest right answers{short}\n{run_dir / 'pairs.jsonl'}: {len(pairs)} pairs"
    )
