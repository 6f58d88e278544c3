"""The controller process: the report's central master. Builds the job's parts, then runs the loop. One a job, on the head node.

Started by the head node's agent as `python -m k15.runs.controller RUN_DIR`, with K15_RENDEZVOUS and K15_NODES in the
environment. Exit codes: 0 done, REQUEUE saved and to be requeued, 1 failed (the message is in the log).
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp

from k15.config.check import check
from k15.config.compose import from_yaml
from k15.config.schema import RunConfig
from k15.data.sampler import PromptSampler
from k15.data.tokenizer import TextTokenizer, load_tokenizer
from k15.errors import K15Error
from k15.log import MetricsWriter, RolloutLog, get_logger
from k15.node.client import AgentClient
from k15.node.rendezvous import Rendezvous
from k15.reward.router import Rewards
from k15.rollout.buffer import ReplayBuffer
from k15.rollout.client import EngineClient, engine_session
from k15.rollout.phase import OnEngineFailure
from k15.rollout.worker import RolloutWorker
from k15.runs.evaluate import Evaluator
from k15.runs.fleet import Fleet
from k15.runs.loop import Interrupted, Loop
from k15.runs.prepare import load_prompts, model_folder
from k15.runs.state import Checkpoints, LoopState
from k15.runs.summary import finish
from k15.runs.warmup import warm_up
from k15.weights.store import Store

log = get_logger("controller")
REQUEUE = 85


async def main(run_dir: Path) -> int:
    cfg = from_yaml((run_dir / "config.yaml").read_text())
    rendezvous_path = Path(os.environ["K15_RENDEZVOUS"])
    rendezvous = Rendezvous(**json.loads(rendezvous_path.read_text()))
    store = Store(rendezvous.etcd, f"/k15/{rendezvous.job}", password=rendezvous.etcd_password)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, stop.set)
    async with engine_session() as session:
        agents = await find_agents(store, session, rendezvous.token, int(os.environ["K15_NODES"]))
        fleet = Fleet(
            cfg, run_dir, model_folder(cfg, run_dir), rendezvous, rendezvous_path, agents, store, session,
            device=os.environ["K15_DEVICE"],
        )  # fmt: skip
        try:
            await run(cfg, run_dir, fleet, stop)
        except Interrupted:
            log.warning("stopped by the signal before the time limit; everything is saved, the job is to be requeued")
            return REQUEUE
        finally:
            await fleet.stop()
    return 0


async def find_agents(store: Store, session: aiohttp.ClientSession, token: str, count: int) -> list[AgentClient]:
    """Wait until all `count` agents have registered; in node order."""
    for _ in range(300):
        found = {
            int(k.rsplit("/", 1)[1]): json.loads(v)
            for k, v in (await asyncio.to_thread(store.prefix, "agents/")).items()
        }
        if len(found) == count:
            return [AgentClient(session, found[rank]["url"], token, rank) for rank in sorted(found)]
        await asyncio.sleep(1.0)
    raise K15Error(f"only {len(found)} of {count} agents registered within 300 s; see logs/ in the run folder.")


async def run(cfg: RunConfig, run_dir: Path, fleet: Fleet, stop: asyncio.Event) -> None:
    """Start everything, warm up or resume, then the loop, then the summary and the report."""
    tokenizer = load_tokenizer(fleet.model_dir, chat=cfg.model.chat)
    train_prompts, eval_prompts = load_prompts(cfg, tokenizer)
    checkpoints = Checkpoints(run_dir, cfg.save.keep)
    found = checkpoints.latest()
    log.info("starting %d trainer ranks and %d engines", cfg.parallel.ranks_per_node * len(fleet.agents),
             cfg.rollout.engines_per_node * len(fleet.agents))  # fmt: skip
    trainer, _ = await asyncio.gather(fleet.start_trainer(), fleet.start_engines())
    rewards = Rewards(cfg.reward)
    worker = RolloutWorker(
        [e.client for e in fleet.engines], cfg.rollout, cfg.seed, max_context_tokens=cfg.model.max_context_tokens,
        on_engine_failure=engine_medic(fleet),
    )  # fmt: skip
    loop = Loop(
        cfg, fleet, worker, rewards, PromptSampler(train_prompts, cfg.sampler, cfg.seed), ReplayBuffer(), tokenizer,
        Evaluator(cfg, eval_prompts, worker, rewards, tokenizer),
        MetricsWriter(run_dir, tensorboard=cfg.log.tensorboard, wandb_project=cfg.log.wandb_project),
        RolloutLog(run_dir), checkpoints, stop_requested=stop,
    )  # fmt: skip
    fleet.set_canary(canary(train_prompts, tokenizer, cfg.model.max_context_tokens))
    if found is not None:
        folder, state = found
        log.info("resuming from %s", folder.name)
        await trainer.call("load", folder=str(folder / "trainer"))
        loop.state = state
        loop.sampler.load_state_dict(state.sampler)
        loop.buffer.load_state_dict(state.buffer)
        loop.metrics.resume_at(state.iteration + 1)
        loop.rollout_log.resume_at(state.iteration + 1)
        await fleet.hand_off(state.version)
    else:
        loop.metrics.resume_at(0)
        loop.rollout_log.resume_at(0)
        await first_weights(cfg, fleet, tokenizer)
        handed = await fleet.hand_off(0)
        start = await loop.evaluator.run()
        loop.state = LoopState(start=start)
        loop.metrics.write({"iteration": 0, "version": 0, **start, **handed})
        log.info("before RL: %s", start)
        await loop.save()
    try:
        await loop.run()
        await finish(cfg, run_dir, loop)
    finally:
        rewards.close()
        loop.metrics.close()


async def first_weights(cfg: RunConfig, fleet: Fleet, tokenizer: TextTokenizer) -> None:
    """The weights that RL starts from: the given folder's, or the tiny model after its warm-up."""
    assert fleet.trainer is not None
    if cfg.model.path is not None:
        await fleet.trainer.call("init", source="hf")
        return
    await fleet.trainer.call("init", source="random")
    await warm_up(fleet.trainer, tokenizer, cfg.warmup, cfg.seed, cfg.data.families)


def canary(prompts, tokenizer: TextTokenizer, limit: int) -> list[int]:  # noqa: ANN001
    """A fixed text of the run's own prompts, at most 64 tokens: engines and trainer must agree on its log-probs."""
    tokens: list[int] = []
    for prompt in prompts[:8]:
        tokens += tokenizer.encode_prompt(prompt.text)
    return tokens[: min(64, limit - 1)]


def engine_medic(fleet: Fleet) -> OnEngineFailure:
    """What the rollout worker does about a failed engine: restart it with the current weights, one healer at a time."""
    locks = {e.name: asyncio.Lock() for e in fleet.engines}

    async def heal(client: EngineClient, error: Exception) -> EngineClient:
        engine = next(e for e in fleet.engines if e.client is client)
        async with locks[engine.name]:
            log.warning("%s: %s", engine.name, error)
            await fleet.heal(engine)
        return engine.client

    return heal


def entry() -> int:
    run_dir = Path(sys.argv[1])
    try:
        check(from_yaml((run_dir / "config.yaml").read_text()), nodes=int(os.environ["K15_NODES"]))
        return asyncio.run(main(run_dir))
    except K15Error as error:
        log.error("%s: %s", type(error).__name__, error)
        return 1


if __name__ == "__main__":
    sys.exit(entry())
