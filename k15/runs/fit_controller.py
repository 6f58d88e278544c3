"""The controller process of `k15 sft` and `k15 dpo`: one optimizer step after another on the trainer's ranks, no engines.

    schedule ──▶ samples of a step ──▶ ranks ──▶ metrics.jsonl      validation loss, checkpoints, at the end hf/

Started as `k15.runs.head` says; K15_COMMAND names the command.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from k15.config.commands import COMMANDS
from k15.config.compose import from_yaml
from k15.config.dpo import DpoConfig
from k15.config.sft import SftConfig
from k15.data.tokenizer import load_tokenizer
from k15.errors import DataError
from k15.log import MetricsWriter, PhaseTimer, Progress, get_logger, read_metrics
from k15.runs.batches import train_metrics
from k15.runs.fit import TASKS, Task
from k15.runs.fit_command import lacks_evaluation
from k15.runs.head import Head, Interrupted, exit_code, heeded, open_head
from k15.runs.prepare import model_folder
from k15.runs.state import Checkpoints, FitState
from k15.runs.trainer_client import TrainerClient
from k15.runs.trainer_ranks import end_processes, export_hf, start_trainer

log = get_logger("fit")


async def main(run_dir: Path) -> None:
    """The run from its start or its last checkpoint. Raises Interrupted after saving, K15Errors."""
    command = os.environ["K15_COMMAND"]
    cfg = from_yaml((run_dir / "config.yaml").read_text(), COMMANDS[command])
    async with open_head() as head:
        model_dir = model_folder(cfg, run_dir)
        tokenizer = load_tokenizer(model_dir, chat=cfg.model.chat)
        task = await heeded(head.stop, asyncio.to_thread(TASKS[command], cfg, tokenizer))
        checkpoints = Checkpoints(run_dir, cfg.save.keep, FitState)
        found = resumable(checkpoints, task, run_dir)
        log.info(
            "%d examples (%d held out), %d steps; starting %d trainer ranks", len(task.kept), len(task.validation) // task.units,
            len(task.schedule), cfg.parallel.ranks_per_node * len(head.agents),
        )  # fmt: skip
        try:
            start = start_trainer(
                head.agents, head.rendezvous, head.rendezvous_path, head.store, device=head.device,
                ranks_per_node=cfg.parallel.ranks_per_node, folders=(run_dir, model_dir),
            )  # fmt: skip
            trainer = await heeded(head.stop, start)
            await Fit(cfg, task, trainer, head, run_dir, checkpoints).run(found)
        finally:
            await end_processes(head.agents)


def resumable(checkpoints: Checkpoints[FitState], task: Task, run_dir: Path) -> tuple[Path, FitState] | None:
    """The checkpoint to go on from, if there is one. Raises K15Errors where `task` is not what it was trained on."""
    found = checkpoints.latest()
    if found is None:
        return None
    folder, state = found
    if (state.data, state.iterations) != (task.fingerprint, len(task.schedule)):
        raise DataError(
            f"the examples are not those that {folder.name} was trained on, so its place among them means nothing. "
            "Put the files back, or give another run_dir."
        )
    task.check_resumable(run_dir)
    return found


@dataclass
class Fit:
    """One run: all that its loop holds."""

    cfg: SftConfig | DpoConfig
    task: Task
    trainer: TrainerClient
    head: Head
    run_dir: Path
    checkpoints: Checkpoints[FitState]

    async def run(self, found: tuple[Path, FitState] | None) -> None:
        """Go on from `found` or begin, to the last step; export. Raises Interrupted after saving when a stop was requested."""
        self.timer = PhaseTimer()
        self.metrics = MetricsWriter(
            self.run_dir, tensorboard=self.cfg.log.tensorboard, wandb_project=self.cfg.log.wandb_project
        )  # fmt: skip
        try:
            await self._start(found)
            await self._steps()
            if self.cfg.save.export_hf:
                export = export_hf(self.trainer, self.head.agents, self.head.store, self.state.iteration, self.run_dir / "hf")
                await heeded(self.head.stop, export)
                print(f"model: {self.run_dir / 'hf'}", flush=True)
        finally:
            self.metrics.close()

    async def _start(self, found: tuple[Path, FitState] | None) -> None:
        """The weights, and what the task needs of them; as they were where there is a checkpoint."""
        stop = self.head.stop
        if found is None or not self.task.has_begun(self.run_dir):  # the latter: eval.size has grown
            await heeded(stop, self.trainer.call("init", source="random" if self.cfg.model.path is None else "hf"))
            if not await self.task.begin(self.trainer, self.run_dir, stop.is_set):
                raise Interrupted
        if found is not None:
            folder, self.state = found
            log.info("resuming from %s", folder.name)
            await heeded(stop, self.trainer.call("load", folder=str(folder / "trainer")))
            self.metrics.resume_at(self.state.iteration + 1)
            if self._is_due(self.state.iteration) and lacks_evaluation(self.run_dir, self.state.iteration):
                await self._complete_last_row()
        else:
            self.state = FitState(iterations=len(self.task.schedule), data=self.task.fingerprint)
            self.metrics.resume_at(0)
            with self.timer.span("eval"):
                row = await heeded(stop, self.task.evaluate(self.trainer))
            self.metrics.write({"iteration": 0, **row, **self.timer.take()})

    def _is_due(self, number: int) -> bool:
        """Is the validation loss to be measured after step `number`?"""
        return bool(self.task.validation) and (number == len(self.task.schedule) or number % self.cfg.eval.every == 0)

    async def _complete_last_row(self) -> None:
        """Evaluate the last step, where a stop kept it from that."""
        number = self.state.iteration
        log.info("evaluating step %d, which was stopped before it", number)
        with self.timer.span("eval"):
            found = await heeded(self.head.stop, self.task.evaluate(self.trainer))
        rows = {r["iteration"]: r for r in read_metrics(self.metrics.path)}
        self.metrics.resume_at(number)
        self.metrics.write(rows.get(number, {"iteration": number}) | found | self.timer.take())

    async def _steps(self) -> None:
        total, state = len(self.task.schedule), self.state
        progress = Progress(total)
        while state.iteration < total:
            number = state.iteration + 1
            step = self.task.schedule[state.iteration]
            progress.update(number, "train")
            with self.timer.span("train"):
                trained = await self.task.step(self.trainer, step)
            row = {"iteration": number, "stage": step.stage, "epoch": step.epoch + 1, **train_metrics(trained)}
            seconds = sum(v for k, v in trained.items() if k.startswith("seconds_"))
            progress.update(number, "train", loss=trained["loss"], tokens_per_s=trained["tokens"] / max(seconds, 1e-9))
            last, missed = number == total, False
            if self._is_due(number):
                progress.update(number, "eval")
                try:
                    with self.timer.span("eval"):
                        row |= await heeded(self.head.stop, self.task.evaluate(self.trainer))
                except Interrupted:
                    missed = True  # evaluated at the next start
            self.metrics.write(row | self.timer.take())
            state.iteration, state.stage, state.epoch = number, step.stage, step.epoch
            if last or number % self.cfg.save.every == 0 or self.head.stop.is_set():
                with self.timer.span("save"):
                    await self.checkpoints.write(state, self._save)
            if self.head.stop.is_set() and (missed or not last):
                raise Interrupted
        progress.close()

    async def _save(self, folder: str) -> None:
        await self.trainer.call("save", folder=folder)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(Path(sys.argv[1]))))
