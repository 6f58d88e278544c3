"""The tiny model's schooling before RL: supervised fine-tuning on generated solutions in a mixture of styles.

With steps only there is little for RL to find; with guesses, worked solutions and repaired slips side by side it can
discover that reasoning pays (docs/decisions.md).
"""

import asyncio

from k15.config.schema import WarmupConfig
from k15.data.arithmetic import warmup_examples
from k15.data.chat import answer
from k15.data.mixture import rise_and_fall
from k15.data.tokenizer import TextTokenizer
from k15.log import get_logger
from k15.runs.trainer_client import TrainerClient
from k15.types import Sample

log = get_logger("warmup")
LR_WARMUP_STEPS = 50


def learning_rate(step: int, cfg: WarmupConfig) -> float:
    """Linear rise over the first steps, then a cosine from lr to min_lr."""
    return rise_and_fall(step, cfg.steps, LR_WARMUP_STEPS, cfg.lr, cfg.min_lr)


def samples_of(examples: list[tuple[str, str]], tokenizer: TextTokenizer) -> list[Sample]:
    """(prompt, response) texts as samples; the response ends with the end-of-sequence token, and only it counts."""
    return [answer(prompt, response, tokenizer) for prompt, response in examples]


async def warm_up(
    trainer: TrainerClient, tokenizer: TextTokenizer, cfg: WarmupConfig, seed: int, families: list[str], *,
    left: int, stop: asyncio.Event,
) -> int:  # fmt: skip
    """Run the last `left` of `cfg.steps` supervised steps; how many of them a `stop` has left undone. The examples are drawn from
    the training split only, and their order counts: practice comes first, the mixture of styles last."""
    examples = warmup_examples(
        cfg.steps * cfg.batch_size,
        seed,
        guess_fraction=cfg.guess_fraction,
        slip_fraction=cfg.slip_fraction,
        checked_fraction=cfg.checked_fraction,
        families=families,
    )
    recent: list[float] = []
    for step in range(cfg.steps - left, cfg.steps):
        if stop.is_set():
            return cfg.steps - step
        batch = samples_of(examples[step * cfg.batch_size : (step + 1) * cfg.batch_size], tokenizer)
        result = await trainer.call("sft_step", samples=batch, lr=learning_rate(step, cfg))
        recent = [*recent[-19:], result["loss"]]
        if step % 50 == 0 or step + 1 == cfg.steps:
            log.info("warm-up step %d/%d loss %.4f", step + 1, cfg.steps, sum(recent) / len(recent))
    await trainer.call("reset_optimizer")
    return 0
