"""Held-out accuracy during a run: greedy and sampled, with 95 % intervals, on the engines that the loop uses."""

import asyncio
from collections.abc import Sequence

from k15.config.schema import RunConfig
from k15.data.tokenizer import TextTokenizer
from k15.eval.intervals import clustered_wilson
from k15.reward.router import Rewards
from k15.rollout.worker import RolloutWorker
from k15.types import Group, Prompt


class Evaluator:
    """`run()` answers each held-out prompt once greedily and `eval.samples` times at the rollout temperature."""

    def __init__(
        self,
        cfg: RunConfig,
        prompts: Sequence[Prompt],
        worker: RolloutWorker,
        rewards: Rewards,
        tokenizer: TextTokenizer,
    ) -> None:
        self.cfg = cfg
        self.prompts = list(prompts)
        self.worker = worker
        self.rewards = rewards
        self.tokenizer = tokenizer
        self._tokens = [tuple(tokenizer.encode_prompt(p.text)) for p in self.prompts]

    async def run(self) -> dict[str, float]:
        """eval_{greedy,sampled}_{accuracy,low,high,length} and eval_n (problems)."""
        result: dict[str, float] = {"eval_n": len(self.prompts)}
        for name, temperature, n in (
            ("greedy", 0.0, 1),
            ("sampled", self.cfg.rollout.temperature, self.cfg.eval.samples),
        ):
            verdicts, lengths = await self._answers(temperature, n)
            share = clustered_wilson(verdicts)
            result |= {
                f"eval_{name}_accuracy": share.estimate, f"eval_{name}_low": share.low, f"eval_{name}_high": share.high,
                f"eval_{name}_length": sum(lengths) / len(lengths),
            }  # fmt: skip
        return result

    async def _answers(self, temperature: float, n: int) -> tuple[list[list[bool]], list[int]]:
        """Verdicts by prompt and response lengths (tokens) of n answers to every prompt."""
        rollouts = await self.worker.sample(
            self._tokens,
            n=n,
            temperature=temperature,
            max_tokens=self.cfg.rollout.max_response_tokens,
            seed=self.cfg.seed,
        )
        verdicts, lengths = [], []
        for i, prompt in enumerate(self.prompts):
            mine = rollouts[i * n : (i + 1) * n]
            texts = [self.tokenizer.decode(r.response_tokens) for r in mine]
            scores = await asyncio.to_thread(self.rewards.score_group, Group(prompt, tuple(mine)), texts, 0, False)
            verdicts.append([s.correct for s in scores])
            lengths += [r.length for r in mine]
        return verdicts, lengths
