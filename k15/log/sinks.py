"""Where metrics go besides metrics.jsonl: TensorBoard event files (its own writer, no torch) and Weights & Biases."""

import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from k15.errors import ConfigError

_GROUPS = ("time", "eval", "reward", "finish", "length", "log_ratio")


class TensorBoardSink:
    """Event files under `folder`; one scalar a metric, grouped by the first word of its name."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as e:
            raise ConfigError(
                f"log.tensorboard is true, but tensorboard cannot be imported ({e}). "
                "Install it (pip install tensorboard) or set log.tensorboard=false."
            ) from e
        self._event, self._summary, self._session = event_pb2.Event, summary_pb2.Summary, event_pb2.SessionLog
        self._writer = EventFileWriter(str(folder))

    def write(self, iteration: int, row: Mapping[str, object]) -> None:
        values = [
            self._summary.Value(tag=tag(name), simple_value=value)
            for name, value in row.items()
            if name != "iteration" and isinstance(value, (int, float))
        ]
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=iteration, summary=summary))
        self._writer.flush()

    def resume_at(self, iteration: int) -> None:
        # A START record tells TensorBoard to forget, in this folder, all points from this step on.
        start = self._session(status=self._session.START)
        self._writer.add_event(self._event(wall_time=time.time(), step=iteration, session_log=start))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """One W&B run for a run folder, also over resumes: its id is kept in `run_dir`/wandb_id."""

    def __init__(self, run_dir: Path, project: str, config: Mapping[str, object]) -> None:
        try:
            import wandb
        except ImportError as e:
            raise ConfigError(
                f"log.wandb_project is {project!r}, but wandb cannot be imported ({e}). "
                "Install it (pip install wandb) or set log.wandb_project=null."
            ) from e
        id_file = run_dir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            dir=str(run_dir),
            id=id_file.read_text().strip(),
            resume="allow",
            config=dict(config),
        )
        # The iteration is the x axis; W&B's own step only ever rises, so a resumed run would lose its first points.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def write(self, iteration: int, row: Mapping[str, object]) -> None:
        self._run.log({tag(k): v for k, v in row.items() if isinstance(v, (int, float))} | {"iteration": iteration})

    def resume_at(self, iteration: int) -> None:
        self._run.log({"iteration": iteration, "resumed_at": iteration})  # W&B keeps the older points beside the new

    def close(self) -> None:
        self._run.finish()


def tag(name: str) -> str:
    """The chart's name: `time_rollout_s` -> `time/rollout_s`; names of no group go under `train/`."""
    for group in _GROUPS:
        if name.startswith(f"{group}_"):
            return f"{group}/{name[len(group) + 1 :]}"
    return name if name == "iteration" else f"train/{name}"
