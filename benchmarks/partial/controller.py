"""The controller of the benchmark's job: one trainer and one engine, and a loop for each budget, iteration by iteration in turn.

Turns put the arms under the same load, which on a shared machine drifts more than they differ. Each arm has its own sampler,
replay buffer, state and folder; weights are handed off after every iteration of every arm, as in any run. Started by the node
as `k15.runs.controller` is; K15_BUDGETS names the arms.
"""

import os
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from benchmarks.partial.arms import folder_of
from k15.config.compose import from_yaml
from k15.config.schema import RunConfig
from k15.data.tokenizer import load_tokenizer
from k15.log import MetricsWriter, RolloutLog
from k15.reward.router import Rewards
from k15.runs.controller import build_loop, canary
from k15.runs.fleet import Fleet
from k15.runs.head import Head, exit_code, open_head
from k15.runs.loop import Loop
from k15.runs.prepare import load_prompts
from k15.runs.state import Checkpoints


async def main(run_dir: Path) -> None:
    """All iterations of all arms. Raises K15Errors."""
    cfg = from_yaml((run_dir / "config.yaml").read_text())
    async with open_head() as head:
        fleet = _fleet(cfg, run_dir, head)
        try:
            await fleet.start()
            await fleet.trainer.call("init", source="hf")
            with Rewards(cfg.reward, cfg.seed) as rewards:
                arms = [_arm(cfg, int(b), fleet, rewards, head) for b in os.environ["K15_BUDGETS"].split(",")]
                await fleet.hand_off(0)
                for number in range(1, cfg.algo.iterations + 1):
                    for loop in arms:
                        assert fleet.engines.held is not None
                        loop.state.version = fleet.engines.held.version
                        loop.cfg.algo.iterations = number  # one more
                        await loop.run()
        finally:
            await fleet.stop()


def _fleet(cfg: RunConfig, run_dir: Path, head: Head) -> Fleet:
    model = Path(str(cfg.model.path))
    prompts, _ = load_prompts(cfg, load_tokenizer(model))
    text = canary(prompts, load_tokenizer(model), cfg.model.max_context_tokens)
    return Fleet(
        cfg, run_dir, model, head.rendezvous, head.rendezvous_path, head.agents, head.store, head.session, device=head.device,
        canary=text,
    )  # fmt: skip


def _arm(cfg: RunConfig, budget: int, fleet: Fleet, rewards: Rewards, head: Head) -> Loop:
    own, folder = deepcopy(cfg), folder_of(fleet.run_dir, budget)
    own.rollout.budget_tokens = budget
    folder.mkdir()
    tokenizer = load_tokenizer(Path(str(cfg.model.path)))
    prompts, held_out = load_prompts(own, tokenizer)
    loop = build_loop(own, fleet, rewards, tokenizer, prompts, held_out, Checkpoints(folder, keep=1), head.stop)
    return replace(loop, metrics=MetricsWriter(folder, tensorboard=False), rollout_log=RolloutLog(folder))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(Path(sys.argv[1]))))
