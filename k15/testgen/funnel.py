"""How many problems are left after each stage, beside the report's 1,000 -> 614 -> 463 -> 323 (section 2.3.5)."""

from collections.abc import Mapping, Sequence

from k15.testgen.outcome import STAGES, ProblemResult

REPORT = {"submissions": 1000, "special_judge": 614, "generator": 463, "agreement": 323}
_WORDS = {
    "submissions": "with enough ground-truth submissions",
    "special_judge": "without special judge",
    "generator": "generators with enough valid cases",
    "agreement": "kept: enough submissions pass all of them",
}
_EXAMPLES = 3


def funnel(results: Sequence[ProblemResult]) -> list[dict[str, object]]:
    """One row a stage: how many are left after it, their share of all, the report's share, and examples of what it dropped."""
    left, rows = len(results), []
    for stage in STAGES[:-1]:
        dropped = [r for r in results if r.stage == stage]
        left -= len(dropped)
        rows.append({
            "stage": stage, "left": left, "dropped": len(dropped), "share": left / len(results) if results else 0.0,
            "report_left": REPORT[stage], "report_share": REPORT[stage] / 1000,
            "examples": [{"id": r.id, "reason": r.reason} for r in dropped[:_EXAMPLES]],
        })  # fmt: skip
    return rows


def table(results: Sequence[ProblemResult]) -> str:
    """The funnel as text."""
    lines = [f"{'problems':44s} {len(results):6d}   report 1000"]
    for row in funnel(results):
        lines.append(f"{_WORDS[str(row['stage'])]:44s} {row['left']:6d} {100 * row['share']:5.1f} %   {row['report_left']}")
        lines += [f"    dropped {example['id']}: {example['reason']}" for example in row["examples"]]
    counts = case_counts(results)
    total = sum(counts.values())
    if total:
        lines.append("cases: " + ", ".join(f"{n} {kind} ({100 * n / total:.1f} %)" for kind, n in counts.items() if n))
    return "\n".join(lines)


def case_counts(results: Sequence[ProblemResult]) -> Mapping[str, int]:
    """Cases of all problems by kind."""
    counts: dict[str, int] = {}
    for result in results:
        for kind, n in result.counts.items():
            counts[kind] = counts.get(kind, 0) + n
    return counts
