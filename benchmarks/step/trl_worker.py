"""TRL's GRPOTrainer on the same work, in an environment of its own: `python trl_worker.py SETTINGS.json OUT.json`.

Runs inside TRL's virtual environment. What is asked of it is in the settings file (see `trl_side.py`), what it did goes
to the output file: wall seconds and the generate/reward/train split of every step, and what was sampled.
The reward is k15's own code, so that both sides judge alike and pay the same for it.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from k15.reward.math import verdicts


class Clock(TrainerCallback):
    """Marks of one step: its begin, the reward's begin and end, its end."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.rewards: list[tuple[float, float]] = []
        self.sampled: list[list[dict]] = []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._end()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._end()

    def _end(self) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def steps(self) -> list[dict]:
        """Generation runs from the step's start to the first reward call; training is what follows the reward."""
        assert len(self.rewards) == len(self.ends) - 1, "one generation and one reward call a step"
        cpu = [after - before for before, after in pairwise(self.cpu)]
        marks = zip(self.ends, self.rewards, self.ends[1:], self.sampled, cpu, strict=False)
        return [
            {
                "wall_s": end - start, "generate_s": before - start, "reward_s": after - before, "train_s": end - after,
                "cpu_s": used, "samples": samples,
            }
            for start, (before, after), end, samples, used in marks
        ]  # fmt: skip


def config(s: dict, out: Path) -> GRPOConfig:
    """One generation and one optimizer step an iteration, fp32, no KL model, constant rate; no logging beyond losses."""
    samples = s["prompts_per_iteration"] * s["samples_per_prompt"]
    share = samples // int(os.environ.get("WORLD_SIZE", "1"))
    micro = min(s["micro_batch_samples"], share)
    return GRPOConfig(
        output_dir=str(out), use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, seed=s["seed"],
        per_device_train_batch_size=micro, gradient_accumulation_steps=share // micro,
        num_generations=s["samples_per_prompt"], max_completion_length=s["max_response_tokens"], max_steps=s["iterations"],
        temperature=s["temperature"], top_p=1.0, top_k=0, beta=0.0, num_iterations=1, learning_rate=s["lr"],
        lr_scheduler_type="constant", shuffle_dataset=False, mask_truncated_completions=False, report_to="none",
        save_strategy="no", logging_steps=1, disable_tqdm=True, dataloader_num_workers=0, **s["options"],
    )  # fmt: skip


def main() -> None:
    settings_path, out_path = Path(sys.argv[1]), Path(sys.argv[2])
    s = json.loads(settings_path.read_text())
    torch.set_num_threads(s["threads"])
    rows = [json.loads(line) for line in Path(s["prompts"]).read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(s["model"])
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32)
    clock = Clock()

    def correct(prompts, completions, completion_ids, answer, **_) -> list[float]:
        before = time.perf_counter()
        found = [float(v.correct) for v in verdicts(list(zip(completions, answer, strict=True)))]
        clock.rewards.append((before, time.perf_counter()))
        clock.sampled.append(
            [{"prompt": p, "length": len(ids), "reward": r} for p, ids, r in zip(prompts, completion_ids, found, strict=True)]
        )
        return found

    trainer = GRPOTrainer(
        model=model, reward_funcs=correct, args=config(s, out_path.parent), processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": r["prompt"], "answer": r["answer"]} for r in rows]), callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    trainer.save_model(s["export"])
    rank = int(os.environ.get("RANK", "0"))
    result = {
        "steps": clock.steps(),
        "prompt_ids": [tokenizer(text=r["prompt"])["input_ids"] for r in rows[: s["prompts_per_iteration"]]],
        "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "versions": {name: version(name) for name in ("trl", "transformers", "torch", "accelerate")},
    }
    out_path.with_suffix(f".{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
