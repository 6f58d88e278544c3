"""`k15 plan [the words of k15 rl] [--search] [--simulate]`: what a run needs and takes, before anything is queued. Torch-free."""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from k15.config.check import check
from k15.config.compose import compose_as, settings
from k15.config.plan import PlanConfig
from k15.config.values import require
from k15.config.words import quoted
from k15.errors import ConfigError, unknown_name
from k15.plan.answer import Answer, Setup, answer, budgets_of, check_fits, layout_lines, scenario
from k15.plan.devices import DEVICES, Device
from k15.plan.job import TrainJob
from k15.plan.layouts import ranked
from k15.plan.lengths import Lengths, lognormal, of_run
from k15.plan.report import budget_table, costs, describe, error_line, replayed, scale_table
from k15.plan.rollout import Speed
from k15.plan.simulate import BudgetRow, Scenario, over_budgets
from k15.plan.step import machine
from k15.plan.trace import Replay, read_trace, replay
from k15.runs.prepare import model_folder
from k15.train.shape import check_layout, read_shape

USAGE = """usage: k15 plan [the words of k15 rl, or launch rl ...] [--search] [--simulate] [plan.NAME=VALUE ...]

Memory a device, training and rollout time, GPU-hours and cost of a run; nothing is started or submitted.
A run that cannot fit is refused, with the layouts that do.

  k15 plan model=hf model.path=DIR cluster.nodes=4 parallel.ranks_per_node=8 parallel.tensor=8 plan.device=h100
  --search     rank TP x PP x EP x CP x DP x recompute        (plan.search=true, plan.top=8)
  --simulate   token budgets, cluster sizes, faults           (plan.simulate=true, plan.trace=RUN_DIR)
  plan.device=h100 | a100 | h800 | h200 | b200 | mi300x | a100-40 | cpu     plan.config=config.json without weights

All of plan.*: k15/config/plan.py; the model behind the numbers, and its error: docs/plan.md.
"""
FLAGS = {"--search": "plan.search=true", "--simulate": "plan.simulate=true"}
POSITIVE = ("price_per_gpu_hour", "top", "p99_over_p50", "iterations", "slow_factor")
CEILINGS = (
    "tflops",
    "memory_gb",
    "memory_gb_s",
    "link_gb_s",
    "network_gb_s",
    "median_tokens",
    "mtbf_node_h",
    "prompt_tokens",
    "mfu",
)
SCALE = (8, 64, 512, 2048, 10000)  # GPUs of --simulate
SCALE_ITERATIONS = 2
MOST_SEQUENCES = 100_000  # simulated at once: about half a minute
MEASURED_PARTS = "with these constants, `handoff` below is all that has a fixed time: a phase's start, rewards, weights"


def main(words: Sequence[str]) -> int:
    """The command's exit code. Raises ConfigError and DataError."""
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    cfg = parse(words)
    for line in plan(cfg):
        print(line)
    return 0


def parse(words: Sequence[str]) -> PlanConfig:
    """The settings behind the words of the command line, checked."""
    words = list(words)
    for leading in (["launch", "rl"], ["rl"]):
        if words[: len(leading)] == leading:
            words = words[len(leading) :]
    known = [FLAGS.get(w, w) for w in words if w != "--dry-run"]  # launch's flag: here nothing is started anyway
    for word in known:
        if word.startswith("-"):
            raise unknown_name("the word of k15 plan", word, [*FLAGS, "--help"])
    cfg = compose_as(PlanConfig, "plan", settings(quoted(known)))
    p = cfg.plan
    if p.device not in DEVICES:
        raise unknown_name("plan.device", p.device, DEVICES)
    given = [name for name in CEILINGS if getattr(p, name) is not None]
    require(cfg, positive=[f"plan.{n}" for n in (*POSITIVE, *given)], not_negative=["plan.restart_s"],
            fractions=["plan.slow_share", "plan.repetition", *["plan.mfu"] * (p.mfu is not None)])  # fmt: skip
    for name, least in (("p99_over_p50", 1), ("slow_factor", 1)):
        if getattr(p, name) < least:
            raise ConfigError(f"plan.{name} is {getattr(p, name)}, but it is a ratio of at least {least}.")
    for name in ("budgets", "scale"):
        if wrong := [v for v in getattr(p, name) if v < 1]:
            raise ConfigError(f"plan.{name} has {wrong[0]}, but each must be at least 1. Give plan.{name}=[512,1024].")
    return cfg


