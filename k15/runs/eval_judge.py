"""The second half of `k15 eval`: from the answers on disk to verdicts and numbers. Needs no engine; for code, the sandbox."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from k15.config.eval import EvaluationConfig
from k15.errors import DataError
from k15.eval.codeforces import estimate_rating, read_population, vote
from k15.eval.endpoint import Answer
from k15.eval.responses import Responses
from k15.eval.results import Result, numbers, rating_number
from k15.eval.score import Scored, score
from k15.eval.tasks import file_name
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.reward.pool import WorkerPool
from k15.runs.eval_plan import Plan
from k15.runs.own_sandbox import own_sandbox
from k15.runs.sandbox import connect, service_words
from k15.sandbox.client import Access
from k15.types import Prompt

log = get_logger("eval")


def judge(cfg: EvaluationConfig, run_dir: Path, plans: Sequence[Plan]) -> list[Result]:
    """The numbers of all plans; writes verdicts/<task>.jsonl. Raises DataError, SandboxError, ConfigError."""
    results: list[Result] = []
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(cfg.workers))
        access = stack.enter_context(judged_code(cfg, run_dir, plans))
        for plan in plans:
            results += _judged(cfg, run_dir, plan, pool, access)
    return results


def _judged(cfg: EvaluationConfig, run_dir: Path, plan: Plan, pool: WorkerPool, access: Access | None) -> list[Result]:
    with Responses(run_dir / "responses", file_name(plan.spec), plan.asked) as store:
        prompts, answers = complete(plan, store)
        written = store.settings()
    scored = score(plan.task, prompts, answers, cfg.template, pool)
    _write_verdicts(run_dir, plan, scored)
    n = len(answers[0])
    shown = {
        "task": plan.spec, "problems": len(prompts), "samples": n, "mean_tokens": scored.mean_tokens,
        "truncated": scored.truncated, **{k: v for k, v in written.items() if k not in ("weights", "stop")},
    }  # fmt: skip
    results = numbers(shown, prompts, scored.estimates(cfg.pass_at if cfg.pass_at else [1, n]))
    for language, found in scored.by_language().items() if plan.task.score == "humaneval" else ():
        own = [p for p in prompts if p.meta["language"] == language]
        results += numbers({**shown, "task": f"{plan.spec} {language}", "problems": len(own)}, own, found)
    if plan.task.name == "codeforces":
        assert access is not None, "programs are judged in the sandbox"
        results += _contest(cfg, scored, access, shown)
    return results


def _contest(cfg: EvaluationConfig, scored: Scored, access: Access, shown: Mapping[str, object]) -> list[Result]:
    """The vote, and the rating that its results speak for."""
    found, _ = vote(scored, access)
    population = read_population(cfg.ratings) if cfg.ratings is not None else None
    ratings = [float(p.meta["rating"]) for p in scored.prompts]  # type: ignore[arg-type]
    rated = estimate_rating(ratings, [v == 1.0 for v in found.values], population)
    return [*numbers(shown, scored.prompts, [found]), rating_number(shown, rated)]


def complete(plan: Plan, store: Responses) -> tuple[list[Prompt], list[list[Answer]]]:
    """The problems that have all the answers that were asked for. Raises DataError where there is none."""
    n = plan.samples
    prompts = [p for p in plan.prompts if all((p.id, j) in store.found for j in range(n))]
    if not prompts:
        raise DataError(f"{store.path} has no problem with all its answers; sample them: run it without score_only.")
    if len(prompts) < len(plan.prompts):
        log.warning("%s: %d of %d problems have answers; the others are left out", plan.spec, len(prompts), len(plan.prompts))
    return prompts, [[store.found[p.id, j] for j in range(n)] for p in prompts]


def _write_verdicts(run_dir: Path, plan: Plan, scored: Scored) -> None:
    rows = [
        {"id": p.id, "index": j, "correct": v.correct, "reason": v.reason, "extracted": v.extracted,
         "class": scored.classes[i][j] if scored.classes is not None else None, "tokens": a.tokens, "finish": a.finish}
        for i, (p, answers, verdicts) in enumerate(zip(scored.prompts, scored.answers, scored.verdicts, strict=True))
        for j, (a, v) in enumerate(zip(answers, verdicts, strict=True))
    ]  # fmt: skip
    (run_dir / "verdicts").mkdir(exist_ok=True)
    atomic_write(run_dir / "verdicts" / f"{file_name(plan.spec)}.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())


@contextmanager
def judged_code(cfg: EvaluationConfig, run_dir: Path, plans: Sequence[Plan]) -> Iterator[Access | None]:
    """The sandbox, connected, where a plan has programs. Raises SandboxError, ConfigError where it or a language is not there."""
    code = [p for plan in plans for p in plan.prompts if p.domain == "code"]
    if not code:
        yield None
        return
    with _sandbox(cfg, run_dir) as access:
        connect(access, code)
        yield access


@contextmanager
def _sandbox(cfg: EvaluationConfig, run_dir: Path) -> Iterator[Access]:
    """The user's service, or one that ends with the block."""
    patience = {"patience_s": cfg.sandbox.patience_s}
    if cfg.sandbox.url is not None:
        yield Access.of(cfg.sandbox.url, cfg.sandbox.token_file, **patience)
        return
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    box = cfg.sandbox
    with own_sandbox(box.workers, run_dir / "logs" / "sandbox.log", service_words(box), box.restarts, **patience) as access:
        yield access
