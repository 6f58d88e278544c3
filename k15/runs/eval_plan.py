"""What `k15 eval` is to ask: the problems of each task and the text around them, from the settings."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from k15.config.compose import from_yaml, to_yaml
from k15.config.eval import EvaluationConfig
from k15.errors import ConfigError
from k15.eval import lm_harness
from k15.eval.endpoint import Sampling
from k15.eval.sources import Source
from k15.eval.tasks import LM_EVAL, Task, ask, load, split_name, template_of
from k15.log import get_logger
from k15.runs.eval_engine import Subject
from k15.runs.job import differing
from k15.types import Prompt

OF_SCORING = (
    "tasks",
    "data_dir",
    "template",
    "pass_at",
    "ratings",
    "workers",
    "sandbox",
    "cluster",
    "name",
    "run_dir",
    "dry_run",
)
"""Settings that score_only heeds; all others are the sampling's."""
log = get_logger("eval")


@dataclass(frozen=True)
class Plan:
    """One task of our own, ready to be asked: its spec, problems, prompt template, and answers a problem."""

    spec: str
    task: Task
    prompts: tuple[Prompt, ...]
    template: str
    samples: int
    whole: tuple[Prompt, ...]
    """All problems, also those that `limit` leaves out: room for answers does not depend on it."""

    @property
    def asked(self) -> dict[str, str]:
        """What each problem is asked as, by its id."""
        return {p.id: ask(p, self.template) for p in self.prompts}

    def sampling(self, cfg: EvaluationConfig, subject: Subject) -> Sampling:
        """How its answers are sampled. Raises ConfigError."""
        return subject.sampling(cfg, self.task, {p.id: ask(p, self.template) for p in self.whole}, self.samples)

    def stops(self, subject: Subject) -> dict[str, tuple[str, ...]]:
        """Where a problem's answer ends, by its id: sampling ends there too. A chat model may have such a text in its fence."""
        return {p.id: tuple(p.meta["stop"]) for p in self.prompts} if self.task.own_stops and not subject.chat else {}  # type: ignore

    def settings(self, cfg: EvaluationConfig, subject: Subject) -> dict[str, object]:
        """What its answers stand on; written down beside them and printed with every number. Raises ConfigError."""
        sampling = self.sampling(cfg, subject)
        return {
            "model": model_name(cfg), "weights": subject.fingerprint, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "max_tokens": sampling.max_tokens, "seed": cfg.seed,
            "stop": "by problem" if self.stops(subject) else list(sampling.stop),
            "prompt": cfg.prompt if cfg.prompt is not None else self.task.prompt, "template": self.template, "chat": subject.chat,
        }  # fmt: skip


def plans(cfg: EvaluationConfig) -> list[Plan]:
    """Our own tasks, their data read. Raises ConfigError, DataError."""
    found = []
    for spec in cfg.tasks:
        if split_name(spec)[0] == LM_EVAL:
            continue
        task, prompts = load(spec, Source(cfg.data_dir, hub=cfg.hub))
        samples = _samples(cfg, task)
        if bad := [k for k in cfg.pass_at if k > samples]:
            raise ConfigError(
                f"pass_at has {bad[0]}, but {spec} has {samples} answers a problem; give sampling.samples={bad[0]}."
            )
        found.append(Plan(spec, task, tuple(prompts[: cfg.limit]), template_of(task, cfg.prompt), samples, tuple(prompts)))
    return found


def others(cfg: EvaluationConfig) -> Sequence[str]:
    """The tasks that lm-eval runs."""
    return [s for s in cfg.tasks if split_name(s)[0] == LM_EVAL]


def check_lm_eval(cfg: EvaluationConfig) -> None:
    """Settings that lm-eval's tasks do not heed: said in a warning. Raises ConfigError where no other task heeds them either."""
    s, theirs = cfg.sampling, others(cfg)
    given = {"sampling.temperature": s.temperature is not None, "sampling.top_p": s.top_p != 1, "prompt": cfg.prompt is not None,
             "sampling.samples": s.samples is not None, "pass_at": bool(cfg.pass_at)}  # fmt: skip
    names = ", ".join(name for name, there in given.items() if there)
    if not names or not theirs or cfg.score_only:
        return
    said = f"{names}: lm-eval asks and samples as its task says, so this does nothing for {', '.join(theirs)}"
    if len(theirs) == len(cfg.tasks):
        raise ConfigError(f"{said}. Leave it out, or give a task file of your own: lm_eval.include_path=<folder>.")
    log.warning("%s", said)


def _samples(cfg: EvaluationConfig, task: Task) -> int:
    if cfg.sampling.samples is not None:
        return cfg.sampling.samples
    return 1 if cfg.sampling.temperature == 0 else task.samples


def model_name(cfg: EvaluationConfig) -> str:
    """As it is printed. An export of a watched run is named by the run and its iteration: the held copy goes."""
    if cfg.watch is not None:
        return f"{cfg.watch} at {Path(str(cfg.run_dir)).name}"
    return str(cfg.model.path) if cfg.engine.url is None else f"{cfg.engine.model} at {cfg.engine.url}"


def lm_settings(cfg: EvaluationConfig, subject: Subject) -> dict[str, object]:
    """What a task of lm-eval stands on, as `Plan.settings`."""
    most = cfg.sampling.max_tokens
    return {
        "model": model_name(cfg), "weights": subject.fingerprint, "seed": cfg.seed, "limit": cfg.limit, "chat": subject.chat,
        "num_fewshot": cfg.lm_eval.num_fewshot, "max_tokens": most if most is not None else lm_harness.MAX_TOKENS,
        "tokenizer": cfg.model.path,
    }  # fmt: skip


def as_sampled(cfg: EvaluationConfig) -> EvaluationConfig:
    """score_only: what was asked, of whom and how, is what the run that sampled wrote down. Raises ConfigError, also where the
    words say something else of that."""
    if not cfg.score_only:
        return cfg
    path = Path(cfg.run_dir) / "config.yaml" if cfg.run_dir is not None else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"score_only=true needs run_dir=<a run of k15 eval>; {path if path is not None else 'run_dir'} is not there."
        )
    before = from_yaml(path.read_text(), EvaluationConfig)
    ours = {name: getattr(cfg, name) for name in OF_SCORING}
    ours["tasks"] = cfg.tasks if cfg.tasks else before.tasks
    ours["data_dir"] = cfg.data_dir if cfg.data_dir is not None else before.data_dir
    scored = replace(before, score_only=True, watch=None, **ours)
    given = set(differing(cfg, EvaluationConfig())) & set(differing(cfg, scored))
    if given:
        raise ConfigError(
            f"score_only=true samples nothing: {', '.join(sorted(given))} cannot differ from {path}. Leave it out; what may be "
            f"given is {', '.join(OF_SCORING)}."
        )
    return scored


def stamp(cfg: EvaluationConfig, subject: Subject, plans: Sequence[Plan]) -> str:
    """Names what was evaluated and how: the same settings, problems and ratings on the same weights have nothing left to do."""
    same = replace(cfg, run_dir=None, dry_run=False, name="", workers=1, watch=None, cluster=type(cfg.cluster)())
    problems = [(p.id, plan.asked[p.id], p.answer, dict(p.meta)) for plan in plans for p in plan.prompts]
    ratings = Path(cfg.ratings).read_text() if cfg.ratings is not None else ""
    said = f"{subject.fingerprint}\n{to_yaml(same)}\n{problems}\n{ratings}"
    return hashlib.sha256(said.encode(errors="backslashreplace")).hexdigest()[:16]