def plan(cfg: PlanConfig) -> list[str]:
    """The whole answer, line by line. Raises ConfigError for a run that cannot be or cannot fit."""
    setup, lengths = setup_of(cfg)
    p, found = cfg.plan, answer(setup)
    assert p.prompt_tokens is not None
    name = Path(cfg.model.path).name if cfg.model.path else "the tiny model"
    if p.search:
        best = ranked(setup.job, setup.machine, setup.room)
        if not best:
            check_fits(found, p.top)
        shown = layout_lines(best[: p.top])
        return [f"{len(best)} layouts of {setup.job.ranks} x {p.device} fit; the quickest:", *shown, "", error_line()]
    check_fits(found, p.top)
    lines = describe(found, name, p.device)
    base = scenario(found, _scenario(cfg, lengths))
    if p.trace is not None:
        fitted = replay(read_trace(p.trace, p.prompt_tokens), setup.nodes * setup.engines_per_node, setup.concurrent)
        base, lines = _as_measured(base, fitted), [*lines, *replayed(fitted), MEASURED_PARTS]
    budgets = budgets_of(cfg.rollout.max_response_tokens, p.budgets) if p.simulate else [cfg.rollout.max_response_tokens]
    budget = min(cfg.rollout.budget_tokens, cfg.rollout.max_response_tokens)
    rows = over_budgets(base, sorted({*budgets, budget}, reverse=True), p.iterations, cfg.seed)
    lines += costs(found, rows, cfg.algo.iterations, p.price_per_gpu_hour, budget)
    if p.simulate:
        lines += ["", f"over token budgets ({p.iterations} iterations each):", *budget_table(rows)]
        lines += ["", *_scales(cfg, found, base, budget)]
    return [*lines, "", error_line()]


def setup_of(cfg: PlanConfig) -> tuple[Setup, Lengths]:
    """The planner's view of a run. Raises ConfigError where settings do not fit together."""
    p, r = cfg.plan, cfg.rollout
    if p.prompt_tokens is None:
        p.prompt_tokens = max(1, min(256, cfg.model.max_context_tokens - r.max_response_tokens))
    cpu = p.device == "cpu"
    if cfg.cluster.device == "auto":
        cfg.cluster.device = "cpu" if cpu else "cuda"
    shape = read_shape(_model(cfg))
    check_layout(shape, cfg.parallel, cfg.cluster.nodes * cfg.parallel.ranks_per_node)
    lengths = _lengths(cfg)
    drawn = _draws(lengths)
    response = float(drawn.mean())
    job = TrainJob(
        shape, cfg.parallel, cfg.cluster.nodes * cfg.parallel.ranks_per_node, cfg.parallel.ranks_per_node,
        2 if cfg.model.dtype == "bfloat16" else 4, cfg.algo.micro_batch_tokens,
        cfg.algo.prompts_per_iteration * cfg.algo.samples_per_prompt, p.prompt_tokens + response, response,
        steps=cfg.algo.minibatches, reset=cfg.algo.reset_optimizer, local=cpu,
        longest=min(cfg.model.max_context_tokens, p.prompt_tokens + r.max_response_tokens),
        squared=float(((p.prompt_tokens + drawn) ** 2.0).mean()),
    )  # fmt: skip
    device = _device(cfg)
    mfu = device.mfu if p.mfu is None else p.mfu
    setup = Setup(
        job, device, machine(device, mfu, cfg.parallel.ranks_per_node), cfg.cluster.nodes + cfg.cluster.rollout_nodes,
        r.engines_per_node,
        r.tensor_parallel, r.gpu_memory_utilization, float(r.kv_cache_bytes) if cpu else None, r.max_concurrent,
        cfg.model.max_context_tokens, mfu, cfg.weights.spare, cfg.cluster.mem_gb,
    )  # fmt: skip
    return setup, lengths


