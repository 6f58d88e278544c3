"""Rows and settings of the tests of curation, and how many rows each stage took."""

import json
from pathlib import Path

from k15.config.compose import compose_as
from k15.config.curate import CurateConfig
from k15.curate.rows import Row


def row(text: str, answer: str = "7", **more) -> Row:
    return Row("here:1", text, text, answer, "math", **more)


def write(path: Path, rows: list) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def settings(tmp_path: Path, **values) -> CurateConfig:
    return compose_as(CurateConfig, "curate", [f"store={tmp_path}/store", f"run_dir={tmp_path}/run",
                                               *(f"{k.replace('__', '.')}={v}" for k, v in values.items())])  # fmt: skip


def stages(store: Path) -> dict[str, dict]:
    return {s["name"]: s for s in json.loads((store / "funnel.json").read_text())["stages"]}
