"""`k15 eval tasks=math500,aime24 model.path=FOLDER`: benchmarks on a checkpoint or an endpoint (report 3.1).

    tasks ─▶ problems ─▶ vLLM servers, or a URL ─▶ responses/<task>.jsonl ─▶ verdicts/<task>.jsonl ─▶ results.{json,md}

Answers are kept as they come: a run that was killed samples only what is missing, and score_only=true judges them again.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import hydra
from omegaconf import DictConfig

from k15.config.compose import from_yaml, to_yaml
from k15.config.eval import EvaluationConfig, check_eval
from k15.errors import EngineError, SandboxError
from k15.eval import lm_harness
from k15.eval.codeforces import read_population
from k15.eval.responses import Responses
from k15.eval.results import Result, read_results, table, write_results
from k15.eval.sources import Source
from k15.eval.tasks import checked, file_name, split_name
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.node.rendezvous import JobIdentity
from k15.reward.answer import check_template
from k15.reward.judge import endpoint_key
from k15.runs.entry import enter
from k15.runs.eval_engine import Subject, answering, sample
from k15.runs.eval_judge import judge, judged_code
from k15.runs.eval_plan import Plan, as_sampled, check_lm_eval, lm_settings, model_name, others, plans, stamp
from k15.runs.eval_watch import check_continued, check_watched, watch
from k15.runs.hold import held
from k15.runs.job import run_folder
from k15.runs.signalled import end_when_signalled
from k15.sandbox.client import Access

log = get_logger("eval")


@hydra.main(config_path="pkg://k15.conf", config_name="eval", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("eval", config, run)


def preflight(cfg: EvaluationConfig, nodes: int) -> list[Plan]:
    """All that is known before an engine starts: settings, data, tokenizer, lengths, lm-eval. Raises ConfigError, DataError."""
    cfg = as_sampled(cfg)
    checked(cfg.tasks)
    check_eval(cfg, nodes)
    check_template(cfg.template)
    if cfg.ratings is not None:
        read_population(cfg.ratings)
    if cfg.engine.url is not None:
        endpoint_key(cfg.engine.key_env, "engine.key_env")
    if cfg.sandbox.url is not None:
        Access.of(cfg.sandbox.url, cfg.sandbox.token_file)
    check_lm_eval(cfg)
    if cfg.watch is not None:
        check_watched(Path(cfg.watch))
        if cfg.run_dir is not None:
            check_continued(cfg, Path(cfg.run_dir))
    found = plans(cfg)
    if others(cfg) and not cfg.score_only:
        lm_harness.python(cfg.lm_eval)
    if cfg.watch is None and not cfg.score_only:
        subject = Subject.of(cfg)
        for plan in found:
            plan.sampling(cfg, subject)
    return found


def run(cfg: EvaluationConfig) -> int:
    """Evaluate, or watch; the exit code (85: signalled, the rest is done by another run). Raises ConfigError also where another
    run has the folder."""
    identity = JobIdentity.from_environment()
    run_dir = run_folder(cfg.name, cfg.run_dir, identity)
    if identity.restart > 0 and (run_dir / "config.yaml").is_file() and not cfg.score_only:  # which is not written there
        cfg = from_yaml((run_dir / "config.yaml").read_text(), EvaluationConfig)
    cfg.run_dir = str(run_dir)
    found = preflight(cfg, identity.node_count)
    if cfg.dry_run:
        print(to_yaml(cfg))
        for plan in found:
            print(f"# {plan.spec}: {len(plan.prompts)} problems x {plan.samples} answers")
        print("# The settings fit together; nothing was started.")
        return 0
    end_when_signalled(run_dir)  # every answer that came is on disk
    try:
        with held(run_dir, identity):
            log.info("answers go to %s; stopped, the same words with run_dir=%s sample what is missing", run_dir, run_dir)
            if cfg.watch is not None:
                return watch(cfg, run_dir, evaluate)
            evaluate(cfg, run_dir, found)
    except (EngineError, SandboxError, KeyboardInterrupt):
        log.warning("what came so far is kept: the same words with run_dir=%s go on from there", run_dir)
        raise
    return 0


def evaluate(cfg: EvaluationConfig, run_dir: Path, found: Sequence[Plan]) -> list[Result]:
    """Sample what is missing, judge everything, write and print the results. Raises K15Errors."""
    cfg = as_sampled(cfg)
    facts: dict[str, object] = {"model": model_name(cfg), "run": run_dir.name, "final answers marked by": cfg.template}
    if not cfg.score_only:
        subject = Subject.of(cfg)
        facts["stamp"] = stamp(cfg, subject, found)
        if (run_dir / "results.json").is_file() and (done := read_results(run_dir)).get("stamp") == facts["stamp"]:
            print(f"{table(done['results'])}\n{run_dir} is finished: nothing to do")
            return done["results"]
        run_dir.mkdir(parents=True, exist_ok=True)
        _sample(cfg, run_dir, found, subject)
    results = judge(cfg, run_dir, found)
    for spec in others(cfg):
        results += lm_harness.numbers(_lm_folder(run_dir, spec))
    print(write_results(run_dir, results, facts))
    print(f"written: {run_dir / 'results.md'} and {run_dir / 'results.json'}")
    return results


def _sample(cfg: EvaluationConfig, run_dir: Path, found: Sequence[Plan], subject: Subject) -> None:
    """All answers that are missing, and lm-eval's tasks, with one start of the engines; none where nothing is missing."""
    with ExitStack() as stack:
        missing = []
        for plan in found:
            store = stack.enter_context(Responses(run_dir / "responses", file_name(plan.spec), plan.asked))
            store.check(plan.settings(cfg, subject))
            if any((i, n) not in store.found for i in plan.asked for n in range(plan.samples)):
                missing.append((plan.spec, plan.asked, plan.samples, plan.sampling(cfg, subject), plan.stops(subject), store))
        atomic_write(run_dir / "config.yaml", to_yaml(cfg).encode())  # after the check: these are the answers' settings
        lm = lm_settings(cfg, subject)
        open_ = [s for s in others(cfg) if not lm_harness.finished(_lm_folder(run_dir, s), lm)]
        if not missing and not open_:
            return
        with judged_code(cfg, run_dir, found):  # what cannot be judged is said before it is sampled
            pass
        urls, key = stack.enter_context(answering(cfg, subject, run_dir / "logs"))
        sample(cfg, subject, urls, key, missing)
        for spec in open_:
            log.info("%s: lm-eval runs", spec)
            target, folder = subject.target(cfg, urls[0], key), _lm_folder(run_dir, spec)
            data = Source(cfg.data_dir).folder
            lm_harness.run(cfg.lm_eval, split_name(spec)[1], target, folder, lm, data, cfg.engine.concurrency)


def _lm_folder(run_dir: Path, spec: str) -> Path:
    return run_dir / file_name(spec)
