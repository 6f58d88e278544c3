"""`k15 curate sources=[train.jsonl,...] evaluation=[test.jsonl,...]`: raw rows to a versioned prompt store (report 2.1).

    rows ─▶ kind ─▶ leak ─▶ duplicate ─▶ contamination ─▶ tags ─▶ easy to hack ─▶ difficulty ─▶ balance ─▶ prompts/v1

Settings: conf/curate.yaml, k15/config/curate.py. What asks a model (hack.enabled, difficulty.enabled, tagger=model) takes
engine.path=<Hugging Face folder> or engine.url=...; its answers are kept in the run folder, so a run that was killed goes on.
The same sources, settings and seed give the same files, bit for bit.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from k15.config.curate import CurateConfig, check_curate
from k15.config.hf import hf_folder
from k15.config.job import context_has_positions
from k15.curate.funnel import Funnel, lost
from k15.curate.pipeline import read_sources, without_duplicates, without_evaluation, without_kinds, without_leaks
from k15.curate.rows import Row
from k15.curate.sources import HUB
from k15.curate.tags import balanced
from k15.data.versions import PROMPTS, add_version
from k15.errors import ConfigError, DataError
from k15.log import get_logger
from k15.log.files import check_folder_can_be_made
from k15.reward.judge import endpoint_key
from k15.runs.curate_asked import asked, engine_tokenizer, some_left
from k15.runs.entry import enter
from k15.runs.signalled import end_when_signalled

BAD_ROWS = "bad_rows.txt"
log = get_logger("curate")


@hydra.main(config_path="pkg://k15.conf", config_name="curate", version_base="1.3")
def main(config: DictConfig) -> int:
    """Hydra's entry."""
    return enter("curate", config, run)


def preflight(cfg: CurateConfig, nodes: int) -> None:
    """All that can be known before a row is read. Raises ConfigError and DataError."""
    check_curate(cfg)
    for source in [*cfg.sources, *cfg.evaluation]:
        if not source.startswith(HUB) and not Path(source).exists():
            raise DataError(f"{source} does not exist; sources and evaluation name files, folders, or hf:NAME:SPLIT.")
    if cfg.engine.path is not None:
        model = hf_folder("engine.path", cfg.engine.path)
        context_has_positions(cfg.engine.max_context_tokens, model, "engine.max_context_tokens")
        engine_tokenizer(cfg.engine)
    check_folder_can_be_made(Path(cfg.store), "store")
    check_folder_can_be_made(_run_dir(cfg), "run_dir")
    if cfg.engine.url is not None:
        endpoint_key(cfg.engine.key_env, "engine.key_env")
    if nodes > 1:
        raise ConfigError(f"curate works on one node, but this job has {nodes}; set cluster.nodes=1.")


def run(cfg: CurateConfig) -> int:
    """The whole funnel; the exit code."""
    preflight(cfg, nodes=1)
    if cfg.dry_run:
        print(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
        return 0
    run_dir = _run_dir(cfg).absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    end_when_signalled()
    funnel = Funnel()
    bad_rows = run_dir / BAD_ROWS  # of the latest start; the version has its own
    rows = read_sources(cfg, funnel, bad_rows)
    for stage in (without_kinds, without_leaks, without_duplicates, without_evaluation):
        rows = stage(rows, cfg, funnel)
        some_left(rows, funnel)
    try:
        rows, tags, rates = asked(cfg, run_dir, rows, funnel)
    except KeyboardInterrupt:
        log.warning("what was answered is kept in %s: the same words go on from there", run_dir)
        raise
    chosen = _balance(cfg, rows, tags, funnel)
    beside = {BAD_ROWS: bad_rows.read_text()} if bad_rows.exists() else {}
    folder, new = _store(cfg, [rows[i] for i in chosen], [tags[i] for i in chosen], [rates[i] for i in chosen], funnel, beside)
    print(funnel.table())
    if beside:
        print(f"rows that could not be used, and why: {folder / BAD_ROWS}")
    print(f"{len(chosen):,d} prompts: {folder}{'' if new else ' (as before: nothing has changed)'}; read them with data=jsonl "
          f"data.path={cfg.store}, see {folder / 'funnel.md'}")  # fmt: skip
    return 0


def _run_dir(cfg: CurateConfig) -> Path:
    return Path(cfg.run_dir if cfg.run_dir is not None else f"runs/{cfg.name}")


def _balance(cfg: CurateConfig, rows: Sequence[Row], tags: Sequence[str], funnel: Funnel) -> list[int]:
    if cfg.balance.size is None:
        return list(range(len(rows)))
    by = tags if cfg.balance.by == "discipline" else [row.domain for row in rows]
    chosen = balanced(by, cfg.balance.size, cfg.seed)
    out = set(range(len(rows))) - set(chosen)
    funnel.add("balance", f"at most {cfg.balance.size:,d}, alike by {cfg.balance.by}", len(chosen),
               [lost(by[i], rows[i], f"{by[i]} has more than its share") for i in sorted(out)])  # fmt: skip
    return chosen


def _store(
    cfg: CurateConfig, rows: Sequence[Row], tags: Sequence[str], rates: Sequence[float | None], funnel: Funnel,
    beside: Mapping[str, str],
) -> tuple[Path, bool]:  # fmt: skip
    """Write the version, with the files `beside`; no dates, hosts or absolute paths, so that equal work gives equal bytes. A pass
    rate that was measured takes the place of the source's own labels."""
    lines = []
    for row, tag, rate in zip(rows, tags, rates):
        record: dict[str, object] = {"id": row.id, "prompt": row.text, "answer": row.answer, "domain": row.domain}
        if row.domain == "code":
            record["answer"] = json.loads(row.answer)
        if rate is not None:
            record |= {"difficulty": round(1 - rate, 6), "pass_rate": rate}
        own = {name: value for name, value in row.meta.items() if name not in (*record, "discipline")}
        lines.append(json.dumps(record | {"discipline": tag} | own, ensure_ascii=False) + "\n")
    read = [*cfg.sources, *cfg.evaluation]
    settings = {k: v for k, v in asdict(cfg).items() if k not in ("name", "run_dir", "dry_run", "store", "cluster")}
    manifest = {
        "prompts": len(rows), "settings": settings,
        "files": {s: _digest(Path(s)) for s in read if Path(s).is_file()},
    }  # fmt: skip
    files = {
        PROMPTS: "".join(lines),
        "funnel.json": json.dumps({"stages": funnel.as_dict(), "tags": dict(sorted(Counter(tags).items()))}, indent=1) + "\n",
        "funnel.md": funnel.markdown(dict(Counter(tags))),
        **beside,
    }
    return add_version(Path(cfg.store), files, manifest)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
