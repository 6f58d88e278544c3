"""`k15 shortest model.path=DIR data=jsonl data.path=train.jsonl`: shortest rejection sampling and preference pairs (report 2.4).

    prompts ─ engines ─▶ n answers each ─ rewards ─▶ verdicts ─▶ shortest.jsonl  (for k15 sft: the shortest right answers)
                                                             └─▶ pairs.jsonl     (for k15 dpo)

Resumable: see `k15.runs.answers`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import hydra
from omegaconf import DictConfig

from k15.config.shortest import ShortestConfig, check_shortest
from k15.log.files import atomic_file, atomic_write
from k15.long2short.answers import Answered
from k15.long2short.pairs import preference_pairs
from k15.long2short.shortest import shortest_correct
from k15.runs.answers import answer_all, check_prompts, row
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


def write(run_dir: Path, groups: Iterable[Answered], ratio: float) -> str:
    """shortest.jsonl, pairs.jsonl and summary.json in one pass over `groups`; what is in them, in words."""
    prompts = answers = right = tokens = shortest = shortest_tokens = pairs = pairs_right = 0
    with atomic_file(run_dir / "shortest.jsonl") as sft, atomic_file(run_dir / "pairs.jsonl") as dpo:
        for g in groups:
            prompts += 1
            answers += len(g.answers)
            right += sum(a.correct for a in g.answers)
            tokens += sum(a.length for a in g.answers)
            if (best := shortest_correct(g)) is not None:
                sft.write(row(prompt=g.prompt, response=best.text, tokens=best.length))
                shortest += 1
                shortest_tokens += best.length
            for c, r in preference_pairs(g, ratio):
                dpo.write(
                    row(prompt=g.prompt, chosen=c.text, rejected=r.text, rejected_correct=r.correct, rejected_whole=r.whole)
                )
                pairs += 1
                pairs_right += r.correct
    summary = {
        "prompts": prompts, "answers": answers, "accuracy": right / answers, "length_mean": tokens / answers,
        "shortest": shortest, "pairs": pairs, "shortest_length_mean": shortest_tokens / shortest if shortest else None,
        "pairs_of_two_right_answers": pairs_right,
    }  # fmt: skip
    atomic_write(run_dir / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    short = f", {summary['shortest_length_mean']:.1f} tokens on average" if shortest else ""
    return (
        f"{prompts} prompts, {answers} answers of {summary['length_mean']:.1f} tokens, {100 * summary['accuracy']:.1f} % right\n"
        f"{run_dir / 'shortest.jsonl'}: {shortest} shortest right answers{short}\n{run_dir / 'pairs.jsonl'}: {pairs} pairs"
    )
