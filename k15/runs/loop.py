"""One iteration after another: rollout, reward, train, weights (report 2.6.1). The controller's heart; owns no process.

sampler -> groups -> worker.run -> finished groups -> rewards -> batch -> trainer -> hand-off -> next iteration
             ^                          |
             +---- replay buffer <------+ unfinished groups, continued from their prefix
"""

import asyncio
from dataclasses import dataclass, field

from k15.config.schema import RunConfig
from k15.data.sampler import PromptSampler
from k15.data.tokenizer import TextTokenizer
from k15.log import MetricsWriter, PhaseTimer, Progress, RolloutLog, get_logger, read_metrics, rollout_record
from k15.reward.router import Rewards
from k15.rollout.buffer import ReplayBuffer
from k15.rollout.seeds import new_group
from k15.rollout.worker import RolloutWorker
from k15.runs.batches import build_batch, phase_metrics, rollout_metrics, train_metrics
from k15.runs.evaluate import Evaluator
from k15.runs.exports import keep_export
from k15.runs.fleet import Fleet
from k15.runs.head import Interrupted, heeded
from k15.runs.state import Checkpoints, LoopState
from k15.types import Group, Prompt, Score

log = get_logger("loop")


@dataclass
class Loop:
    """All that one run holds; built by the controller."""

    cfg: RunConfig
    fleet: Fleet
    worker: RolloutWorker
    rewards: Rewards
    sampler: PromptSampler
    buffer: ReplayBuffer
    tokenizer: TextTokenizer
    evaluator: Evaluator
    metrics: MetricsWriter
    rollout_log: RolloutLog
    checkpoints: Checkpoints
    state: LoopState = field(default_factory=LoopState)
    timer: PhaseTimer = field(default_factory=PhaseTimer)
    stop_requested: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """From `state` to the last iteration. Raises Interrupted after saving when a stop was requested."""
        total = self.cfg.algo.iterations
        progress = Progress(total)
        while self.state.iteration < total:
            row = await self._iteration(progress)
            self.metrics.write(row)
            self.state.iteration += 1
            self.state.drawn = False
            last = self.state.iteration == total
            if last or self.state.iteration % self.cfg.save.every == 0 or self.stop_requested.is_set():
                await self.save()
            if self.stop_requested.is_set():  # also after the last one: it may lack its evaluation, and the export
                raise Interrupted
        progress.close()

    async def _iteration(self, progress: Progress) -> dict[str, object]:
        s, number = self.state, self.state.iteration
        progress.update(number + 1, "rollout")
        with self.timer.span("rollout"):
            groups = await self._rollouts()
        done, scores = await self._scored(number)
        row: dict[str, object] = {
            "iteration": number + 1, "version": s.version, **rollout_metrics(done, scores, s.version),
            **self.rewards.take_metrics(), **self.sampler.take_metrics(), **phase_metrics(self.worker.metrics),
            "groups_unfinished": self.buffer.unfinished, "prompts_seen": s.draws,
        }  # fmt: skip
        waiting = [g for g in groups if not g.finished]
        self._log_rollouts(number, done, scores, waiting)
        progress.update(
            number + 1, "train", tokens_per_s=row.get("tokens_per_s"), reward=row.get("reward_mean"),
            accuracy=row.get("accuracy"), length=row.get("response_length_mean"),
        )  # fmt: skip
        row |= await self._update(done, scores)
        if self.evaluation_due(number + 1):
            progress.update(number + 1, "eval")
            with self.timer.span("eval"):
                row |= await self.evaluated()
        return row | self.timer.take()

    def evaluation_due(self, iteration: int) -> bool:
        """Is `iteration`, which counts from 1 (0: before RL), to be evaluated?"""
        return iteration % self.cfg.eval.every == 0 or iteration == self.cfg.algo.iterations

    async def evaluated(self) -> dict[str, float]:
        """The held-out columns; none where a stop is requested: the time that is left is for saving, and who goes on from the
        checkpoint makes up for them (`complete_last_row`)."""
        try:
            return await heeded(self.stop_requested, self.evaluator.run())
        except Interrupted:
            log.warning("no evaluation now: the run is to be saved")
            return {}

    async def complete_last_row(self) -> None:
        """Evaluate the iteration of `state`, whose weights the engines hold, where a stop kept it from that."""
        iteration = self.state.iteration
        row = next((r for r in read_metrics(self.metrics.path) if r["iteration"] == iteration), None)
        if row is None or not self.evaluation_due(iteration) or any(name.startswith("eval_") for name in row):
            return
        log.info("evaluating iteration %d, which was stopped before it", iteration)
        with self.timer.span("eval"):
            found = await self.evaluator.run()
        self.metrics.resume_at(iteration)
        self.metrics.write(row | found | self.timer.take())

    async def hand_off(self) -> dict[str, float]:
        """The engines get the version of `state`; its columns. None where a stop is requested meanwhile: who goes on from the
        checkpoint hands it off again."""
        try:
            return await heeded(self.stop_requested, self.fleet.hand_off(self.state.version))
        except Interrupted:
            log.warning("the hand-off was broken off: the run is to be saved")
            return {}

    async def _rollouts(self) -> list[Group]:
        """All groups in flight after one segment each: the unfinished ones first, then new prompts."""
        groups = self.buffer.take_unfinished()
        if not self.state.drawn:
            busy = {g.prompt.id for g in groups}
            number = self.state.iteration
            count = min(self.cfg.algo.prompts_per_iteration, self.sampler.count_free(busy))
            if count < self.cfg.algo.prompts_per_iteration:
                log.warning("%d of %d prompts are still in flight: only %d new ones", len(busy), len(self.sampler), count)
            groups += [self._new_group(p) for p in self.sampler.next(count, exclude=busy, iteration=number)]
            self.state.drawn = True
        running = asyncio.create_task(self.worker.run(groups, self.state.version))
        stopping = asyncio.create_task(self.stop_requested.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await self.worker.abort()
        stopping.cancel()
        groups = await running
        self.buffer.add(groups)
        if self.stop_requested.is_set():  # groups that are complete wait in the buffer: they are trained after the restart
            await self.save()
            raise Interrupted
        return groups

    def _new_group(self, prompt: Prompt) -> Group:
        """k rollouts to be started; each draw of a prompt has seeds of its own."""
        self.state.draws += 1
        tokens = self.tokenizer.encode_prompt(prompt.text)
        return new_group(prompt, tokens, self.cfg.algo.samples_per_prompt, run_seed=self.cfg.seed, draw=self.state.draws)

    async def _scored(self, iteration: int) -> tuple[list[Group], list[list[Score]]]:
        """The finished groups, out of the buffer, and their scores. On a stop they stay there: they are scored and trained after
        the restart."""
        done, audited = self.buffer.completed, self.rewards.state_dict()
        try:
            with self.timer.span("reward"):
                scores = await heeded(self.stop_requested, self._score(done, iteration))
        except Interrupted:
            self.rewards.load_state_dict(audited)
            await self.save()
            raise
        self.buffer.take_completed()
        return done, scores

    async def _score(self, groups: list[Group], iteration: int) -> list[list[Score]]:
        texts = [[self.tokenizer.decode(r.response_tokens) for r in g.rollouts] for g in groups]
        scores = [await asyncio.to_thread(self.rewards.score_group, g, t, iteration) for g, t in zip(groups, texts, strict=True)]
        for group, group_scores in zip(groups, scores, strict=True):
            self.sampler.record(group.prompt.id, [float(x.correct) for x in group_scores])
        return scores

    async def _update(self, groups: list[Group], scores: list[list[Score]]) -> dict[str, object]:
        """Train on the finished groups, then hand the new weights to the engines.

        With no finished group the weights stay, but get a new version all the same: it opens the next token budget.
        """
        trained: dict[str, object] = {}
        if groups:
            with self.timer.span("train"):
                batch = build_batch(groups, scores, self.cfg, self.state.version)
                trained = train_metrics(await self.fleet.train(batch))
        self.state.version += 1
        with self.timer.span("weights"):
            handed = await self.hand_off()
        return {**trained, **handed}

    def _log_rollouts(self, number: int, done: list[Group], scores: list[list[Score]], waiting: list[Group]) -> None:
        """Every group that was in flight: the trained ones (some perhaps from before a restart) and those that go on."""
        if not self.cfg.log.rollouts:
            return
        unscored: list[list[Score | None]] = [[None] * len(g.rollouts) for g in waiting]
        records = []
        for group, group_scores in zip([*done, *waiting], [*scores, *unscored], strict=True):
            for rollout, score in zip(group.rollouts, group_scores, strict=True):
                text = self.tokenizer.decode(rollout.response_tokens)
                records.append(rollout_record(group.prompt, rollout, score, text))
        self.rollout_log.write(number + 1, records)

    async def save(self) -> None:
        """A checkpoint of everything: weights, optimizer, sampler, unfinished rollouts, counters."""
        with self.timer.span("save"):
            self.state.sampler = self.sampler.state_dict()
            self.state.buffer = self.buffer.state_dict()
            self.state.rewards = self.rewards.state_dict()
            await self.checkpoints.write(self.state, self.fleet.save)
            if self.cfg.save.export_hf and not self.stop_requested.is_set():  # the time left is for the requeue
                await self.export()

    async def export(self) -> None:
        """The weights of `state.iteration` as hf/, and kept beside it as save.exports says."""
        run_dir = self.checkpoints.folder.parent
        await self.fleet.export_hf(run_dir / "hf", self.state.iteration)
        await asyncio.to_thread(keep_export, run_dir, self.state.iteration, self.cfg.save.exports)
