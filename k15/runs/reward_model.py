"""`k15 reward_model kind=classic|cot [name=value ...]`: train a reward model on triples and spot-check it (report 2.3.5).

    triples ──▶ train on the Megatron trainer ──▶ export/ ──▶ judge held-out triples ──▶ spot_check.{md,png,json}

kind=classic: a value head, one scalar, calibrated; judged by the trainer's ranks.
kind=cot: reasoning that ends in JSON; judged by a vLLM server on the export.
Settings: conf/reward_model.yaml, conf/kind, k15/config/reward_model.py. Without data.path, triples are generated and the tiny
model is used: minutes on a CPU. Killed, it goes on from its last checkpoint when it is started with the same run_dir.
`k15 reward_model compare FOLDER FOLDER` puts two runs on the same triples in one table.
"""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from k15.config.compose import from_yaml, to_yaml
from k15.config.reward_model import RewardModelConfig, check_reward_model
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.data.triples import JUDGE_ALPHABET, make_triples, read_triples, write_triples
from k15.errors import REQUEUE, ConfigError, DataError
from k15.eval.spot_check import Check, read_checks, write_checks, write_spot_check
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.node.rendezvous import JobIdentity
from k15.reward.judge import CotJudge, engine_ask
from k15.rollout.client import EngineClient, engine_session
from k15.runs.entry import enter
from k15.runs.hold import held
from k15.runs.job import device as pick_device_name
from k15.runs.job import differing, run_folder
from k15.runs.serve import served
from k15.train.shape import check_layout, read_shape
from k15.types import Triple

STOP, TRAINED = "stop", "trained.json"  # files of a run folder: a signal came; all steps are done and exported
log = get_logger("reward_model")


MAY_CHANGE = ("name", "run_dir", "dry_run", "cluster", "judge")


@hydra.main(config_path="pkg://k15.conf", config_name="reward_model", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("reward_model", config, run)


def preflight(cfg: RewardModelConfig, nodes: int) -> None:
    """All that can be known before a rank starts: settings, layout, the triples where they are files. Torch-free."""
    check_reward_model(cfg, nodes)
    if cfg.run_dir is not None:
        _check_folder(cfg, Path(cfg.run_dir).absolute())
    if cfg.data.path is not None:
        _triples(cfg)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _model(cfg, Path(scratch))
        load_tokenizer(folder)
        check_layout(read_shape(json.loads((folder / "config.json").read_text())), cfg.parallel, cfg.parallel.ranks_per_node)


def run(cfg: RewardModelConfig) -> int:
    """Train, export, judge the held-out triples and write the report. Returns 0, or REQUEUE where a signal came before. Raises
    K15Errors, also where another job has the folder."""
    check_reward_model(cfg)
    identity = JobIdentity.from_environment()
    run_dir = run_folder(cfg.name, cfg.run_dir, identity)
    if cfg.dry_run:
        print(to_yaml(cfg) + "# The settings fit together; nothing was started.")
        return 0
    with held(run_dir, identity):
        return _run_in(run_dir, cfg)


def _run_in(run_dir: Path, cfg: RewardModelConfig) -> int:
    _check_folder(cfg, run_dir)
    if (run_dir / "spot_check.json").is_file():
        log.info("%s is finished: see %s", run_dir, run_dir / "spot_check.md")
        return 0
    parts = _triples(cfg)
    if cfg.model.path is not None:
        load_tokenizer(cfg.model.path)  # what is wrong with the folder is said before one of ours is made
    atomic_write(run_dir / "config.yaml", to_yaml(cfg).encode())
    (run_dir / STOP).unlink(missing_ok=True)
    signal.signal(signal.SIGUSR1, lambda *_: (run_dir / STOP).touch())  # the ranks save at their next step
    model_dir = _model(cfg, run_dir)
    for name, triples in parts.items():
        write_triples(run_dir / f"{name}.jsonl", triples)
    from k15.runs.reward_fit import run_ranks  # brings torch: after settings and data are known to be right

    started = time.monotonic()
    if not (run_dir / TRAINED).is_file() and not run_ranks(cfg, model_dir, run_dir):
        log.warning("stopped by the signal before the time limit; the steps so far are saved, the job is to be requeued")
        return REQUEUE
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(REQUEUE))  # judging starts again; it is short beside training
    _spot_check(cfg, run_dir, time.monotonic() - started)
    return 0


def _spot_check(cfg: RewardModelConfig, run_dir: Path, trained_s: float) -> None:
    started, held_out = time.monotonic(), read_triples(run_dir / "held_out.jsonl")
    checks = _classic(run_dir, held_out) if cfg.kind == "classic" else judge_with_engine(cfg, run_dir, held_out)
    write_checks(run_dir / "checks.jsonl", checks)
    data = cfg.data.path if cfg.data.path is not None else "generated arithmetic"
    facts = {
        "trained on": f"{cfg.fit.steps} steps of {cfg.fit.batch_size} triples ({data})",
        "seconds of training, export included": round(trained_s, 1),
        "seconds of judging": round(time.monotonic() - started, 1),
    }
    _say(run_dir, cfg.kind, write_spot_check(run_dir, {cfg.kind: checks}, facts))


