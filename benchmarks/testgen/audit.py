"""How good are generated tests? Right submissions must pass them, subtly wrong ones must not: the kill rate of a problem."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from k15.log.journal import Journal
from k15.reward.code import Fence, submission
from k15.sandbox.client import SandboxClient
from k15.testgen.outcome import ProblemResult
from k15.testgen.problems import Problem, Source, digest
from k15.testgen.settings import TestgenSettings
from k15.testgen.store import answer_of


@dataclass(frozen=True, slots=True)
class Audit:
    """`refused`: right submissions that the tests reject; `survivors`: wrong ones that pass; `killed`: verdict and how many tests
    were passed before, by name (the tests stay in the generator's order)."""

    id: str
    right: int
    refused: tuple[str, ...]
    wrong: int
    survivors: tuple[str, ...]
    killed: dict[str, tuple[str, int]]

    @property
    def kill_rate(self) -> float:
        return 1.0 - len(self.survivors) / self.wrong


def audit(client: SandboxClient, journal: Journal, problem: Problem, result: ProblemResult, settings: TestgenSettings) -> Audit:
    """Judges as the code reward does, what of this is not in the journal yet. The drawn submissions' verdicts are known."""
    answer = answer_of(problem, result, settings)
    others = [s for s in problem.submissions if s.name not in (*result.passed, *result.failed)]
    refused = [*result.failed, *(s.name for s in others if _verdict(client, journal, answer, s)[0] != "AC")]
    verdicts = {s.name: _verdict(client, journal, answer, s) for s in problem.wrong}
    survivors = tuple(name for name, found in verdicts.items() if found[0] == "AC")
    killed = {name: found for name, found in verdicts.items() if found[0] != "AC"}
    return Audit(problem.id, len(problem.submissions), tuple(refused), len(verdicts), survivors, killed)


@dataclass(frozen=True, slots=True)
class MutantAudit:
    """`rejected`: by the generated tests; `missed`: by those of the other seed only; `alike`: by neither, most likely since
    the change changes nothing."""

    id: str
    rejected: int
    missed: tuple[str, ...]
    alike: int


def audit_mutants(
    client: SandboxClient, journal: Journal, problem: Problem, answers: tuple[str, str], sources: Sequence[Source]
) -> MutantAudit:
    """`answers`: the prompt's answer by the generated tests and by those of another seed."""
    left = [s for s in sources if _verdict(client, journal, answers[0], s)[0] == "AC"]
    missed = tuple(s.name for s in left if _verdict(client, journal, answers[1], s)[0] != "AC")
    return MutantAudit(problem.id, len(sources) - len(left), missed, len(left) - len(missed))


def kill_rates(audits: Sequence[Audit], tests: Sequence[int] = (1, 2, 5, 10, 20, 50)) -> dict[int, float]:
    """Share of all wrong submissions that the first so many tests of each problem reject."""
    wrong = sum(a.wrong for a in audits)
    passed = [before for a in audits for _, before in a.killed.values()]
    return {n: round(sum(before < n for before in passed) / wrong, 4) for n in tests}


def _verdict(client: SandboxClient, journal: Journal, answer: str, source: Source) -> tuple[str, int]:
    """The verdict, and the tests passed before the first that failed."""
    sent = submission(answer, Fence(source.language, source.text))
    key = f"audit/first/{digest(dataclasses.asdict(sent))}"
    held = journal.get(key)
    if held is None:
        found = client.judge(sent, digest(key))
        held = [found.verdict, found.passed]
        journal.put(key, held)
    return held[0], held[1]


def table(audits: Sequence[Audit]) -> str:
    """A row a problem, and the sum."""
    lines = [f"{'problem':22s} {'right accepted':>14s} {'wrong rejected':>15s}  survivors"]
    for a in audits:
        accepted = f"{a.right - len(a.refused)}/{a.right}"
        rejected = f"{a.wrong - len(a.survivors)}/{a.wrong}"
        lines.append(f"{a.id:22s} {accepted:>14s} {rejected:>15s}  {', '.join(a.survivors) or '-'}")
    right, wrong = sum(a.right for a in audits), sum(a.wrong for a in audits)
    accepted, rejected = right - sum(len(a.refused) for a in audits), wrong - sum(len(a.survivors) for a in audits)
    lines.append(f"{'all':22s} {f'{accepted}/{right}':>14s} {f'{rejected}/{wrong}':>15s}")
    lines.append("rejected by the first n tests: " + ", ".join(f"{n}: {100 * k:.0f} %" for n, k in kill_rates(audits).items()))
    return "\n".join(lines)
