"""`k15 long_cot model.path=DIR data=jsonl data.path=train.jsonl`: long chains of thought for the warm-up before RL (report 2.2).

    prompts + suffix ─ engines ─▶ n answers each ─ rewards ─▶ right ones ─ traits ─▶ long_cot.jsonl

long_cot.jsonl is for k15 sft, with the prompts as they were. The traits are planning, evaluation, reflection and exploration, by
the rules of `k15.long2short.long_cot`. Resumable: see `k15.runs.answers`. Then, lightly:
k15 sft model.path=DIR 'data.paths=[runs/long_cot/long_cot.jsonl]' stages.second.epochs=0
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import hydra
from omegaconf import DictConfig

from k15.config.long_cot import LongCotConfig, check_long_cot
from k15.log.files import atomic_file, atomic_write
from k15.long2short.answers import Answered
from k15.long2short.long_cot import frequencies, select, traits
from k15.runs.answers import answer_all, check_prompts, row
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


def write(run_dir: Path, groups: Iterable[Answered], cfg: LongCotConfig) -> str:
    """long_cot.jsonl and summary.json in one pass over `groups`; what is in them, in words."""
    prompts = answers = tokens = 0
    right: Counter[frozenset[str]] = Counter()  # right, whole answers by the traits that they show
    selected: Counter[frozenset[str]] = Counter()
    with atomic_file(run_dir / "long_cot.jsonl") as file:
        for g in groups:
            prompts += 1
            answers += len(g.answers)
            right.update(traits(a.text) for a in g.answers if a.correct and a.whole)
            for a, shown in select(g, cfg.min_traits, cfg.per_prompt):
                file.write(row(prompt=g.prompt, response=a.text, tokens=a.length, traits=sorted(shown)))
                tokens += a.length
                selected[shown] += 1
    summary = {
        "prompts": prompts, "answers": answers, "right": right.total(), "selected": selected.total(),
        "length_mean": tokens / selected.total() if selected else None,
        "traits_of_right_answers": frequencies(right), "traits_of_selected": frequencies(selected),
    }  # fmt: skip
    atomic_write(run_dir / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in summary["traits_of_selected"].items())
    return (
        f"{prompts} prompts, {answers} answers, {summary['right']} right and whole\n"
        f"{run_dir / 'long_cot.jsonl'}: {summary['selected']} selected ({shares if selected else _why_none(cfg, right)})"
    )


def _why_none(cfg: LongCotConfig, right: Counter[frozenset[str]]) -> str:
    """What to change where nothing was selected."""
    if not right:
        return "no answer is right and ended by itself; a stronger model, easier prompts or more samples may give some"
    most = max(map(len, right))
    return (
        f"min_traits={cfg.min_traits}, but no right answer shows more than {most}; with min_traits={most} the same words select "
        "some, and nothing is sampled again"
    )