def _model(cfg: PlanConfig) -> dict:
    """config.json of plan.config or model.path, or of the tiny model, after all rules of `k15 rl`."""
    given = cfg.plan.config
    if given is None:
        check(cfg)
        with tempfile.TemporaryDirectory() as scratch:
            return json.loads((model_folder(cfg, Path(scratch)) / "config.json").read_text())
    path = Path(given) / "config.json" if Path(given).is_dir() else Path(given)
    if not path.is_file():
        raise ConfigError(f"plan.config is {given!r}, which is no config.json on this machine, nor a folder with one.")
    try:
        model = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"plan.config={given} is not JSON: {error}") from error
    if not isinstance(model, dict):
        raise ConfigError(f"plan.config={given} is not an object.")
    read_shape(model)
    cfg.model.path = str(path.parent if path.name == "config.json" else path)
    check(cfg, model=model)
    return model


def _device(cfg: PlanConfig) -> Device:
    p, sheet = cfg.plan, DEVICES[cfg.plan.device]
    given = {n: getattr(p, n) for n in ("tflops", "memory_gb", "memory_gb_s", "link_gb_s", "network_gb_s")}
    return replace(sheet, **{n: v for n, v in given.items() if v is not None})


def _lengths(cfg: PlanConfig) -> Lengths:
    p, longest = cfg.plan, cfg.rollout.max_response_tokens
    if p.trace is not None:
        return of_run(p.trace, longest)
    return lognormal(max(1.0, longest / 8) if p.median_tokens is None else p.median_tokens, p.p99_over_p50, longest)


def _draws(lengths: Lengths) -> np.ndarray:
    """Enough of them for a mean."""
    return lengths.draw(20000, np.random.default_rng(0))


def _scenario(cfg: PlanConfig, lengths: Lengths) -> Scenario:
    """Lengths, prompts and faults; the times are filled in by the answer."""
    p, r, repeats = cfg.plan, cfg.rollout, cfg.rollout.repetition
    assert p.prompt_tokens is not None
    return Scenario(
        1, Speed(1, 0, 0, 0, 1), lengths, cfg.algo.prompts_per_iteration, cfg.algo.samples_per_prompt, p.prompt_tokens,
        r.budget_tokens, 0.0, 0.0, 0.0, repetition=p.repetition,
        stop_at=repeats.max_period * repeats.min_repeats if repeats.enabled else None, slow_share=p.slow_share,
        slow_factor=p.slow_factor, restart_s=p.restart_s,
        mtbf_s=None if p.mtbf_node_h is None else p.mtbf_node_h * 3600,  # of a node, and so of each engine on it
    )  # fmt: skip


def _as_measured(base: Scenario, found: Replay) -> Scenario:
    """The scenario with a run's own constants in place of the data sheet's."""
    f = found.fitted
    return replace(base, speed=f.speed, train_fixed_s=f.train_fixed_s, train_token_s=f.train_token_s,
                   handoff_s=f.rest_s + f.fixed_s)  # fmt: skip


def _scales(cfg: PlanConfig, found: Answer, base: Scenario, budget: int) -> list[str]:
    """The run on other numbers of GPUs, with as many prompts for each GPU, and with the same prompts for all."""
    setup, weak, strong = found.setup, [], []
    for gpus in cfg.plan.scale or SCALE:
        nodes = max(1, round(gpus / setup.job.per_node))
        ratio = nodes / setup.nodes
        for rows, prompts in ((weak, max(1, round(base.prompts * ratio))), (strong, base.prompts)):
            job = replace(setup.job, ranks=nodes * setup.job.per_node, sequences=prompts * base.samples)
            if job.sequences > MOST_SEQUENCES or job.data < 1 or job.ranks % (job.ranks // job.data):
                continue
            here = answer(replace(setup, job=job, nodes=nodes))
            times = scenario(here, replace(base, prompts=prompts)) if cfg.plan.trace is None else replace(
                base, prompts=prompts, engines=nodes * setup.engines_per_node, handoff_s=base.handoff_s + here.handoff["pull"],
                train_token_s=base.train_token_s / ratio)  # fmt: skip
            found_row: BudgetRow = over_budgets(times, [budget], SCALE_ITERATIONS, cfg.seed)[0]
            rows.append((nodes * setup.job.per_node, prompts, found_row))
    return [
        f"as many prompts for each GPU (up to {MOST_SEQUENCES:,} sequences):",
        *scale_table(weak),
        "the same prompts for all:",
        *scale_table(strong),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