def _check_folder(cfg: RewardModelConfig, run_dir: Path) -> None:
    """Raises ConfigError where the folder holds the work of other settings."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return
    before = from_yaml(path.read_text(), RewardModelConfig)
    changed = [k for k in differing(before, cfg) if not any(k == m or k.startswith(m + ".") for m in MAY_CHANGE)]
    if changed:
        raise ConfigError(
            f"{run_dir} holds a reward model with other settings ({', '.join(changed[:5])}). Give another run_dir=, or the same "
            "settings to go on with it."
        )


def _say(run_dir: Path, kind: str, result: dict) -> None:
    found = result["methods"][kind]
    percent = [100 * found[k] for k in ("accuracy", "low", "high")]
    log.info("%s: accuracy %.1f %% (95 %%: %.1f to %.1f) on %d held-out triples", kind, *percent, found["n"])
    log.info("written: %s", run_dir / "spot_check.md")


def _model(cfg: RewardModelConfig, run_dir: Path) -> Path:
    if cfg.model.path is not None:
        return Path(cfg.model.path).absolute()
    tiny, context = cfg.model.tiny, cfg.model.max_context_tokens
    if (run_dir / "model" / "config.json").is_file():
        return run_dir / "model"
    return write_tiny_model(run_dir / "model", tiny, context, cfg.model.dtype, alphabet=JUDGE_ALPHABET)


def _triples(cfg: RewardModelConfig) -> dict[str, list[Triple]]:
    """train, calibration (kept from training) and held_out triples. Raises DataError where there are too few."""
    data = cfg.data
    if data.path is None:
        train = make_triples(data.train_size + data.calibration_size, cfg.seed, "train")
        held_out = make_triples(data.eval_size, cfg.seed, "eval")
    else:
        train = read_triples(data.path)
        if data.eval_path is not None:
            held_out = read_triples(data.eval_path)
        else:
            train, held_out = train[: -data.eval_size], train[-data.eval_size :]
    parts = {"train": train[data.calibration_size :], "calibration": train[: data.calibration_size], "held_out": held_out}
    if not all(parts.values()):
        raise DataError(
            f"{data.path} leaves no triple for {[k for k, v in parts.items() if not v]}; lower data.eval_size or "
            "data.calibration_size, or give more triples."
        )
    if cfg.kind == "cot" and (bare := [t for t in parts["train"] if not t.judgement]):
        raise DataError(f"{len(bare)} training triples have no `judgement`, which a Chain-of-thought judge learns from.")
    return parts


def _classic(run_dir: Path, held_out: Sequence[Triple]) -> list[Check]:
    rows = json.loads((run_dir / "scores.json").read_text())
    return [Check(t, r["probability"] > 0.5, r["probability"]) for t, r in zip(held_out, rows, strict=True)]


def judge_with_engine(cfg: RewardModelConfig, run_dir: Path, triples: Sequence[Triple]) -> list[Check]:
    """Judge with a vLLM server on run_dir/export; the verdicts of labelled triples, with the last vote's text."""
    with served(
        run_dir / "export", run_dir / "engine.log", device=_device(cfg), dtype=cfg.model.dtype,
        max_context_tokens=cfg.model.max_context_tokens, concurrency=cfg.judge.concurrency,
        start_timeout_s=cfg.judge.start_timeout_s,
    ) as (url, token):  # fmt: skip
        judgements = asyncio.run(_ask_all(cfg, run_dir / "export", url, token, triples))
    failed = sum(j.failed for j in judgements)
    log.info("%d of %d votes failed to give a verdict", failed, cfg.judge.votes * len(triples))
    return [
        Check(t, j.correct, note=f"{j.yes} for, {j.no} against, {j.failed} failed: {j.texts[-1]}")
        for t, j in zip(triples, judgements, strict=True)
    ]


async def _ask_all(cfg: RewardModelConfig, folder: Path, url: str, token: str, triples: Sequence[Triple]):
    tokenizer, j = load_tokenizer(folder, chat=cfg.model.chat), cfg.judge
    async with engine_session() as session:
        client = EngineClient(url, token, session)
        ask = engine_ask(
            [client], tokenizer.encode_prompt, tokenizer.decode, max_tokens=j.max_tokens, temperature=j.temperature
        )  # fmt: skip
        judge = CotJudge(
            ask, votes=j.votes, retries=j.retries, seed=cfg.seed, template=cfg.data.template, concurrency=j.concurrency
        )  # fmt: skip
        return await judge.judge(triples)


def _device(cfg: RewardModelConfig) -> str:
    return pick_device_name(cfg.device if cfg.device != "auto" else cfg.cluster.device)


def compare(words: Sequence[str]) -> int:
    """One table of two runs, written into the second one's folder under `compare/`."""
    if len(words) != 2:
        raise ConfigError(f"compare takes two run folders, not {len(words)}: k15 reward_model compare CLASSIC COT")
    methods, facts = {}, {}
    for folder in map(Path, words):
        if not (folder / "checks.jsonl").is_file():
            raise DataError(f"{folder} has no checks.jsonl; it is no finished run of k15 reward_model.")
        kind = from_yaml((folder / "config.yaml").read_text(), RewardModelConfig).kind
        name = kind if kind not in methods else f"{kind} ({folder.name})"
        methods[name] = read_checks(folder / "checks.jsonl")
        facts[f"{name} was trained on"] = json.loads((folder / "spot_check.json").read_text())["facts"]["trained on"]
    out = Path(words[1]) / "compare"
    out.mkdir(exist_ok=True)
    write_spot_check(out, methods, facts)
    print((out / "spot_check.md").read_text().split("\n## ")[0])
    return 0
