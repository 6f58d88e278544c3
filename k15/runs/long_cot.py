"""`k15 long_cot model.path=DIR data=jsonl data.path=train.jsonl`: long chains of thought for the warm-up before RL (report 2.2).

    prompts + suffix ─ engines ─▶ n answers each ─ rewards ─▶ right ones ─ traits ─▶ long_cot.jsonl

long_cot.jsonl is for k15 sft, with the prompts as they were. The traits are planning, evaluation, reflection and exploration, by
the rules of `k15.long2short.long_cot`. Resumable: see `k15.runs.answers`. Then, lightly:
k15 sft model.path=DIR 'data.paths=[runs/long_cot/long_cot.jsonl]' stages.second.epochs=0
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import hydra
from omegaconf import DictConfig

from k15.config.long_cot import LongCotConfig, check_long_cot
from k15.log.files import atomic_write
from k15.long2short.answers import Answered
from k15.long2short.long_cot import frequencies, select, traits
from k15.runs.answers import answer_all, check_prompts
from k15.runs.entry import enter
from k15.types import Prompt


@hydra.main(config_path="pkg://k15.conf", config_name="long_cot", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("long_cot", config, run)


def preflight(cfg: LongCotConfig, nodes: int) -> list[Prompt]:
    """Settings, data and rewards, before a server is started; the prompts. Raises ConfigError and DataError."""
    check_long_cot(cfg)
    return check_prompts(cfg, nodes)


def run(cfg: LongCotConfig) -> int:
    """Sample what is missing, judge it, select, write; the exit code."""
    return answer_all(cfg, preflight(cfg, nodes=1), lambda run_dir, groups: write(run_dir, groups, cfg))


def write(run_dir: Path, groups: Sequence[Answered], cfg: LongCotConfig) -> str:
    """long_cot.jsonl and summary.json; what is in them, in words."""
    chosen = [(g, a, t) for g in groups for a, t in select(g, cfg.min_traits, cfg.per_prompt)]
    rows = [{"prompt": g.prompt, "response": a.text, "tokens": a.length, "traits": sorted(t)} for g, a, t in chosen]
    atomic_write(run_dir / "long_cot.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
    right = [a for g in groups for a in g.answers if a.correct and a.whole]
    summary = {
        "prompts": len(groups), "answers": sum(len(g.answers) for g in groups), "right": len(right), "selected": len(rows),
        "length_mean": fmean(r["tokens"] for r in rows) if rows else None,
        "traits_of_right_answers": frequencies([traits(a.text) for a in right]),
        "traits_of_selected": frequencies([t for _, _, t in chosen]),
    }  # fmt: skip
    atomic_write(run_dir / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in summary["traits_of_selected"].items())
    return (
        f"{len(groups)} prompts, {summary['answers']} answers, {len(right)} right and whole\n"
        f"{run_dir / 'long_cot.jsonl'}: {len(rows)} selected ({shares})"
    )
