"""What became of a problem, and the rules that decide it. Report, section 2.3.5.

stage          left out because
submissions    fewer ground-truth submissions than are drawn
special_judge  the statement says that several outputs are right, or submissions disagree as if it did
generator      none was written, or fewer than `min_valid` of its cases are valid
agreement      fewer than `passing` submissions pass all valid cases
kept           -
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from k15.testgen.agree import Agreement, passing
from k15.testgen.settings import TestgenSettings

STAGES = ("submissions", "special_judge", "generator", "agreement", "kept")


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """`stage` is one of STAGES; `counts`: cases by what they are; `tests`: (standard input, expected output) of a kept problem;
    `passed`: names of the drawn submissions that pass all valid cases, `failed` of the others."""

    id: str
    stage: str
    reason: str
    counts: dict[str, int] = field(default_factory=dict)
    tests: tuple[tuple[str, str], ...] = ()
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    generator: str | None = None

    @property
    def kept(self) -> bool:
        return self.stage == "kept"


@dataclass(frozen=True, slots=True)
class Tried:
    """One generator's inputs (None: it made none, with the reason in `errors`) and the agreement on each (None: not run)."""

    inputs: Sequence[str | None]
    errors: Sequence[str]
    agreements: Sequence[Agreement | None]

    def counts(self) -> dict[str, int]:
        """Cases by kind: valid, disputed, broken; duplicate, failed (no input), unrun (too few inputs to be worth it)."""
        counts = dict.fromkeys(("valid", "disputed", "broken", "duplicate", "failed", "unrun"), 0)
        seen: set[str] = set()
        for text, found in zip(self.inputs, self.agreements, strict=True):
            if text is None:
                counts["failed"] += 1
            elif found is not None:
                counts[found.kind] += 1
            else:
                counts["duplicate" if text in seen else "unrun"] += 1
            seen |= {text} if text is not None else set()
        return counts


def decide(problem_id: str, tried: Tried, names: Sequence[str], generator: str, settings: TestgenSettings) -> ProblemResult:
    """The verdict on one generator's cases. `names`: of the drawn submissions, in the order of the agreements."""
    counts = tried.counts()
    run = [a for a in tried.agreements if a is not None]
    if run and counts["disputed"] >= settings.disputed * len(run):
        reason = f"right submissions disagree in the right format in {counts['disputed']} of {len(run)} cases"
        return ProblemResult(problem_id, "special_judge", reason, counts, generator=generator)
    if counts["valid"] < settings.min_valid:
        said = next((e for e in tried.errors if e), "")
        reason = f"{counts['valid']} valid cases, {settings.min_valid} needed ({_told(counts)})" + (
            f": {_last(said)}" if said else ""
        )
        return ProblemResult(problem_id, "generator", reason, counts, generator=generator)
    good = passing([a for a in run if a.kind == "valid"])
    passed = tuple(n for n, ok in zip(names, good, strict=True) if ok)
    failed = tuple(n for n, ok in zip(names, good, strict=True) if not ok)
    if len(passed) < settings.passing:
        reason = f"{len(passed)} of {len(names)} submissions pass all valid cases, {settings.passing} needed"
        return ProblemResult(problem_id, "agreement", reason, counts, (), passed, failed, generator)
    tests = tuple(
        (text, a.expected) for text, a in zip(tried.inputs, tried.agreements, strict=True)
        if text is not None and a is not None and a.kind == "valid" and a.expected is not None
    )  # fmt: skip
    return ProblemResult(problem_id, "kept", f"{len(tests)} tests", counts, tests, passed, failed, generator)


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n and kind != "valid") or "none else"


def _last(said: str) -> str:
    return said.splitlines()[-1][:160]
