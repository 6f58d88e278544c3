"""`k15 reward_model kind=classic|cot [name=value ...]`: train a reward model on triples and spot-check it (report 2.3.5).

    triples ──▶ train on the Megatron trainer ──▶ export/ ──▶ judge held-out triples ──▶ spot_check.{md,png,json}

kind=classic: a value head, one scalar, calibrated; judged by the trainer's ranks.
kind=cot: reasoning that ends in JSON; judged by a vLLM server on the export.
Settings: conf/reward_model/, k15/config/reward_model.py. Without data.path, triples are generated and the tiny model is
used: minutes on a CPU. `compare FOLDER FOLDER` puts two runs on the same triples in one table.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from k15.config.reward_model import RewardModelConfig, compose_reward_model
from k15.data.tiny import write_tiny_model
from k15.data.tokenizer import load_tokenizer
from k15.data.triples import JUDGE_ALPHABET, make_triples, read_triples, write_triples
from k15.errors import ConfigError, DataError
from k15.eval.spot_check import Check, read_checks, write_checks, write_spot_check
from k15.log import get_logger
from k15.reward.judge import CotJudge, engine_ask
from k15.rollout.client import EngineClient, engine_session
from k15.runs.job import device as pick_device_name
from k15.runs.serve import served
from k15.types import Triple

log = get_logger("reward_model")


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code."""
    if {"-h", "--help"} & set(words):
        print(f"usage: {__doc__}")
        return 0
    if words and words[0] == "compare":
        return _compare(words[1:])
    run(compose_reward_model(words))
    return 0


def run(cfg: RewardModelConfig) -> dict:
    """Train, export, judge the held-out triples and write the report; what its JSON holds. Raises K15Errors."""
    run_dir = _run_dir(cfg)
    if (run_dir / "export").exists():
        raise ConfigError(f"run_dir {run_dir} holds a finished reward model; give another one.")
    parts = _triples(cfg)
    if cfg.model.path is not None:
        load_tokenizer(cfg.model.path)  # what is wrong with the folder is said before one of ours is made
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    model_dir = _model(cfg, run_dir)
    for name, triples in parts.items():
        write_triples(run_dir / f"{name}.jsonl", triples)
    from k15.runs.reward_fit import run_ranks  # brings torch: after settings and data are known to be right

    started = time.monotonic()
    run_ranks(cfg, model_dir, run_dir)
    fitted = time.monotonic()
    held_out = read_triples(run_dir / "held_out.jsonl")
    checks = _classic(run_dir, held_out) if cfg.kind == "classic" else judge_with_engine(cfg, run_dir, held_out)
    write_checks(run_dir / "checks.jsonl", checks)
    facts = {
        "trained on": f"{cfg.fit.steps} steps of {cfg.fit.batch_size} triples ({cfg.data.path or 'generated arithmetic'})",
        "seconds of training, export included": round(fitted - started, 1),
        "seconds of judging": round(time.monotonic() - fitted, 1),
    }
    result = write_spot_check(run_dir, {cfg.kind: checks}, facts)
    _say(run_dir, cfg.kind, result)
    return result


def _run_dir(cfg: RewardModelConfig) -> Path:
    name = cfg.run_dir if cfg.run_dir is not None else f"runs/reward_model-{cfg.kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(name).absolute()


def _say(run_dir: Path, kind: str, result: dict) -> None:
    found = result["methods"][kind]
    percent = [100 * found[k] for k in ("accuracy", "low", "high")]
    log.info("%s: accuracy %.1f %% (95 %%: %.1f to %.1f) on %d held-out triples", kind, *percent, found["n"])
    log.info("written: %s", run_dir / "spot_check.md")


def _model(cfg: RewardModelConfig, run_dir: Path) -> Path:
    if cfg.model.path is not None:
        return Path(cfg.model.path).absolute()
    tiny, context = cfg.model.tiny, cfg.model.max_context_tokens
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
    return pick_device_name(cfg.device)


def _compare(words: Sequence[str]) -> int:
    """One table of two runs, written into the second one's folder under `compare/`."""
    if len(words) != 2:
        raise ConfigError(f"compare takes two run folders, not {len(words)}: k15 reward_model compare CLASSIC COT")
    methods, facts = {}, {}
    for folder in map(Path, words):
        if not (folder / "checks.jsonl").is_file():
            raise DataError(f"{folder} has no checks.jsonl; it is no finished run of k15 reward_model.")
        kind = OmegaConf.load(folder / "config.yaml").kind
        name = kind if kind not in methods else f"{kind} ({folder.name})"
        methods[name] = read_checks(folder / "checks.jsonl")
        facts[f"{name} was trained on"] = json.loads((folder / "spot_check.json").read_text())["facts"]["trained on"]
    out = Path(words[1]) / "compare"
    out.mkdir(exist_ok=True)
    write_spot_check(out, methods, facts)
    print((out / "spot_check.md").read_text().split("\n## ")[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
