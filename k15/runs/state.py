"""Checkpoints of a run: `checkpoints/<iteration>-<phase>/`, written aside and renamed, so that one is whole or absent.

trainer/        one file a rank (train room)
controller.json sampler, replay buffer, audit, counters, phase
"""

import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from k15.errors import K15Error
from k15.log import get_logger
from k15.log.files import atomic_write, sync_folder

log = get_logger("state")


@dataclass
class LoopState:
    """Where the loop stands. `drawn`: the prompts of `iteration` are already in the buffer (stopped in mid-rollout).
    `warmup_left`: steps that the warm-up before iteration 0 was stopped short of."""

    iteration: int = 0
    version: int = 0
    drawn: bool = False
    draws: int = 0  # prompts drawn so far; numbers each draw, so that its rollouts' seeds are its own
    sampler: dict[str, object] = field(default_factory=dict)
    buffer: dict[str, object] = field(default_factory=dict)
    rewards: dict[str, object] = field(default_factory=dict)  # the audit's generator
    warmup_left: int = 0


@dataclass
class FitState:
    """Where a fine-tuning run stands: `iteration` optimizer steps of `iterations` are done, `stage` and `epoch` are those of
    the last one. `data`: fingerprint of the examples, whose order is a function of the seed."""

    iteration: int = 0
    iterations: int = 0
    stage: str = ""
    epoch: int = 0
    data: str = ""


State = TypeVar("State", LoopState, FitState)


def has_checkpoint(run_dir: Path) -> bool:
    """Whether the run in the folder has come so far that its settings are settled."""
    return any((run_dir / "checkpoints").glob("*-iteration-*"))


def newest_iteration(run_dir: Path) -> int | None:
    """The iteration of the newest checkpoint, by its folder's name; None where there is none."""
    newest = max((p.name for p in (run_dir / "checkpoints").glob("*-iteration-*")), default=None)
    return None if newest is None else int(newest.rsplit("-", 1)[1])


class Checkpoints(Generic[State]):
    """Write, find and prune the checkpoints of one run folder; `kind` is the controller's part of one."""

    def __init__(self, run_dir: Path, keep: int, kind: type[State] = LoopState) -> None:
        self.kind = kind
        self.folder = run_dir / "checkpoints"
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)

    async def write(self, state: State, save_trainer: Callable[[str], Awaitable[None]]) -> Path:
        """Save everything; returns the finished folder. Older ones beyond `keep` are removed afterwards."""
        number = 1 + max((int(p.name.split("-")[0]) for p in self.complete()), default=-1)
        final = self.folder / f"{number:05d}-iteration-{state.iteration:05d}"
        partial = self.folder / f"partial-{number:05d}"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "trainer").mkdir(parents=True)
        await save_trainer(str(partial / "trainer"))
        atomic_write(partial / "controller.json", json.dumps(asdict(state)).encode())
        partial.rename(final)
        sync_folder(self.folder)
        for old in self.complete()[: -self.keep]:
            shutil.rmtree(old)
        log.info("saved %s", final.name)
        return final

    def complete(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(p for p in self.folder.iterdir() if "-iteration-" in p.name and (p / "controller.json").is_file())

    def latest(self) -> tuple[Path, State] | None:
        """The newest checkpoint, or None. Raises K15Error for one that cannot be read."""
        for leftover in self.folder.glob("partial-*"):
            log.warning("removing %s, which was being written when the run stopped", leftover.name)
            shutil.rmtree(leftover)
        found = self.complete()
        if not found:
            return None
        try:
            return found[-1], self.kind(**json.loads((found[-1] / "controller.json").read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise K15Error(f"checkpoint {found[-1]} cannot be read ({error}); remove it to go on from the one before.") from error
