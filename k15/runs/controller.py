"""The controller process of `k15 rl`: the report's central master. Builds the job's parts, then runs the loop. One a job, on the
head node, started as `k15.runs.head` says.
"""

import asyncio
import os
import sys
from pathlib import Path

from k15.config.check import check
from k15.config.compose import from_yaml
from k15.config.schema import RunConfig
from k15.data.sampler import PromptSampler
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.log import MetricsWriter, RolloutLog, get_logger
from k15.reward.opinion import engines_opener
from k15.reward.router import Rewards
from k15.rollout.buffer import ReplayBuffer
from k15.rollout.worker import RolloutWorker
from k15.runs.classic import served_classic
from k15.runs.evaluate import Evaluator
from k15.runs.fleet import Fleet
from k15.runs.head import Interrupted, exit_code, heeded, open_head
from k15.runs.loop import Loop
from k15.runs.prepare import load_prompts, model_folder
from k15.runs.sandbox import open_sandbox
from k15.runs.state import Checkpoints, LoopState
from k15.runs.summary import finish
from k15.runs.warmup import warm_up
from k15.types import Prompt

log = get_logger("controller")


async def main(run_dir: Path) -> None:
    """The run from its start or its last checkpoint. Raises Interrupted after saving, K15Errors."""
    cfg = from_yaml((run_dir / "config.yaml").read_text())
    check(cfg, nodes=int(os.environ["K15_NODES"]))
    async with open_head() as head:
        model_dir = model_folder(cfg, run_dir)
        tokenizer = load_tokenizer(model_dir, chat=cfg.model.chat)
        prompts, held_out = load_prompts(cfg, tokenizer)
        checkpoints = Checkpoints(run_dir, cfg.save.keep)
        found = checkpoints.latest()
        agents, token = head.agents, head.rendezvous.token
        fleet = Fleet(
            cfg, run_dir, model_dir, head.rendezvous, head.rendezvous_path, agents, head.store, head.session,
            device=head.device, canary=canary(prompts, tokenizer, cfg.model.max_context_tokens),
        )  # fmt: skip
        try:
            log.info(
                "starting %d trainer ranks and %d engines",
                cfg.parallel.ranks_per_node * len(agents), cfg.rollout.engines_per_node * len(agents),
            )  # fmt: skip
            await heeded(head.stop, fleet.start())
            await heeded(head.stop, open_sandbox(cfg.sandbox, [*prompts, *held_out], agents, token))
            ask = engines_opener(
                cfg.reward.judge, lambda: [e.client.base_url for e in fleet.engines.all if not e.visiting], token,
                tokenizer.encode_prompt, tokenizer.decode,
            )  # fmt: skip
            async with served_classic(cfg.reward, run_dir, head.stop) as probabilities:
                with Rewards(cfg.reward, cfg.seed, open_ask=ask, probabilities=probabilities) as rewards:
                    loop = build_loop(cfg, fleet, rewards, tokenizer, prompts, held_out, checkpoints, head.stop)
                    await run(loop, found)
        finally:
            await fleet.stop()


def build_loop(
    cfg: RunConfig, fleet: Fleet, rewards: Rewards, tokenizer: TextTokenizer, prompts: list[Prompt],
    held_out: list[Prompt], checkpoints: Checkpoints, stop: asyncio.Event,
) -> Loop:  # fmt: skip
    """The loop's parts, joined. `stop` is set by the signal before the time limit."""
    worker = RolloutWorker(
        [e.client for e in fleet.engines.all], cfg.rollout, cfg.seed, max_context_tokens=cfg.model.max_context_tokens,
        on_engine_failure=fleet.engines.heal,
    )  # fmt: skip
    fleet.engines.on_join, fleet.engines.on_leave = worker.add, worker.drain
    return Loop(
        cfg, fleet, worker, rewards, PromptSampler(prompts, cfg.sampler, cfg.seed), ReplayBuffer(), tokenizer,
        Evaluator(cfg, held_out, worker, rewards, tokenizer),
        MetricsWriter(fleet.run_dir, tensorboard=cfg.log.tensorboard, wandb_project=cfg.log.wandb_project),
        RolloutLog(fleet.run_dir), checkpoints, stop_requested=stop,
    )  # fmt: skip


async def run(loop: Loop, found: tuple[Path, LoopState] | None) -> None:
    """Resume from the checkpoint `found`, or warm up and evaluate; then the loop, the summary and the report."""
    if found is not None and not found[1].warmup_left:
        await heeded(loop.stop_requested, resume(loop, *found))
    else:
        await begin(loop, found)
    try:
        await loop.run()
        await finish(loop)
    finally:
        loop.metrics.close()


async def resume(loop: Loop, folder: Path, state: LoopState) -> None:
    """Trainer, sampler, buffer and logs as they were; what was written after the checkpoint is written again, and what the stop
    left no time for is made up for."""
    log.info("resuming from %s", folder.name)
    await loop.fleet.trainer.call("load", folder=str(folder / "trainer"))
    loop.state = state
    loop.sampler.load_state_dict(state.sampler)
    loop.buffer.load_state_dict(state.buffer)
    loop.rewards.load_state_dict(state.rewards)
    loop.metrics.resume_at(state.iteration + 1)
    loop.rollout_log.resume_at(state.iteration + 1)
    await loop.fleet.hand_off(state.version)
    await loop.complete_last_row()
    if loop.cfg.save.exports != "latest":
        await loop.export()


async def begin(loop: Loop, found: tuple[Path, LoopState] | None = None) -> None:
    """First weights, first hand-off, the evaluation before RL, the first checkpoint. Raises Interrupted on a stop; what took
    long, the first weights, is saved once it is there, and a warm-up as far as it has come: `found` then."""
    loop.metrics.resume_at(0)
    loop.rollout_log.resume_at(0)
    await first_weights(loop, found)
    handed = await loop.hand_off()
    start = await loop.evaluated()
    loop.metrics.write({"iteration": 0, "version": 0, **start, **handed})
    await loop.save()
    if loop.stop_requested.is_set():
        raise Interrupted


async def first_weights(loop: Loop, found: tuple[Path, LoopState] | None) -> None:
    """The weights that RL starts from: the given folder's, or the tiny model after its warm-up, which goes on from `found`."""
    cfg, trainer, stop = loop.cfg, loop.fleet.trainer, loop.stop_requested
    if cfg.model.path is not None:
        await heeded(stop, trainer.call("init", source="hf"))
        return
    if found is None:
        await heeded(stop, trainer.call("init", source="random"))
        left = cfg.warmup.steps
    else:
        left = found[1].warmup_left
        log.info("resuming from %s, with %d steps of the warm-up left", found[0].name, left)
        await heeded(stop, trainer.call("load", folder=str(found[0] / "trainer")))
    loop.state.warmup_left = await warm_up(
        trainer, loop.tokenizer, cfg.warmup, cfg.seed, cfg.data.families, left=left, stop=stop
    )  # fmt: skip
    if loop.state.warmup_left:
        await loop.save()
        raise Interrupted


def canary(prompts: list[Prompt], tokenizer: TextTokenizer, limit: int) -> list[int]:
    """A fixed text of the run's own prompts, at most 64 tokens: engines and trainer must agree on its log-probs."""
    tokens: list[int] = []
    for prompt in prompts[:8]:
        tokens += tokenizer.encode_prompt(prompt.text)
    return tokens[: min(64, limit - 1)]


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(Path(sys.argv[1]))))
