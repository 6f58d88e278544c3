"""The end of a run: export, report, and the result in one printed block."""

from pathlib import Path

from k15.config.schema import RunConfig
from k15.eval.report import build_report
from k15.log import get_logger, read_metrics
from k15.runs.loop import Loop

log = get_logger("summary")


async def finish(cfg: RunConfig, run_dir: Path, loop: Loop) -> None:
    """Write the Hugging Face export and the report, print before and after."""
    if cfg.save.export_hf:
        await loop.fleet.export_hf(run_dir / "hf")
    page = build_report(run_dir)
    print(result_text(run_dir), flush=True)
    print(f"report: {page}", flush=True)


def result_text(run_dir: Path) -> str:
    """Held-out accuracy before and after, greedy and sampled, with 95 % intervals and lengths."""
    rows = [r for r in read_metrics(run_dir / "metrics.jsonl") if "eval_greedy_accuracy" in r]
    first, last = rows[0], rows[-1]
    lines = [f"held-out accuracy on {last['eval_n']:.0f} problems, 95 % interval; mean response length in tokens"]
    for kind in ("greedy", "sampled"):
        texts = [
            f"{100 * r[f'eval_{kind}_accuracy']:.1f} % [{100 * r[f'eval_{kind}_low']:.1f}, {100 * r[f'eval_{kind}_high']:.1f}] "
            f"length {r[f'eval_{kind}_length']:.1f}"
            for r in (first, last)
        ]
        gain = 100 * (last[f"eval_{kind}_accuracy"] - first[f"eval_{kind}_accuracy"])
        lines.append(f"  {kind:<8} before RL {texts[0]}   after {texts[1]}   gain {gain:+.1f} points")
    return "\n".join(lines)
